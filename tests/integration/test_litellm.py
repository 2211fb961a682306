"""LiteLLM's proxy before the vLLM server: keys, a closed /tokenize, and the same scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rank1_integrations import EngineError, Rank1
from rank1_integrations.demo_model import DEMO_MODEL
from tests.integration.conftest import SERVED_NAME
from tests.support.litellm_proxy import MASTER_KEY, NAME, VIRTUAL_KEY, litellm_proxy

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "A tuple can't be changed once it is made.",
    "Sockets connect to other machines.",
]


@pytest.fixture(scope="module")
def gateway(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with litellm_proxy(server_url, SERVED_NAME, tmp_path_factory.mktemp("litellm")) as address:
        yield address


@pytest.mark.parametrize("thinking", ["full", "none"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"api_key": MASTER_KEY},
        {"api_key": VIRTUAL_KEY},
        {"api_key": VIRTUAL_KEY, "tokenizer": DEMO_MODEL},
    ],
    ids=["master key", "virtual key", "virtual key and local tokenizer"],
)
def test_scores_are_those_of_the_server_itself(
    gateway: str, server_url: str, arguments: dict[str, Any], thinking: Any
) -> None:
    options: Any = {"thinking": thinking, "max_reasoning_tokens": 256}
    with Rank1.from_server(server_url, **options) as direct:
        expected = direct.judge(QUERY, PASSAGES)
    with Rank1.from_server(gateway, **arguments, **options) as reranker:
        judgments = reranker.judge(QUERY, PASSAGES)
        assert reranker.model == NAME
    expected_odds = [judgment.log_odds for judgment in expected]
    assert [one.log_odds for one in judgments] == pytest.approx(expected_odds, abs=1e-2)
    assert [one.finish_reason for one in judgments] == [one.finish_reason for one in expected]
    assert [one.reasoning for one in judgments] == [one.reasoning for one in expected]


def test_a_virtual_key_that_tokenize_refuses_is_no_wrong_key(gateway: str) -> None:
    with Rank1.from_server(gateway, api_key=VIRTUAL_KEY) as reranker:
        reranker.judge(QUERY, PASSAGES[:1])
        assert reranker.server_info["tokenizer"] is False
        assert reranker.server_info["label_ids"] == {" true": None, " false": None}


def test_a_local_tokenizer_gives_the_label_ids_that_the_gateway_does_not(
    gateway: str, server: Rank1
) -> None:
    server.judge(QUERY, PASSAGES[:1])
    with Rank1.from_server(gateway, api_key=VIRTUAL_KEY, tokenizer=DEMO_MODEL) as reranker:
        reranker.judge(QUERY, PASSAGES[:1])
        assert reranker.server_info["label_ids"] == server.server_info["label_ids"]
        assert "logprob_token_ids" in reranker.server_info["fields"]


def test_a_wrong_key_is_an_error_that_does_not_show_it(gateway: str) -> None:
    key = "sk-another-secret"
    with (
        Rank1.from_server(gateway, api_key=key, max_retries=0) as reranker,
        pytest.raises(EngineError, match="refused the key") as refused,
    ):
        reranker.judge(QUERY, PASSAGES)
    assert key not in str(refused.value)
