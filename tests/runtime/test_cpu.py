"""What a compiled program frees is there for its next call."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import jax
import pytest

from jaxrl.runtime import cpu as heap

# Counts the page faults of a program's third call, with 8 temporaries of 16 MiB that live at the same time.
SCRIPT = """
import resource
from jaxrl.runtime.devices import prepare_devices
prepare_devices(0, "")
import jax, jax.numpy as jnp

@jax.jit
def program(x):
    return sum(jnp.sum(part) for part in jax.lax.optimization_barrier([x * i for i in range(8)]))

x = jnp.ones((2048, 2048))
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_program_that_ran_before_gets_no_new_pages():
    assert faults() < 1000


def test_what_the_user_has_set_for_malloc_stands():
    """In pages of 4 KiB, of which 16 MiB are 4096."""
    assert faults(MALLOC_TOP_PAD_="131072") > 4096


@pytest.fixture
def no_settings(monkeypatch):
    """malloc as if nobody had set it, a system of which nothing is known, and what `mallopt` was asked for."""
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    asked = []
    library = type("Library", (), {"mallopt": staticmethod(lambda *pair: asked.append(pair) or 1)})
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("glibc", "2.36"))
    return asked


@pytest.mark.parametrize(
    ("told", "plugins", "kept"),
    [
        ("cpu", ["cuda"], True),
        ("", [], True),
        ("", ["cuda"], False),
        ("cuda,cpu", ["cuda"], False),
    ],
)
def test_only_where_jax_runs_on_the_cpu(monkeypatch, no_settings, told, plugins, kept):
    monkeypatch.setattr(heap, "entry_points", lambda group: [EntryPoint(name, name, group) for name in plugins])
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", told)
        assert heap.keep_memory() is kept and bool(no_settings) is kept
    finally:
        jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_nothing_is_asked_for_beside_the_users_settings(monkeypatch, no_settings, variable):
    monkeypatch.setenv(variable, "glibc.malloc.hugetlb=1")
    assert not heap.keep_memory() and not no_settings


def test_nothing_is_asked_for_without_glibc(monkeypatch, no_settings):
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("", ""))
    assert not heap.keep_memory() and not no_settings
