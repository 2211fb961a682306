"""How a compressor is made, what is refused, and what becomes of its key."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor
from tests.unit.langchain.conftest import LONG, QUERY, SHORT, some_documents, texts

URL = "http://localhost:8000/v1"
KEY = "s3cret-key"


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "say where the model runs: base_url='http://localhost:8000/v1'"),
        ({"base_url": "localhost:8000"}, "must be an address such as 'http://localhost:8000/v1'"),
        ({"base_url": ""}, "must be an address such as 'http://localhost:8000/v1'"),
        ({"base_url": URL, "top_n": 0}, "top_n must be at least 1, or None to keep all; it is 0"),
        ({"base_url": URL, "top_n": -3}, "top_n must be at least 1, or None to keep all; it is -3"),
        ({"base_url": URL, "score_threshold": 1.2}, "score_threshold must be between 0 and 1"),
        ({"base_url": URL, "score_threshold": -0.1}, "score_threshold must be between 0 and 1"),
        ({"base_url": URL, "score_threshold": "nan"}, "score_threshold must be between 0 and 1"),
        ({"base_url": URL, "thinking": "fast"}, "Input should be 'full'"),
        ({"base_url": URL, "on_error": "ignore"}, "Input should be 'raise', 'keep' or 'drop'"),
        ({"base_url": URL, "max_reasoning_tokens": 0}, "greater than or equal to 1"),
        ({"base_url": URL, "relevance": "on topic"}, "relevance must hold '{query}'"),
        ({"backend": "transformers"}, "needs model=, for instance 'jhu-clsp/rank1-0.5b'"),
        ({"backend": "demo", "base_url": URL}, "takes no base_url and no api_key"),
        ({"backend": "demo", "model": "other"}, "takes no model"),
        ({"backend": "cloud", "base_url": URL}, "Input should be 'server'"),
        ({"rank1": URL}, "rank1\n  Input should be an instance of Rank1"),
    ],
)
def test_a_mistake_is_refused_when_the_compressor_is_made_and_says_what_to_do(
    settings: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        Rank1Compressor(**settings)
    assert advice in str(refusal.value)
    assert isinstance(refusal.value, ValueError)


def test_an_unknown_argument_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="topn"):
        Rank1Compressor(base_url=URL, topn=3)  # type: ignore[call-arg]


def test_a_shared_reranker_and_settings_contradict_each_other(rank1: Rank1) -> None:
    with pytest.raises(ValidationError, match="already decides base_url, thinking: give either"):
        Rank1Compressor(rank1=rank1, base_url=URL, thinking="none")


def test_a_shared_reranker_goes_with_another_cut_in_every_chain(rank1: Rank1) -> None:
    best = Rank1Compressor(rank1=rank1, top_n=1)
    good = Rank1Compressor(rank1=rank1, score_threshold=0.1)
    assert texts(best.compress_documents(some_documents(SHORT, LONG), QUERY)) == [LONG]
    assert texts(good.compress_documents(some_documents(SHORT, LONG), QUERY)) == [LONG, SHORT]


@pytest.mark.parametrize("name", ["RANK1_API_KEY", "OPENAI_API_KEY"])
def test_a_key_is_shown_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, KEY)
    for compressor in (
        Rank1Compressor(base_url=URL, api_key=SecretStr(KEY)),
        Rank1Compressor(base_url=URL),
    ):
        assert KEY not in repr(compressor)
        assert KEY not in str(compressor)
        assert KEY not in str(compressor.model_dump())
        assert KEY not in compressor.model_dump_json()
        assert KEY.encode() not in pickle.dumps(compressor)


@pytest.mark.parametrize("mistake", [{"top_n": 0}, {"topn": 1}, {"base_url": "nowhere"}])
def test_a_mistakes_error_does_not_show_the_key(mistake: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        Rank1Compressor(**{"base_url": URL, "api_key": KEY, **mistake})
    assert KEY not in str(refusal.value) + repr(refusal.value)


def test_the_settings_survive_json_and_pickle() -> None:
    compressor = Rank1Compressor(base_url=URL, top_n=3, score_threshold=0.4, thinking="none")
    for again in (
        Rank1Compressor.model_validate_json(compressor.model_dump_json(exclude_unset=True)),
        pickle.loads(pickle.dumps(compressor)),
    ):
        assert again.model_dump() == compressor.model_dump()


def test_a_shared_reranker_is_not_pickled_in_silence(rank1: Rank1) -> None:
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(Rank1Compressor(rank1=rank1))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_shares_the_reranker(copied: Any, rank1: Rank1) -> None:
    compressor = copied(Rank1Compressor(rank1=rank1, top_n=1))
    assert compressor.rank1 is rank1
    assert texts(compressor.compress_documents(some_documents(SHORT, LONG), QUERY)) == [LONG]


def test_without_langchain_the_import_names_the_extra() -> None:
    code = """
import sys
sys.modules["langchain_core"] = None
from rank1_integrations.exceptions import MissingExtraError
try:
    import rank1_integrations.langchain
except MissingExtraError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'rank1-integrations[langchain]'" in result.stdout, result.stderr


def test_importing_the_package_alone_does_not_import_langchain() -> None:
    code = "import sys, rank1_integrations; print('langchain_core' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
