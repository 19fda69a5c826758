"""The trained weights of a run as a Hugging Face folder."""

from collections.abc import Callable
from pathlib import Path

import jax

from jaxrl.checkpointing.restore import open_params
from jaxrl.learning.state import TrainState
from jaxrl.runtime.multihost import broadcast_from_primary, gather_to_host, is_primary
from jaxrl.training.run_spec import RunSpec
from models.adapter_folder import save_adapter
from models.config import Qwen2Config
from models.convert import save_params


def export_run(
    spec: RunSpec, state: TrainState, config: Qwen2Config, model_folder: Path, log: Callable[[str], None]
) -> None:
    """Write `export/`, and `adapter/` for a run with LoRA. All processes take part; the primary one writes.

    The adapters of a run that starts from another run are not written: no model folder holds their base weights yet.
    """
    workdir, lora = spec.workdir, spec.model.lora
    params = state.params if jax.process_count() == 1 else gather_to_host(state.params)
    if is_primary() and lora:
        if spec.model.init_from:
            log(
                f"adapter/ is not written, because the adapters belong to the weights of {spec.model.init_from}, which "
                "are in no model folder yet. Export these weights, then: python -m jaxrl.export --adapter "
                f"--checkpoint={workdir} --source=THAT_FOLDER --output=ADAPTER_FOLDER."
            )
        else:
            save_adapter(workdir / "adapter", params, lora, spec.model.path)
        params, _ = open_params(workdir, config, folder=model_folder)  # base and adapters, merged leaf by leaf
    if is_primary():
        save_params(workdir / "export", params, config, source_folder=model_folder)
    broadcast_from_primary(True)  # no process ends before everything is written
