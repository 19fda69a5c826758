"""Strict by default: four virtual CPU devices, no silent promotion of shapes or dtypes, shapes checked at run time."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
from jaxtyping import install_import_hook

from jaxrl.running.devices import prepare_devices

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Many tests build the same programs anew; they are compiled once a session, and never taken from an older one.
_COMPILED = tempfile.mkdtemp(prefix="jaxrl-compiled-")
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

prepare_devices(4, "")

install_import_hook(["models", "jaxrl.algorithms"], "beartype.beartype")
