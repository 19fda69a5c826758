"""`python -m jaxrl.train --config=configs/stage3.py[:tiny]`: train, evaluate, export. Started again, it goes on."""

from absl import flags
from ml_collections import ConfigDict

from jaxrl.flags import plain, run

_WORKDIR = flags.DEFINE_string("workdir", None, "The run folder; default: the config's field workdir.")


def train(config: ConfigDict) -> None:
    """The command behind the flags. Raises ValueError and OSError with one sentence each."""
    from jaxrl.running.devices import prepare_devices
    from jaxrl.running.settings import run_spec
    from jaxrl.running.workdir import check_start, check_workdir
    from models.source import resolve_model

    if _WORKDIR.value:
        config.workdir = _WORKDIR.value
    fields = plain(config)
    spec = run_spec(fields)
    model_folder = resolve_model(spec.model)
    check_start(spec)
    check_workdir(spec.workdir, fields)
    prepare_devices(config.devices, config.compile_cache)

    from jaxrl.evaluation.examples import side_by_side
    from jaxrl.evaluation.table import comparison_markdown
    from jaxrl.reporting.page import write_page
    from jaxrl.reporting.run_folder import read_run
    from jaxrl.reporting.terminal import Terminal
    from jaxrl.running.loop import AFTER, BEFORE, run_training

    with Terminal(spec.total_steps, f"jaxrl {spec.name}") as terminal:
        found = run_training(spec, model_folder, terminal, fields)
    page = write_page(spec.workdir / "report.html", [read_run(spec.workdir)])
    print(side_by_side(found[BEFORE], found[AFTER]))
    print(comparison_markdown(found[BEFORE], found[AFTER]))
    print(f"run:    {spec.workdir}")
    if spec.export:
        print(f"export: {spec.workdir / 'export'}")
    print(f"report: {page}")


if __name__ == "__main__":
    run("jaxrl.train", train)
