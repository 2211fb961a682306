"""A LoRA adapter of the demonstration model, with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rank1_integrations.demo_model import DEMO_MODEL

RANK, ALPHA = 8, 16
PROJECTIONS = ("q_proj", "v_proj")
# Large enough to change scores, small enough to leave reasoning readable.
SCALE = 0.02


def write_adapter(folder: Path) -> None:
    """Write an adapter as the library peft saves it."""
    configuration = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(DEMO_MODEL),
        "target_modules": [*PROJECTIONS],
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(configuration))
    dice, tensors = torch.Generator().manual_seed(0), {}
    for name, weight in _adapted_weights().items():
        rows, columns = weight.shape
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, columns, generator=dice) * SCALE
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, RANK, generator=dice) * SCALE
    save_file(tensors, folder / "adapter_model.safetensors")


def write_merged(adapter: Path, folder: Path) -> None:
    """Write the demonstration model with the adapter added to its weights."""
    shutil.copytree(DEMO_MODEL, folder, dirs_exist_ok=True)
    weights = load_file(DEMO_MODEL / "model.safetensors")
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, weight in _adapted_weights().items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        change = tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
        weights[name] = weight.float() + change * (ALPHA / RANK)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _adapted_weights() -> dict[str, torch.Tensor]:
    weights = load_file(DEMO_MODEL / "model.safetensors")
    return {
        name: weight
        for name, weight in sorted(weights.items())
        if name.endswith(".weight") and name.split(".")[-2] in PROJECTIONS
    }
