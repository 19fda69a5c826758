"""The choice of kernels: the one place of the model code that looks at the platform."""

from jax.sharding import AbstractMesh, Mesh

from models import cpu
from models.kernels import Kernels


def platform_of(mesh: Mesh | AbstractMesh) -> str:
    """The JAX platform of a mesh's devices; "" for an abstract mesh."""
    return mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else ""


def training_kernels(platform: str) -> Kernels:
    """Kernels of a model that is trained, or run over whole rows."""
    return cpu.TrainingKernels() if platform == "cpu" else Kernels()


def decode_kernels(platform: str) -> Kernels:
    """Kernels of a model that decodes with a cache."""
    return cpu.DecodeKernels() if platform == "cpu" else Kernels()
