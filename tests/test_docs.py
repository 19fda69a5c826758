"""What README and docs say is there: files, links, commands, fields, and the example of a task works."""

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


def found(pattern):
    return [(page, *match) for page, text in TEXTS.items() for match in re.findall(f"({pattern})", text)]


def test_links_lead_somewhere():
    links = found(r"\]\(((?!https?:)[^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"")
    broken = [(page, link) for page, _, *links in links for link in links
              if link and not (ROOT / page).parent.joinpath(link).exists()]  # fmt: skip
    assert len(links) > 5 and broken == []


def test_commands_and_their_configs_are_there():
    modules = {name for _, _, name in found(r"-m ((?:jaxrl|data_gen)\.\w+)")}
    assert {"jaxrl.train", "jaxrl.evaluate", "jaxrl.report"} < modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    files = {name for _, _, name in found(r"(configs/\w+(?:/\w+)*\.py)") if not name.endswith("/FILE.py")}
    assert len(files) > 5 and [name for name in files if not (ROOT / name).is_file()] == []


def test_flags_are_those_of_the_commands():
    """In code blocks and code spans: a flag that a command does not know is named with the page."""
    wrong = []
    for page, text in TEXTS.items():
        for module, rest in re.findall(r"-m ((?:jaxrl|data_gen)\.\w+)([^\n`#|]*)", text.replace("\\\n", " ")):
            known = importlib.import_module(module).make_parser().flags()
            for flag in re.findall(r"--[a-z][\w-]*", rest):
                if flag.replace("_", "-") not in known:
                    wrong.append((page, module, flag))
    assert wrong == []


def test_fields_are_those_of_a_run():
    from configs import three_stage

    known = set()
    for config in (base.single(base.get_stage(), "one", ""), three_stage.get_config()):
        known |= {name for path, _ in walk(config.to_dict()) for name in prefixes(path)}
    fields = {name.rstrip(".") for _, _, name in found(r"config\.([a-z][\w.]*)") if not name.endswith(("py", "json"))}
    unknown = {name for name in fields if name not in known and name != "field"}
    assert len(fields) > 15 and unknown == set()


def walk(tree, path=()):
    for name, value in tree.items():
        yield (*path, name), value
        if isinstance(value, dict):
            yield from walk(value, (*path, name))


def prefixes(path):
    return [".".join(path[:end]) for end in range(1, len(path) + 1)]


def test_sentences_that_troubleshooting_quotes_are_said():
    """Quoted in bold code: what our own commands say; XLA's, the kernel's and wandb's are named here."""
    foreign = ("RESOURCE_EXHAUSTED", "out of memory", "No space left on device", "disk quota", "Expected 2 threads",
               "Did you mean", "Error reading persistent")  # fmt: skip
    code = "\n".join(path.read_text(encoding="utf-8") for room in ("jaxrl", "models", "data_gen")
                     for path in (ROOT / room).rglob("*.py"))  # fmt: skip
    code = re.sub(r"[\"']\s*\n\s*f?[\"']", "", code)  # sentences over several lines of code
    quoted = [quote for head in re.findall(r"^\*\*(.+?)\*\*", TEXTS["docs/troubleshooting.md"], re.MULTILINE)
              for quote in re.findall(r"`([^`]+)`", head)]  # fmt: skip
    missing = []
    for quote in quoted:
        parts = [part.strip() for part in re.split(r"\.\.\.|runs/stage1", quote) if part.strip()]
        if not quote.startswith((*foreign, ":")) and not all(part in code for part in parts):
            missing.append(quote)
    assert len(quoted) > 12 and missing == []


def test_the_tree_of_the_readme_is_there():
    tree = re.search(r"## The tree\s+```\n(.*?)```", TEXTS["README.md"], re.DOTALL)[1]
    folder, missing = ROOT, []
    for line in tree.splitlines():
        indent, names = len(line) - len(line.lstrip()), re.split(r"\s{2,}", line.strip())[0].split()
        if indent == 0:
            folder = ROOT / names[0]
        room = folder if indent else ROOT
        missing += [name for name in names if indent <= 2 and not room.joinpath(name).exists()]
    assert missing == []


def test_names_of_the_code_are_there():
    """`jaxrl.algorithms.losses.LossSpec` and the like, in code spans."""
    names = {name for _, _, name in found(r"`((?:jaxrl|models|data_gen)(?:\.[a-zA-Z]\w*)+)")}
    missing = []
    for name in names:
        path, (module, _, attribute) = ROOT / name.replace(".", "/"), name.rpartition(".")
        is_module = path.is_dir() or path.with_suffix(".py").is_file()
        if not is_module and not hasattr(importlib.import_module(module), attribute):
            missing.append(name)
    assert "jaxrl.algorithms.recipes.RECIPES" in names and missing == []


def test_the_table_of_algorithms_is_the_codes():
    """A line for each row of RECIPES: its advantage, surrogate, bounds, reduction and KL, and every other field that is
    not a default."""
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


def test_the_words_of_algorithms_are_the_codes():
    words = set(re.findall(r"^\| `(\w+)` \| [^`|]+ \|$", TEXTS["docs/algorithms.md"], re.MULTILINE))
    assert words == {*ADVANTAGES, *REDUCTIONS} - {"supervised"}


def test_the_example_of_algorithms_works():
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


def test_the_examples_of_api_run(monkeypatch, capsys):
    """All blocks of docs/api.md, in order, in one namespace; and the package names in its table exist."""
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
    return registry.make_task({"name": "sums", "split_seed": 0}, "exact-1")


def test_the_example_of_a_task_works(sums):
    pool = (("d1", 8), ("d2", 20))
    held_out, trained = sums.select("test", pool, 3), sums.select("train", pool, 3)
    assert held_out == sums.select("test", pool, 3) != sums.select("test", pool, 4)
    assert not {problem.form for problem in held_out} & {problem.form for problem in trained}
    assert len({problem.form for problem in trained}) == 28
    problem = trained[0]
    for answer, verdict in ((problem.solution, "correct"), ("no idea", "wrong_answer")):
        text = f"<think>I add the two numbers, digit by digit.</think>\n<answer>{answer}</answer>"
        judged = score(text, **sums.facts(problem), prompt_opens_think=False, truncated=False, rule="exact-1")
        assert judged.verdict == verdict
