"""The structure of the tree: layers, sizes, names, and backends outside the core."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.check

ROOT = Path(__file__).parents[1]
# A module imports only from its own layer and from layers above it in this list.
LAYERS = (
    "data_gen",
    "models",
    "jaxrl.runtime",
    "jaxrl.answers",
    "jaxrl.rewards",
    "jaxrl.algorithms",
    "jaxrl.sampling",
    "jaxrl.tasks",
    "jaxrl.learning",
    "jaxrl.checkpointing",
    "jaxrl.evaluation",
    "jaxrl.reporting",
    "jaxrl.inference",
    "jaxrl.base_model",
    "jaxrl.training",
    "jaxrl.planning",
    "jaxrl.sweeps",
    "jaxrl",  # the commands
)
# Layers that must not import an array library.
PLAIN_PYTHON = ("data_gen", "jaxrl.answers", "jaxrl.rewards")
ARRAY_LIBRARIES = ("jax", "flax", "optax", "orbax")
# Code that must not depend on a backend. What exists for XLA's CPU backend is in these two modules.
CORE = ("models/qwen2.py", "jaxrl/algorithms", "jaxrl/sampling", "jaxrl/learning", "jaxrl/training")
CPU_MODULES = re.compile(r"\b(models|jaxrl\.runtime)\.cpu\b|\bfrom (models|jaxrl\.runtime) import cpu\b")

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
LARGEST_PACKAGE = 0.12

PRODUCT = sorted(
    path for folder in ("data_gen", "models", "jaxrl", "configs") for path in (ROOT / folder).rglob("*.py")
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def layer_of(module: str) -> int | None:
    """Index of a module's layer; None for a module of another project."""
    for index, layer in enumerate(LAYERS[:-1]):
        if module == layer or module.startswith(f"{layer}."):
            return index
    return len(LAYERS) - 1 if module == "jaxrl" or module.startswith("jaxrl.") else None


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from jaxrl import x` may import a package.
            packages = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= packages if node.module == "jaxrl" else {node.module}
    return names


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_a_module_imports_only_layers_above_it(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    layer = layer_of(module)
    for name in imports_of(path):
        if module.startswith("configs"):
            assert name.split(".")[0] in ("ml_collections", "configs"), f"{module} imports {name}"
            continue
        other = layer_of(name)
        assert other is None or other <= layer, f"{module} imports {name}, which is in a lower layer"
        if LAYERS[layer] in PLAIN_PYTHON:
            assert name.split(".")[0] not in ARRAY_LIBRARIES, f"{module} imports {name}"
        assert not name.startswith("configs"), f"{module} imports {name}: only commands load configs, by file"


def test_every_package_has_a_layer():
    packages = {f"jaxrl.{path.name}" for path in (ROOT / "jaxrl").iterdir() if (path / "__init__.py").exists()}
    assert packages == {layer for layer in LAYERS if layer.startswith("jaxrl.")}


def test_no_package_exceeds_its_share_of_the_product():
    """A package that outgrows the others has more than one role."""
    lines = Counter()
    for path in PRODUCT:
        lines[".".join(path.relative_to(ROOT).parent.parts[:2])] += line_count(path)
    total = lines.total()
    assert {name: count for name, count in lines.items() if count > LARGEST_PACKAGE * total} == {}, total


def test_no_file_and_no_function_is_too_long():
    too_long = [name_of(path) for path in PRODUCT if line_count(path) > LONGEST_FILE]
    for path in PRODUCT:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    too_long.append(f"{name_of(path)}:{node.lineno} {node.name}, {length} lines")
    assert too_long == []


def test_class_names_are_unique():
    files = defaultdict(list)
    for path in PRODUCT:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                files[node.name].append(name_of(path))
    assert {name: paths for name, paths in files.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("part", CORE)
def test_the_core_does_not_mention_a_cpu(part):
    paths = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
    assert paths
    mentions = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search("cpu", CPU_MODULES.sub("", line), re.IGNORECASE):
                mentions.append(f"{name_of(path)}:{number}: {line.strip()}")
    assert mentions == []
