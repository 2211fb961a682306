"""What /v1/models says, in the forms that servers answer in."""

from __future__ import annotations

from typing import Any

import pytest

from rank1_integrations.engines.openai_server.served_model import read_models


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        ({"max_model_len": 2048}, 2048),
        ({"max_model_len": None, "max_input_tokens": 4096}, 4096),
        ({"meta": {"n_ctx_train": 32768, "n_ctx": 1024}}, 1024),
        ({"meta": {"n_ctx_train": 32768}}, 32768),
        ({"context_length": 8192}, 8192),
        ({"max_model_len": "2048", "meta": None}, None),
        ({"max_model_len": 0}, None),
        ({"max_model_len": True}, None),
        ({}, None),
    ],
    ids=[
        "vLLM",
        "LiteLLM",
        "llama.cpp",
        "llama.cpp, without n_ctx",
        "Together",
        "text",
        "zero",
        "bool",
        "nothing",
    ],
)
def test_the_context_length_is_read_from_each_servers_field(
    entry: dict[str, Any], length: int | None
) -> None:
    models = read_models({"data": [{"id": "m", **entry}]})
    assert models["m"].context_length == length


def test_an_adapter_has_the_context_length_of_its_parent() -> None:
    models = read_models(
        {
            "data": [
                {"id": "base", "root": "/base", "max_model_len": 2048},
                {"id": "lora", "root": "/lora", "parent": "base", "max_model_len": None},
            ]
        }
    )
    assert (models["lora"].context_length, models["lora"].root) == (2048, "/lora")


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"data": None},
        {"data": [None, "m", 5, {}, {"id": None}, {"id": ""}, {"name": "m"}]},
        "models",
    ],
)
def test_a_list_without_names_is_empty(body: Any) -> None:
    assert read_models(body) == {}


@pytest.mark.parametrize(
    "body", [[{"id": "m"}], {"models": [{"id": "m"}]}, {"data": [{"id": "m"}, {}]}]
)
def test_a_list_of_another_shape_is_read(body: Any) -> None:
    assert list(read_models(body)) == ["m"]
