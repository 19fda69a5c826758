"""Speed and host memory of importing and exporting a 6 GiB checkpoint, compared with the speed of the disk.

    python benchmarks/weights.py [--folder=FOLDER] [--layers=36]

A random bfloat16 model of the shape of Qwen2.5-3B, in four files, is loaded, and converted by `jaxrl.convert` and
`jaxrl.export`, each in its own process. The exported files are compared with the original ones, byte by byte. Files are
dropped from the page cache before they are read. Peaks are of the resident memory, including mapped pages of files.
Needs about 20 GB of disk in FOLDER (default: the folder for temporary files).
"""

import argparse
import dataclasses
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from models.config import preset
from models.folder import CONFIG, INDEX
from models.hf_names import tensor_specs
from models.safetensors_file import write_file

FILES = 4
GIB = 2**30


def make_checkpoint(folder: Path, layers: int) -> int:
    """Writes the model. Returns the size of its weights in bytes."""
    config = dataclasses.replace(preset("3b"), num_hidden_layers=layers)
    shapes = {name: slot.shape for name, slot in tensor_specs(config).items()}
    kind, generator = np.dtype(ml_dtypes.bfloat16), np.random.default_rng(0)
    folder.mkdir()
    names = np.array_split(list(shapes), FILES)
    weight_map = {}
    for number, part in enumerate(names, start=1):
        path = f"model-{number:05d}-of-{FILES:05d}.safetensors"
        weight_map |= dict.fromkeys(map(str, part), path)
        tensors = {str(name): (kind, shapes[str(name)]) for name in part}
        # Random bits with small exponents: finite values that do not repeat.
        values = (generator.integers(0, 0x3FFF, shape, np.uint16).view(kind) for _, shape in tensors.values())
        write_file(folder / path, tensors, values, {"format": "pt"})
    size = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (folder / CONFIG).write_text(json.dumps(config.to_hugging_face() | {"torch_dtype": "bfloat16"}, indent=2) + "\n")
    return size


def drop(folder: Path) -> None:
    """Flushes the files of a folder and drops them from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(folder: Path) -> float:
    """Seconds to read all files of a folder sequentially."""
    began = time.perf_counter()
    buffer = bytearray(16 << 20)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    return time.perf_counter() - began


# Not `ru_maxrss`, which starts with the peak of the parent process.
_PEAK = """
with open("/proc/self/status") as status:
    print("peak", next(line for line in status if line.startswith("VmHWM")).split()[1])
"""
_COMMAND = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    if end.code:
        raise
"""
_LOAD = """
import sys
import jax
from models.convert import load_params
from models.folder import read_config
params = jax.block_until_ready(load_params(sys.argv[1], read_config(sys.argv[1])))
"""


def measured(program: str, *words: str) -> tuple[float, int]:
    """(seconds, peak memory in bytes) of a program in its own process."""
    began = time.perf_counter()
    line = [sys.executable, "-c", program + _PEAK, *words]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - began, int(done.stdout.rpartition("peak ")[2]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=36)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        source, run, out = home / "model", home / "run", home / "export"
        size = make_checkpoint(source, args.layers)
        drop(source)
        reading = read_all(source)
        drop(source)
        print(f"{size / GIB:.2f} GiB of bfloat16 in {FILES} files; plain reading {size / reading / 1e9:.2f} GB/s")
        idle = measured(_COMMAND, "jaxrl.convert", "--help")[1]
        for name, program, words, read, held in (
            ("load_params, arrays on the CPU", _LOAD, (str(source),), source, size),
            ("convert", _COMMAND, ("jaxrl.convert", f"--input={source}", f"--output={run}"), source, 0),
            ("export", _COMMAND, ("jaxrl.export", f"--checkpoint={run}", f"--output={out}"), run, 0),
        ):
            drop(read)
            seconds, peak = measured(program, *words)
            print(
                f"{name}: {seconds:.1f} s, {size / seconds / 1e9:.2f} GB/s, peak {peak / GIB:.2f} GiB, "
                f"{(peak - held - idle) / GIB:.2f} GiB above the idle program's {idle / GIB:.2f}"
                + (" and the arrays" if held else ""),
                flush=True,
            )
        names = sorted(path.name for path in source.iterdir())
        same = filecmp.cmpfiles(source, out, names, shallow=False)[0]
        print(f"{len(same)} of {len(names)} files are identical")
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
