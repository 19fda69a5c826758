"""Settings before JAX initializes its backends, and processes that a scheduler has started."""

import os
from importlib.machinery import ModuleSpec

import jax
import pytest

from jaxrl.runtime.devices import MEMORY_SHARE, prepare_devices
from jaxrl.runtime.multihost import join_processes, launched_by_scheduler

VARIABLE = "XLA_CLIENT_MEM_FRACTION"
OTHER_VARIABLES = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")  # restores the variable after the test
    for name in (VARIABLE, *OTHER_VARIABLES):
        monkeypatch.delenv(name, raising=False)


def test_a_gpu_has_the_memory_that_the_plan_assumes():
    prepare_devices(0, "")
    assert float(os.environ[VARIABLE]) == MEMORY_SHARE


@pytest.mark.parametrize(("name", "value"), [(VARIABLE, "0.5"), *((name, "0.5") for name in OTHER_VARIABLES)])
def test_settings_of_the_user_take_precedence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    prepare_devices(0, "")
    assert os.environ[name] == value
    assert name == VARIABLE or VARIABLE not in os.environ


def srun(tasks, hosts=1):
    return {"SLURM_STEP_NODELIST": "host[1-2]", "SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_NODES": str(hosts)}


INDEXED = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        (srun(2), True),
        (srun(1) | {"SLURM_ARRAY_TASK_ID": "3"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, False),  # within sbatch or salloc, without srun
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        (INDEXED, True),
    ],
)
def test_processes_started_by_a_scheduler_are_recognized(monkeypatch, environment, several):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_by_scheduler() is several


def test_a_process_that_cannot_find_the_others_does_not_run_alone(monkeypatch):
    for name, value in INDEXED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"expected --coordinator, .*jax\[k8s\].* or --processes=1"):
        launched_by_scheduler()


# JAX's default under Slurm is one GPU per process, even if the process is alone on its host.
@pytest.mark.parametrize(
    ("given", "environment", "devices"),
    [
        ((), srun(2, hosts=2), []),
        ((), srun(8, hosts=2), None),
        (("host:1", 2, 0), srun(2, hosts=2), []),
        (("host:1", 2, 0), {}, []),
        ((), INDEXED, []),
    ],
)
def test_a_process_alone_on_its_host_uses_all_devices(monkeypatch, given, environment, devices):
    seen = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: seen.append((args, options)))
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    join_processes(*given)
    ((args, options),) = seen
    assert args == (given or (None, None, None)) and options["local_device_ids"] == devices


def test_a_failure_to_join_is_one_sentence(monkeypatch):
    def fails(*args, **options):
        raise RuntimeError("Kubernetes API Error: 403 - Forbidden\nIt appears that")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    with pytest.raises(OSError, match="cannot join the other processes: Kubernetes API Error: 403 - Forbidden It"):
        join_processes("host:1", 2, 0)
