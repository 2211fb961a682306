"""How a postprocessor is made, what is refused, and what becomes of its key."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from pydantic import SecretStr, ValidationError

from rank1_integrations import Rank1
from rank1_integrations.llama_index import Rank1Postprocessor
from tests.unit.llama_index.conftest import LONG, QUERY, SHORT, some_nodes, texts

URL = "http://localhost:8000/v1"
KEY = "s3cret-key"


def test_the_class_hierarchy_has_the_base_node_postprocessor() -> None:
    names = [base.__name__ for base in Rank1Postprocessor.__mro__]
    assert BaseNodePostprocessor.__name__ in names
    assert Rank1Postprocessor.class_name() == "Rank1Postprocessor"


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "say where the model runs: base_url='http://localhost:8000/v1'"),
        ({"base_url": "localhost:8000"}, "must be an address such as 'http://localhost:8000/v1'"),
        ({"base_url": URL, "top_n": 0}, "top_n must be at least 1, or None to keep all; it is 0"),
        ({"base_url": URL, "top_n": -3}, "top_n must be at least 1, or None to keep all; it is -3"),
        ({"base_url": URL, "score_threshold": 1.2}, "score_threshold must be between 0 and 1"),
        ({"base_url": URL, "score_threshold": -0.1}, "score_threshold must be between 0 and 1"),
        ({"base_url": URL, "metadata_mode": "all"}, "metadata_mode\n  Input should be <Metadata"),
        ({"base_url": URL, "topn": 3}, "topn\n  Extra inputs are not permitted"),
    ],
)
def test_a_mistake_is_refused_when_the_postprocessor_is_made_and_says_what_to_do(
    settings: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        Rank1Postprocessor(**settings)
    assert advice in str(refusal.value)
    assert isinstance(refusal.value, ValueError)


def test_a_shared_reranker_and_settings_contradict_each_other(rank1: Rank1) -> None:
    with pytest.raises(ValidationError, match="already decides base_url, thinking: give either"):
        Rank1Postprocessor(rank1=rank1, base_url=URL, thinking="none")


def test_a_shared_reranker_goes_with_another_cut_in_every_engine(rank1: Rank1) -> None:
    best = Rank1Postprocessor(rank1=rank1, top_n=1)
    good = Rank1Postprocessor(rank1=rank1, score_threshold=0.1)
    nodes = some_nodes(SHORT, LONG)
    assert texts(best.postprocess_nodes(nodes, query_str=QUERY)) == [LONG]
    assert texts(good.postprocess_nodes(nodes, query_str=QUERY)) == [LONG, SHORT]


@pytest.mark.parametrize("name", ["RANK1_API_KEY", "OPENAI_API_KEY"])
def test_a_key_is_shown_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, KEY)
    for postprocessor in (
        Rank1Postprocessor(base_url=URL, api_key=SecretStr(KEY)),
        Rank1Postprocessor(base_url=URL),
    ):
        assert KEY not in repr(postprocessor)
        assert KEY not in str(postprocessor)
        assert KEY not in str(postprocessor.to_dict())
        assert KEY not in postprocessor.to_json()
        assert KEY.encode() not in pickle.dumps(postprocessor)


@pytest.mark.parametrize("mistake", [{"top_n": 0}, {"topn": 1}, {"base_url": "nowhere"}])
def test_a_mistakes_error_does_not_show_the_key(mistake: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        Rank1Postprocessor(**{"base_url": URL, "api_key": KEY, **mistake})
    assert KEY not in str(refusal.value) + repr(refusal.value)


def test_the_settings_survive_dict_json_and_pickle() -> None:
    postprocessor = Rank1Postprocessor(
        base_url=URL,
        top_n=3,
        score_threshold=0.4,
        thinking="none",
        keep_retrieval_score=True,
        metadata_mode="llm",  # type: ignore[arg-type]
    )
    written = postprocessor.to_dict()
    assert written["class_name"] == "Rank1Postprocessor"
    assert json.loads(postprocessor.to_json()) == written
    for again in (
        Rank1Postprocessor.from_dict(written),
        Rank1Postprocessor.from_json(postprocessor.to_json()),
        pickle.loads(pickle.dumps(postprocessor)),
    ):
        assert again.to_dict() == written


def test_a_key_goes_with_a_dict_as_an_argument_of_its_own() -> None:
    written = Rank1Postprocessor(base_url=URL, api_key=SecretStr(KEY)).to_dict()
    again = Rank1Postprocessor.from_dict(written, api_key=KEY)
    assert again.api_key == SecretStr(KEY)


def test_pickling_leaves_the_object_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    manager = CallbackManager()
    postprocessor = Rank1Postprocessor(
        base_url=URL, api_key=SecretStr(KEY), callback_manager=manager
    )
    with caplog.at_level(logging.WARNING):
        pickle.loads(pickle.dumps(postprocessor))
    assert caplog.records == []
    assert postprocessor.callback_manager is manager
    assert postprocessor.api_key == SecretStr(KEY)
    postprocessor.close()


def test_a_callback_that_can_not_be_pickled_stays_behind() -> None:
    postprocessor = Rank1Postprocessor(base_url=URL, on_judgments=lambda *_: None)
    assert pickle.loads(pickle.dumps(postprocessor)).on_judgments is None
    assert postprocessor.on_judgments is not None
    postprocessor.close()


def test_what_is_remembered_stays_behind() -> None:
    cache = {"passage": "s3cret judgment"}
    postprocessor = Rank1Postprocessor(base_url=URL, cache=cache)
    assert "s3cret" not in postprocessor.to_json()
    assert b"s3cret" not in pickle.dumps(postprocessor)
    assert pickle.loads(pickle.dumps(postprocessor)).cache is None
    assert postprocessor.cache is cache
    postprocessor.close()


def test_a_shared_reranker_is_not_pickled_in_silence(rank1: Rank1) -> None:
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(Rank1Postprocessor(rank1=rank1))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_shares_the_reranker(copied: Any, rank1: Rank1) -> None:
    postprocessor = copied(Rank1Postprocessor(rank1=rank1, top_n=1))
    assert postprocessor.rank1 is rank1
    nodes = some_nodes(SHORT, LONG)
    assert texts(postprocessor.postprocess_nodes(nodes, query_str=QUERY)) == [LONG]


def test_without_llama_index_the_import_names_the_extra() -> None:
    code = """
import sys
sys.modules["llama_index.core"] = None
from rank1_integrations.exceptions import MissingExtraError
try:
    import rank1_integrations.llama_index
except MissingExtraError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'rank1-integrations[llama-index]'" in result.stdout, result.stderr


def test_importing_the_package_alone_does_not_import_llama_index() -> None:
    code = "import sys, rank1_integrations; print('llama_index.core' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
