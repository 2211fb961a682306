"""A postprocessor in LlamaIndex's own serialized forms."""

from __future__ import annotations

import json
import logging
import pickle

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from pydantic import SecretStr

from rank1_integrations.llama_index import Rank1Postprocessor

URL = "http://localhost:8000/v1"
KEY = "s3cret-key"


def test_the_class_hierarchy_has_the_base_node_postprocessor() -> None:
    names = [base.__name__ for base in Rank1Postprocessor.__mro__]
    assert BaseNodePostprocessor.__name__ in names
    assert Rank1Postprocessor.class_name() == "Rank1Postprocessor"


def test_settings_survive_dict_and_json() -> None:
    postprocessor = Rank1Postprocessor(
        base_url=URL,
        top_n=3,
        thinking="none",
        keep_retrieval_score=True,
        metadata_mode="llm",  # type: ignore[arg-type]
    )
    written = postprocessor.to_dict()
    assert written["class_name"] == "Rank1Postprocessor"
    assert json.loads(postprocessor.to_json()) == written
    assert Rank1Postprocessor.from_dict(written).to_dict() == written
    assert Rank1Postprocessor.from_json(postprocessor.to_json()).to_dict() == written


def test_a_key_goes_beside_a_dict_as_an_argument_of_its_own() -> None:
    written = Rank1Postprocessor(base_url=URL, api_key=KEY).to_dict()
    assert KEY not in str(written)
    assert Rank1Postprocessor.from_dict(written, api_key=KEY).api_key == SecretStr(KEY)


def test_pickling_leaves_the_object_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    manager = CallbackManager()
    postprocessor = Rank1Postprocessor(base_url=URL, api_key=KEY, callback_manager=manager)
    with caplog.at_level(logging.WARNING):
        pickle.loads(pickle.dumps(postprocessor))
    assert caplog.records == []
    assert postprocessor.callback_manager is manager
    assert postprocessor.api_key == SecretStr(KEY)


def test_the_callback_manager_goes_with_a_copy() -> None:
    manager = CallbackManager()
    postprocessor = Rank1Postprocessor(base_url=URL)
    postprocessor.callback_manager = manager
    for update in ({"top_n": 1}, {"thinking": "none"}):
        assert postprocessor.model_copy(update=update).callback_manager is manager
