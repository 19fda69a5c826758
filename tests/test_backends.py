"""Law 9: backends stay outside the core (see also test_layers): who chooses kernels, and who writes XLA_FLAGS."""

from pathlib import Path

from models.backends import decode_kernels, training_kernels
from models.cpu import DecodeKernels, TrainingKernels
from models.kernels import Kernels

ROOT = Path(__file__).parents[1]


def test_only_one_module_writes_xla_flags():
    writers = [
        str(path.relative_to(ROOT))
        for folder in ("models", "jaxrl", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if "XLA_FLAGS" in path.read_text(encoding="utf-8")
    ]
    assert writers == ["jaxrl/runtime/xla_flags.py"]


def test_the_platform_chooses_the_kernels():
    assert (training_kernels("cpu"), decode_kernels("cpu")) == (TrainingKernels(), DecodeKernels())
    for platform in ("gpu", "cuda", ""):
        assert type(training_kernels(platform)) is type(decode_kernels(platform)) is Kernels
