"""The house stands on its layers: a module imports only from rows above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = (
    "data_gen",
    "models",
    "jaxrl.runtime",
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
    "jaxrl",
)
# Rows that know nothing of arrays on devices, and what counts as one.
PLAIN = ("data_gen", "jaxrl.rewards")
ARRAYS = ("jax", "flax", "optax", "orbax")
FILES = sorted(path for folder in ("data_gen", "models", "jaxrl", "configs") for path in (ROOT / folder).rglob("*.py"))


def row_of(module: str) -> int | None:
    """The row that a module belongs to; None for one that is not ours."""
    for place, row in enumerate(ROWS[:-1]):
        if module == row or module.startswith(f"{row}."):
            return place
    return len(ROWS) - 1 if module == "jaxrl" or module.startswith("jaxrl.") else None


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from jaxrl import x` may name a room
            rooms = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= rooms if node.module == "jaxrl" else {node.module}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_rows_above_it(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    mine = row_of(module)
    for name in imports_of(path):
        if module.startswith("configs"):
            assert name.split(".")[0] in ("ml_collections", "configs"), f"{module} imports {name}"
            continue
        other = row_of(name)
        assert other is None or other <= mine, f"{module} imports {name} from a row below"
        assert not (ROWS[mine] in PLAIN and name.split(".")[0] in ARRAYS), f"{module} imports {name}"
        assert not name.startswith("configs"), f"{module} imports {name}: only commands see configs, by file"


def test_rows_name_every_folder():
    rooms = {f"jaxrl.{path.name}" for path in (ROOT / "jaxrl").iterdir() if (path / "__init__.py").exists()}
    assert rooms == {row for row in ROWS if row.startswith("jaxrl.")}
