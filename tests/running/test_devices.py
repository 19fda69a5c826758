"""What has to be set before JAX touches a device, and what a user has set already."""

import os

import pytest

from jaxrl.running.devices import MEMORY_SHARE, prepare_devices

ASKED = "XLA_CLIENT_MEM_FRACTION"
RELATIVES = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv(ASKED, "")  # so that it is put back as it was
    for name in (ASKED, *RELATIVES):
        monkeypatch.delenv(name, raising=False)


def test_a_gpu_gives_what_the_plan_counts_on():
    prepare_devices(0, "")
    assert float(os.environ[ASKED]) == MEMORY_SHARE


@pytest.mark.parametrize(("name", "value"), [(ASKED, "0.5"), *((name, "0.5") for name in RELATIVES)])
def test_what_the_user_has_set_stands(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    prepare_devices(0, "")
    assert os.environ[name] == value
    assert name == ASKED or ASKED not in os.environ
