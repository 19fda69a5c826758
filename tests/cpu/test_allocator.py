"""Memory that a compiled program frees is reused by its next call."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import jax
import pytest

from jaxrl.runtime import cpu
from jaxrl.runtime.xla_flags import add_xla_flags

pytestmark = pytest.mark.slow

# Counts the page faults of a program's third call, with 8 temporaries of 16 MiB alive at the same time.
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


def test_the_third_call_of_a_program_gets_no_new_pages():
    """With malloc's defaults it is about 29,500 pages of 4 KiB, and fewer where the system maps huge pages."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000


@pytest.fixture
def no_settings(monkeypatch):
    """An environment without malloc settings, and a fake glibc; gives the list of calls of `mallopt`."""
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    calls = []
    library = type("Library", (), {"mallopt": staticmethod(lambda *pair: calls.append(pair) or 1)})
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(cpu.platform, "libc_ver", lambda: ("glibc", "2.36"))
    return calls


@pytest.mark.parametrize(
    ("platforms", "plugins", "kept"),
    [
        ("cpu", ["cuda"], True),
        ("", [], True),
        ("", ["cuda"], False),
        ("cuda,cpu", ["cuda"], False),
    ],
)
def test_memory_is_kept_only_where_jax_runs_on_the_cpu(monkeypatch, no_settings, platforms, plugins, kept):
    monkeypatch.setattr(cpu, "entry_points", lambda group: [EntryPoint(name, name, group) for name in plugins])
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", platforms)
        assert cpu.keep_memory() is kept and bool(no_settings) is kept
    finally:
        jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"])
def test_mallopt_is_not_called_beside_settings_of_the_user(monkeypatch, no_settings, variable):
    monkeypatch.setenv(variable, "glibc.malloc.hugetlb=1")
    assert not cpu.keep_memory() and not no_settings


def test_mallopt_is_not_called_without_glibc(monkeypatch, no_settings):
    monkeypatch.setattr(cpu.platform, "libc_ver", lambda: ("", ""))
    assert not cpu.keep_memory() and not no_settings


def test_xla_flags_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    add_xla_flags("--xla_cpu_multi_thread_eigen=false", "--xla_other=1")
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true --xla_other=1"
    monkeypatch.delenv("XLA_FLAGS")
    add_xla_flags("--xla_other=1")
    assert os.environ["XLA_FLAGS"] == "--xla_other=1"
