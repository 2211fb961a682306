"""What /v1/models says about one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# vLLM and SGLang; LiteLLM; Together; Groq.
_LENGTH_FIELDS = ("max_model_len", "max_input_tokens", "context_length", "context_window")
# llama.cpp's server: what it was started with, before what the model was trained with.
_META_FIELDS = ("n_ctx", "n_ctx_train")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One entry of /v1/models. What it does not say is None.

    Attributes:
        name: The name the model is served under.
        root: Where its weights are.
        parent: Name of the base model that an adapter stands on.
        owner: Who made the server: "vllm", "llamacpp", "library" for Ollama.
        context_length: The most tokens of prompt and completion together.
    """

    name: str
    root: str | None = None
    parent: str | None = None
    owner: str | None = None
    context_length: int | None = None


def read_models(body: Any) -> dict[str, ServedModel]:
    """Return the models in the JSON of /v1/models by name, without those that can't be read."""
    if isinstance(body, dict):
        body = body.get("data") or body.get("models")
    entries = body if isinstance(body, list) else []
    models = [_read_model(entry) for entry in entries if isinstance(entry, dict)]
    by_name = {model.name: model for model in models if model is not None}
    return {name: _with_parents_length(model, by_name) for name, model in by_name.items()}


def _read_model(entry: dict[str, Any]) -> ServedModel | None:
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        return None
    meta = entry.get("meta")
    lengths = [entry.get(field) for field in _LENGTH_FIELDS]
    if isinstance(meta, dict):
        lengths += [meta.get(field) for field in _META_FIELDS]
    return ServedModel(
        name=name,
        root=_text(entry.get("root")),
        parent=_text(entry.get("parent")),
        owner=_text(entry.get("owned_by")),
        context_length=next(
            (length for length in lengths if type(length) is int and length > 0), None
        ),
    )


def _with_parents_length(model: ServedModel, by_name: dict[str, ServedModel]) -> ServedModel:
    # vLLM names no length for a LoRA adapter.
    parent = by_name.get(model.parent or "")
    if model.context_length is not None or parent is None:
        return model
    return ServedModel(
        name=model.name,
        root=model.root,
        parent=model.parent,
        owner=model.owner,
        context_length=parent.context_length,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
