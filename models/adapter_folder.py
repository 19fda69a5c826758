"""Saves LoRA adapters in the format of Hugging Face's PEFT: `PeftModel.from_pretrained(model, folder)`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.folder import replacing
from models.hf_names import HF_NAMES
from models.lora import LoRASpec, pairs
from models.safetensors_file import map_tensor, read_header, write_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def peft_tensors(adapters: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Adapters by PEFT's tensor names, one per layer: `...q_proj.lora_A.weight` [rank, in], `lora_B` [out, rank]."""
    tensors = {}
    for path, *parts in pairs(adapters):
        name = HF_NAMES["/".join(path)].removesuffix(".weight")
        for side, stacked in zip("AB", parts, strict=True):
            for layer, matrix in enumerate(np.asarray(stacked)):
                tensors[f"base_model.model.{name.format(layer)}.lora_{side}.weight"] = matrix.T
    return dict(sorted(tensors.items()))


def save_adapter(folder: str | Path, adapters: Mapping[str, Any], spec: LoRASpec, model: str) -> None:
    """Writes adapters (stacked by layer) for PEFT, verifies them, and replaces `folder` atomically.

    model: name or folder of the base model, for PEFT. Raises OSError if the written data differ or the disk is full,
    and as `replacing`.
    """
    tensors = peft_tensors(adapters)
    alpha = int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha  # PEFT declares an integer
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "r": spec.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
    }
    with replacing(folder) as temporary:
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        shapes = {name: (matrix.dtype, matrix.shape) for name, matrix in tensors.items()}
        write_file(temporary / WEIGHTS, shapes, tensors.values(), {"format": "pt"})
        entries, _ = read_header(temporary / WEIGHTS)
        wrong = [name for name, matrix in tensors.items() if not np.array_equal(map_tensor(entries[name]), matrix)]
        if wrong:
            raise OSError(
                f"verification failed, the written data differ for {', '.join(wrong)}; the disk may be failing. "
                "The old folder is unchanged."
            )
