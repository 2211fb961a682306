"""SmolLM2-135M-Instruct, a real chat model, as vLLM wants it: as transformers saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.smollm2 import published

NAME = "smollm2"

SERVER_OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 4096,
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    # Left alone, so small a model would write calls that no tool understands.
    "tool_strict_level": "parameter",
}


def unpack(folder: Path) -> Path:
    """Write the model's weights and tokenizer into `folder`, 540 MB in float32."""
    model, tokenizer = published()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
