"""llama.cpp's own server in a process of its own, on a checkpoint written as GGUF."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.server_process import server_process
from tests.support.vllm_server import free_port

STARTUP_SECONDS = 120

_SERVE = """
import json, sys, time
import xllamacpp

params = xllamacpp.CommonParams()
settings = json.loads(sys.argv[1])
params.model.path = settings.pop("path")
for name, value in settings.items():
    setattr(params, name, value)
server = xllamacpp.Server(params)
while True:
    time.sleep(60)
"""


def write_gguf(folder: Path, path: Path) -> None:
    """Write a Qwen 2.5 checkpoint as GGUF, in float32, with its control tokens as CONTROL.

    Args:
        folder: Of the checkpoint, with tied embeddings.
        path: Of the GGUF file.
    """
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: `make test` installs it")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["model_type"] == "qwen2"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_vocabulary(writer, gguf.TokenType, folder, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, types: Any, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    by_id = {token_id: text for text, token_id in tokenizer["model"]["vocab"].items()}
    control = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens, kinds = [], []
    for token_id in range(config["vocab_size"]):
        if token_id in control:
            tokens.append(control[token_id])
            kinds.append(types.CONTROL)
        elif token_id in by_id:
            tokens.append(by_id[token_id])
            kinds.append(types.NORMAL)
        else:
            tokens.append(f"[PAD{token_id}]")
            kinds.append(types.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


@contextmanager
def llama_cpp_server(path: Path, log: Path, **params: Any) -> Iterator[str]:
    """Serve a GGUF file until the block ends.

    Args:
        path: Of the GGUF file.
        log: File for what the server writes.
        **params: Fields of xllamacpp's `CommonParams`.

    Yields:
        The server's address, with /v1.
    """
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: `make test` installs it")
    port = free_port()
    settings = {"path": str(path), "port": port, "n_ctx": 4096, "n_parallel": 2, **params}
    with server_process(
        "llama.cpp's server",
        [sys.executable, "-c", _SERVE, json.dumps(settings)],
        health_url=f"http://127.0.0.1:{port}/health",
        log=log,
        startup_seconds=STARTUP_SECONDS,
    ):
        yield f"http://127.0.0.1:{port}/v1"
