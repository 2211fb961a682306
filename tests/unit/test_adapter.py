"""What both adapters are made from is checked at once, and stays what it was."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from rank1_integrations import ConfigurationError, Rank1
from rank1_integrations._adapter import Rank1Settings
from rank1_integrations.testing import ScriptedEngine, length_script

SERVER: dict[str, Any] = {"base_url": "http://localhost:8000/v1"}


@pytest.fixture
def rank1() -> Rank1:
    return Rank1(ScriptedEngine(length_script))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "say where the model runs: base_url="),
        ({"backend": "transformers"}, "needs model=, for instance"),
        ({"backend": "vllm"}, "backend='vllm' needs model="),
        ({**SERVER, "engine_args": {}}, "engine_args is for backend='vllm'"),
        ({"backend": "demo", "model": "x"}, "takes no model"),
        ({"backend": "demo", **SERVER}, "takes no base_url"),
        ({"backend": "transformers", "model": "x", "api_key": "k"}, "no api_key"),
        ({"backend": "cloud"}, "Input should be"),
        ({**SERVER, "top_n": 0}, "top_n must be at least 1"),
        ({**SERVER, "score_threshold": 1.5}, "between 0 and 1"),
        ({**SERVER, "max_reasoning_tokens": 0}, "greater than or equal to 1"),
        ({**SERVER, "topn": 3}, "topn"),
        ({"base_url": "localhost:8000"}, "base_url must be an address"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_to_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rank1Settings(**settings)


@pytest.mark.parametrize("both", [{"thinking": "none"}, SERVER, {"on_error": "keep"}])
def test_an_object_and_settings_exclude_each_other(rank1: Rank1, both: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"already decides {next(iter(both))}"):
        Rank1Settings(rank1=rank1, **both)


def test_an_object_goes_with_a_cut(rank1: Rank1) -> None:
    assert Rank1Settings(rank1=rank1, top_n=3, score_threshold=0.5).top_n == 3


def test_the_cut_can_be_changed_later_and_nothing_else() -> None:
    settings = Rank1Settings(**SERVER)
    settings.top_n = 2
    assert settings.top_n == 2
    with pytest.raises(ConfigurationError, match="thinking can't be changed any more"):
        settings.thinking = "none"


@pytest.mark.parametrize("form", [repr, str, lambda s: s.model_dump_json(), pickle.dumps])
def test_the_key_is_in_no_serialized_form(form: Any) -> None:
    settings = Rank1Settings(**SERVER, api_key=SecretStr("sk-secret-key"))
    assert "sk-secret-key" not in str(form(settings))


def test_settings_survive_pickling_and_copying() -> None:
    settings = Rank1Settings(**SERVER, thinking="none", top_n=4)
    for twin in (pickle.loads(pickle.dumps(settings)), copy.deepcopy(settings)):
        assert twin.model_dump() == settings.model_dump()
        assert twin._rank1.options.thinking == "none"


def test_pickling_an_object_made_elsewhere_says_what_to_do(rank1: Rank1) -> None:
    with pytest.raises(TypeError, match="instead of rank1="):
        pickle.dumps(Rank1Settings(rank1=rank1))


def test_closing_leaves_a_shared_object_open(rank1: Rank1) -> None:
    Rank1Settings(rank1=rank1).close()
    assert rank1.judge("q", ["p"])


def test_an_object_of_ones_own_is_closed() -> None:
    settings = Rank1Settings(**SERVER)
    settings.close()
    with pytest.raises(Exception, match="closed"):
        settings._rank1.judge("q", ["p"])


def test_the_demonstration_model_keeps_its_own_defaults_through_a_round_trip() -> None:
    settings = Rank1Settings(backend="demo")
    again = Rank1Settings(**settings.model_dump())
    assert settings._rank1.options.max_reasoning_tokens == 256
    assert again._rank1.options.max_reasoning_tokens == 256
