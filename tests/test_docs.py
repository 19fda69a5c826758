"""The README and docs/ agree with the code: files, links, commands, flags, fields, messages, and examples that run."""

import importlib
import importlib.util
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

from configs import base
from jaxrl.algorithms import RECIPES, LossSpec
from jaxrl.algorithms.advantages import ADVANTAGES
from jaxrl.algorithms.losses import REDUCTIONS
from jaxrl.rewards import score
from jaxrl.tasks import registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}


def matches(pattern):
    """(page, match, *groups) of a regular expression in all pages."""
    return [(page, *match) for page, text in TEXTS.items() for match in re.findall(f"({pattern})", text)]


def test_links_resolve():
    links = matches(r"\]\(((?!https?:)[^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"")
    broken = [(page, link) for page, _, *links in links for link in links
              if link and not (ROOT / page).parent.joinpath(link).exists()]  # fmt: skip
    assert len(links) > 5 and broken == []


def test_commands_and_config_files_exist():
    modules = {name for _, _, name in matches(r"-m ((?:jaxrl|data_gen)\.\w+)")}
    assert {"jaxrl.train", "jaxrl.evaluate", "jaxrl.report"} < modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    files = {name for _, _, name in matches(r"(configs/\w+(?:/\w+)*\.py)") if not name.endswith("/FILE.py")}
    assert len(files) > 5 and [name for name in files if not (ROOT / name).is_file()] == []


def test_flags_in_code_are_known_to_their_commands():
    wrong = []
    for page, text in TEXTS.items():
        for module, rest in re.findall(r"-m ((?:jaxrl|data_gen)\.\w+)([^\n`#|]*)", text.replace("\\\n", " ")):
            known = importlib.import_module(module).make_parser().flags()
            for flag in re.findall(r"--[a-z][\w-]*", rest):
                if flag.replace("_", "-") not in known:
                    wrong.append((page, module, flag))
    assert wrong == []


def test_config_fields_exist():
    from configs import three_stage

    known = set()
    for config in (base.single(base.get_stage(), "one", ""), three_stage.get_config()):
        known |= {name for path, _ in walk(config.to_dict()) for name in prefixes(path)}
    fields = {name.rstrip(".") for _, _, name in matches(r"config\.([a-z][\w.]*)") if not name.endswith(("py", "json"))}
    unknown = {name for name in fields if name not in known and name != "field"}
    assert len(fields) > 15 and unknown == set()


def walk(tree, path=()):
    for name, value in tree.items():
        yield (*path, name), value
        if isinstance(value, dict):
            yield from walk(value, (*path, name))


def prefixes(path):
    return [".".join(path[:end]) for end in range(1, len(path) + 1)]


def test_messages_quoted_in_troubleshooting_are_in_the_code():
    """They are in bold code. `foreign` lists messages of XLA, the kernel and other libraries."""
    foreign = ("RESOURCE_EXHAUSTED", "out of memory", "No space left on device", "disk quota", "Expected 2 threads",
               "Did you mean", "Error reading persistent")  # fmt: skip
    code = "\n".join(path.read_text(encoding="utf-8") for folder in ("jaxrl", "models", "data_gen")
                     for path in (ROOT / folder).rglob("*.py"))  # fmt: skip
    code = re.sub(r"[\"']\s*\n\s*f?[\"']", "", code)  # joins literals that span several lines
    quoted = [quote for head in re.findall(r"^\*\*(.+?)\*\*", TEXTS["docs/troubleshooting.md"], re.MULTILINE)
              for quote in re.findall(r"`([^`]+)`", head)]  # fmt: skip
    missing = []
    for quote in quoted:
        parts = [part.strip() for part in re.split(r"\.\.\.|runs/stage1", quote) if part.strip()]
        if not quote.startswith((*foreign, ":")) and not all(part in code for part in parts):
            missing.append(quote)
    assert len(quoted) > 12 and missing == []


def test_the_tree_of_the_readme_equals_the_tree():
    """All its paths exist, and it has every module of the listed folders and every package."""
    tree = re.search(r"## The tree\s+```\n(.*?)```", TEXTS["README.md"], re.DOTALL)[1]
    folder, paths = ROOT, set()
    for line in tree.splitlines():
        indent, names = len(line) - len(line.lstrip()), re.split(r"\s{2,}", line.strip())[0].split()
        if indent == 0:
            folder = ROOT / names[0]
        if indent <= 2:  # deeper lines continue a description
            paths |= {(folder / name if indent else ROOT / name) for name in names}
    present = {path for name in ("configs", "data_gen", "models") for path in (ROOT / name).glob("*.py")}
    present |= {path.parent for path in (ROOT / "jaxrl").glob("*/__init__.py")}
    assert [path for path in paths if not path.exists()] == []
    assert {path for path in present if path.name != "__init__.py"} <= paths


def test_dotted_names_in_code_spans_exist():
    """For example `jaxrl.algorithms.losses.LossSpec`."""
    names = {name for _, _, name in matches(r"`((?:jaxrl|models|data_gen)(?:\.[a-zA-Z]\w*)+)")}
    missing = []
    for name in names:
        path, (module, _, attribute) = ROOT / name.replace(".", "/"), name.rpartition(".")
        is_module = path.is_dir() or path.with_suffix(".py").is_file()
        if not is_module and not hasattr(importlib.import_module(module), attribute):
            missing.append(name)
    assert "jaxrl.algorithms.recipes.RECIPES" in names and missing == []


def test_the_table_of_algorithms_equals_RECIPES():
    """Each row lists advantage, surrogate, clipping, reduction and KL, and every other field that is not a default."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXTS["docs/algorithms.md"].splitlines()
        if re.match(r"\| `\w+` \| `\w+` \| \w+: ", line)
    ]
    named = (
        "max_length",
        "gamma",
        "lam",
        "value_clip",
        "dual_clip",
        "importance_cap",
        "entropy_coefficient",
        "drop_equal",
        "refills",
        "overlong_buffer",
    )
    expected, rows = [], {line[0].strip("`"): line for line in lines}
    for name, row in RECIPES.items():
        levels = {"clip": "token", "clipped_weight": "token", "sequence_clip": "row", "likelihood": "none"}
        low = f"{row.clip_low:g}" if row.surrogate.removeprefix("sequence_") == "clip" else "-"
        high = "-" if row.surrogate == "likelihood" else f"{row.clip_high:g}"
        kl = "none" if row.kl_placement == "none" else f"{row.kl} in the {row.kl_placement}, {row.kl_coefficient:g}"
        assert name in rows, name
        expected.append(
            [
                f"`{name}`",
                f"`{row.advantage}`",
                f"{levels[row.surrogate]}: `{row.surrogate}` {low}, {high}",
                f"`{row.reduction}`",
                kl,
                *rows[name][5:],
            ]
        )
        changed = {field: getattr(row, field) for field in named if getattr(row, field) != getattr(LossSpec(), field)}
        for field, value in changed.items():
            assert f"`{field}" in rows[name][5], (name, field)
            assert f"`{field}={value}`" in rows[name][5] or field == "max_length", (name, field)
        assert rows[name][5].count("`") == 2 * len(changed)
        assert "arXiv" in rows[name][6]
    assert lines == expected


def test_the_terms_in_algorithms_equal_those_of_the_code():
    words = set(re.findall(r"^\| `(\w+)` \| [^`|]+ \|$", TEXTS["docs/algorithms.md"], re.MULTILINE))
    assert words == {*ADVANTAGES, *REDUCTIONS} - {"supervised"}


def test_the_example_in_algorithms_runs():
    code = re.search(r"```python\n(.*?)```", TEXTS["docs/algorithms.md"], re.DOTALL)[1]
    grid = jnp.linspace(-2.0, -0.1, 24).reshape(4, 6)
    names = {
        "rewards": jnp.array([[1.0, 0.0], [0.0, 1.0]]),
        "flat": jnp.arange(4.0),
        "mask": jnp.ones((4, 6)),
        "values": grid,
        "token_rewards": grid,
        "tokens": jnp.zeros((4, 6), jnp.int32),
        "lengths": jnp.full((4,), 6, jnp.int32),
        "logp": grid,
        "old_logp": grid - 0.1,
    }
    exec(code, names)
    assert names["advantages"].shape == names["whitened"].shape == (4, 6)
    assert names["spec"].clip_high == 0.3 and jnp.isfinite(names["loss"]) and "clip_share" in names["info"]


def test_the_examples_in_api_run(monkeypatch, capsys):
    """All blocks, in order, in one namespace."""
    monkeypatch.chdir(ROOT)
    names = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", TEXTS["docs/api.md"], re.DOTALL):
        exec(block, names)
    assert names["verdict"].verdict == "correct" and names["advantages"].shape == (4, 6)
    assert len(names["result"].items) == 4 and len(names["completions"].lengths) == 2
    assert capsys.readouterr().out.count("\n") >= 8


@pytest.fixture
def sums(monkeypatch):
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    exec(re.search(r"```python\n(.*?)```", TEXTS["docs/tasks.md"], re.DOTALL)[1], {"__name__": "example"})
    return registry.make_task({"name": "sums", "split_seed": 0}, "exact-2")


def test_the_example_task_works(sums):
    pool = (("d1", 8), ("d2", 20))
    held_out, trained = sums.select("test", pool, 3), sums.select("train", pool, 3)
    assert held_out == sums.select("test", pool, 3) != sums.select("test", pool, 4)
    assert not {problem.form for problem in held_out} & {problem.form for problem in trained}
    assert len({problem.form for problem in trained}) == 28
    problem = trained[0]
    for answer, verdict in ((problem.solution, "correct"), ("no idea", "wrong_answer")):
        thinking = f"{problem.question} I add digit by digit and carry: {problem.solution}."
        text = f"<think>{thinking}</think>\n<answer>{answer}</answer>"
        judged = score(text, **sums.facts(problem), prompt_opens_think=False, truncated=False, rule="exact-2")
        assert judged.verdict == verdict
