"""Peak rates of devices, and the utilization (MFU) that a step reports."""

import pytest

from jaxrl.reporting.writers import read_metrics
from jaxrl.runtime.hardware import peak_flops
from jaxrl.training import step_metrics


@pytest.mark.parametrize(
    ("kind", "dtype", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA A100-SXM4-80GB", "float32", None),
        ("cpu", "bfloat16", None),
    ],
)
def test_peak_by_kind(kind, dtype, peak):
    assert peak_flops(kind, dtype) == peak


def test_a_step_on_a_known_device_reports_its_utilization(small, tmp_path, monkeypatch):
    monkeypatch.setattr(
        step_metrics, "peak_flops", lambda kind, dtype: 1e6 if (kind, dtype) == ("cpu", "float32") else None
    )
    run = small.run(small.fields(tmp_path / "run", {"evaluation.every": 0}))
    run.train()
    record = read_metrics(tmp_path / "run" / "metrics.jsonl")[1]
    needed = record["speed/update_mfu"] * record["time/update"] * run.components.mesh.devices.size * 1e6
    parameters = 16 * 288 + 2 * (16 * 8 * (2 * 2 + 2) + 3 * 16 * 32)
    assert 6 * parameters * record["tokens/update"] < needed < 8 * parameters * record["tokens/update"]
