"""How large the report of a large run is, and how long a browser takes to open it.

    python benchmarks/report.py --folder=/tmp/synthetic_run [--runs=1]

Writes a run folder (kept, and used again) of 400 steps with 8 x 64 responses of about 650 tokens each in invented
words, then the page, and opens the page in headless Chromium three times, each with an empty profile. Needs the extra
`browser` and a Chromium. "Shown" is when text, tables and browser stand; "drawn" when the plots in
sight are painted too.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.reporting.behaviours import count, summarize
from jaxrl.reporting.page import write_page
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, write_rollouts
from jaxrl.reporting.run_folder import read_run, write_evaluation
from jaxrl.reporting.writers import JsonlWriter
from jaxrl.rewards import SUSPECTS, VERDICTS

STEPS, PROMPTS, SAMPLES, POOL, WORDS = 400, 8, 64, 600, 480
PHRASES = ("Wait, ", "Let me check this. ", "Suppose that Ann lies. ", "That is a contradiction. ", "In summary, ")
BROWSER = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
           "--disable-component-update", "--disable-sync")  # fmt: skip


def write_run(folder: Path, seed: int) -> None:
    """A run folder as training leaves it behind; accuracy and lengths rise."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwyp"))
    words = np.array(["".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(4000)])
    rank = 1 / np.arange(1, len(words) + 1)  # as often as words of a language are

    def text(length: int, step: int) -> str:
        said = list(generator.choice(words, length, p=rank / rank.sum()))
        for _ in range(generator.poisson(1 + step / 100)):
            said.insert(int(generator.integers(len(said))), PHRASES[generator.integers(len(PHRASES))])
        return f"<think>{' '.join(said)}</think>\n<answer>(1) Ann is a knight (2) Bob is a knave</answer>"

    def sample(share: float) -> Sample:
        return Sample(VERDICTS[0] if generator.random() < share else VERDICTS[1], 700, True, "", text(WORDS, 0))

    shutil.rmtree(folder, ignore_errors=True)
    writer = JsonlWriter(folder / "metrics.jsonl")
    for name, share in (("before", 0.2), ("after", 0.4)):
        items = tuple(Item(f"e{i}", f"p{3 + i % 3}", text(60, 0), "Ann is a knight", False, (sample(share),), ())
                      for i in range(300))  # fmt: skip
        write_evaluation(folder, EvaluationResult(name, "invented", STEPS * (name == "after"), "strict-1", {}, items))
    for step in range(1, STEPS + 1):
        stage, share = f"stage{1 + (step > 100) + (step > 300)}", 0.2 + 0.2 * step / STEPS
        groups = []
        for index in generator.choice(POOL, PROMPTS, replace=False):
            responses = tuple(
                ResponseRecord(text(WORDS, step), VERDICTS[0] if right else VERDICTS[1], (), (), 1.0,
                               2.0 if right else -1.5, 3.0 if right else -0.5, 0.1, 650, True)
                for right in generator.random(SAMPLES) < share)  # fmt: skip
            groups.append(GroupRecord(step, stage, int(index), f"kk-{index}", "p5", text(80, 0), "Ann is a knight",
                                      responses, text(60, 0)))  # fmt: skip
        write_rollouts(folder / "rollouts", step, groups)
        flat = [response for group in groups for response in group.responses]
        correct = [response.verdict == VERDICTS[0] for response in flat]
        shown = [count(response.response[:400]) for response in flat]
        noise = generator.normal(0, 0.02)
        writer.write({
            "step": step, "stage": stage, "reward/mean": share * 3 + noise, "length/mean": 400 + 0.6 * step,
            "share/correct": share + noise, "share/wrong_answer": 1 - share - noise, "tokens/rollout": 512 * 650,
            **{f"suspects/{name}": abs(noise) for name in SUSPECTS}, "entropy": 0.4, "loss/kl": 0.01 + noise,
            **summarize(shown, correct, SAMPLES), "time/rollout": 60.0, "time/update": 40.0,
        })  # fmt: skip
    writer.close()


def measure(page: Path) -> tuple[float, float]:
    """(shown, drawn) in seconds, by the clock of this process, the start of the browser left out."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
        tab = browser.new_page()
        began = time.perf_counter()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready]")
        shown = time.perf_counter() - began
        tab.wait_for_selector(".plot[data-painted]", state="attached")
        drawn = time.perf_counter() - began
        browser.close()
    return shown, drawn


def main() -> None:
    """Prints a line for the folder, one for the page and one for each opening."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=1, help="laid over each other (1)")
    given = parser.parse_args()
    folders = [given.folder / f"run_{number}" for number in range(given.runs)]
    for number, folder in enumerate(folders):
        if len(list((folder / "rollouts").glob("*.gz"))) < STEPS:
            write_run(folder, number)
    size = sum(path.stat().st_size for path in folders[0].rglob("*") if path.is_file())
    print(f"run folder: {size / 1e6:.0f} MB")
    began = time.perf_counter()
    page = write_page(given.folder / "report.html", [read_run(folder) for folder in folders])
    print(f"page: {page.stat().st_size / 1e6:.1f} MB, written in {time.perf_counter() - began:.1f} s")
    for _ in range(3):
        print("shown after {:.2f} s, drawn after {:.2f} s".format(*measure(page)))


if __name__ == "__main__":
    main()
