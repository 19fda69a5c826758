"""Size of the report of a large run, and the time that a browser takes to open it.

    python benchmarks/report.py --folder=/tmp/synthetic_run [--runs=1]

Writes a synthetic run folder (kept and reused) of 400 steps with 8 x 64 responses of about 650 tokens each, then the
report, and opens the report in headless Chromium three times, each with an empty profile. Needs the extra `browser` and
a Chromium. "Ready" is when all text and tables are there, "plotted" when the visible plots are rendered too.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.reporting.behaviours import behaviour_metrics, count_behaviours
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
    """Writes a synthetic run folder with rising accuracy and length."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwyp"))
    words = np.array(["".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(4000)])
    rank = 1 / np.arange(1, len(words) + 1)  # Zipf's law

    def text(length: int, step: int) -> str:
        chosen = list(generator.choice(words, length, p=rank / rank.sum()))
        for _ in range(generator.poisson(1 + step / 100)):
            chosen.insert(int(generator.integers(len(chosen))), PHRASES[generator.integers(len(PHRASES))])
        return f"<think>{' '.join(chosen)}</think>\n<answer>(1) Ann is a knight (2) Bob is a knave</answer>"

    def sample(share: float) -> Sample:
        return Sample(VERDICTS[0] if generator.random() < share else VERDICTS[1], 700, True, "", text(WORDS, 0))

    shutil.rmtree(folder, ignore_errors=True)
    writer = JsonlWriter(folder / "metrics.jsonl")
    for name, share in (("before", 0.2), ("after", 0.4)):
        items = tuple(Item(f"e{i}", f"p{3 + i % 3}", text(60, 0), "Ann is a knight", False, (sample(share),), ())
                      for i in range(300))  # fmt: skip
        write_evaluation(folder, EvaluationResult(name, "synthetic", STEPS * (name == "after"), "strict-2", {}, items))
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
        shown = [count_behaviours(response.response[:400]) for response in flat]
        noise = generator.normal(0, 0.02)
        writer.write({
            "step": step, "stage": stage, "reward/mean": share * 3 + noise, "length/mean": 400 + 0.6 * step,
            "share/correct": share + noise, "share/wrong_answer": 1 - share - noise, "tokens/rollout": 512 * 650,
            **{f"suspects/{name}": abs(noise) for name in SUSPECTS}, "entropy": 0.4, "loss/kl": 0.01 + noise,
            **behaviour_metrics(shown, correct, SAMPLES), "time/rollout": 60.0, "time/update": 40.0,
        })  # fmt: skip
    writer.close()


def measure(page: Path) -> tuple[float, float]:
    """Seconds until the page is (ready, plotted), without the start of the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
        tab = browser.new_page()
        start = time.perf_counter()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready]")
        ready = time.perf_counter() - start
        tab.wait_for_selector(".plot[data-painted]", state="attached")
        plotted = time.perf_counter() - start
        browser.close()
    return ready, plotted


def main() -> None:
    """Prints one line each for the folder, the page and every time it is opened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=1, help="number of overlaid runs (1)")
    given = parser.parse_args()
    folders = [given.folder / f"run_{number}" for number in range(given.runs)]
    for number, folder in enumerate(folders):
        if len(list((folder / "rollouts").glob("*.gz"))) < STEPS:
            write_run(folder, number)
    size = sum(path.stat().st_size for path in folders[0].rglob("*") if path.is_file())
    print(f"run folder: {size / 1e6:.0f} MB")
    start = time.perf_counter()
    page = write_page(given.folder / "report.html", [read_run(folder) for folder in folders])
    print(f"page: {page.stat().st_size / 1e6:.1f} MB, written in {time.perf_counter() - start:.1f} s")
    for _ in range(3):
        print("ready after {:.2f} s, plotted after {:.2f} s".format(*measure(page)))


if __name__ == "__main__":
    main()
