"""Devices that sample beside the one that learns."""

import numpy as np

from jaxrl.runtime import cpu, devices
from jaxrl.runtime.devices import learning_devices, sampling_devices


def test_a_run_is_independent_of_the_devices_that_sample(small, judged, tmp_path):
    """One device learns, and one or four sample: the same numbers, with rows on every device."""
    runs = {}
    for count in (0, 4):
        changes = {"devices": 1, "sampler.devices": count, "stages.stage2.steps": 1, "stages.stage3.steps": 1}
        runs[count] = small.run(small.fields(tmp_path / str(count), changes))
        assert runs[count].components.mesh.size == 1 and runs[count].components.sampler.devices == max(count, 1)
        runs[count].train()
    one, four = (small.numbers(tmp_path / str(count)) for count in (0, 4))
    for record in one + four:
        record.pop("tokens/slot_occupancy", None)  # 64 slots are less occupied than 16, as there are too few rows
    assert one == four
    for one, four in zip(small.params(tmp_path / "0"), small.params(tmp_path / "4"), strict=True):
        np.testing.assert_array_equal(one, four)


def test_devices_for_learning_and_for_sampling(monkeypatch):
    here = devices.jax.devices()
    assert (learning_devices(0), learning_devices(2)) == (here, here[:2])
    assert (sampling_devices(0), sampling_devices(3), sampling_devices(-1)) == (None, here[:3], here[: cpu.cores()])
    monkeypatch.setattr(devices.jax, "process_count", lambda: 2)  # each process has devices of its own
    assert (learning_devices(2), sampling_devices(3)) == (here, None)
