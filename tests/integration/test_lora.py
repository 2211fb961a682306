"""A LoRA adapter by its name: vLLM lists no context length and another parent for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rank1_integrations import EngineError, Rank1
from tests.integration.conftest import SERVED_NAME, demo_server
from tests.support.lora import RANK, write_adapter, write_merged

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "A tuple can't be changed once it is made.",
    "Sockets connect to other machines.",
]
NAME = "rank1-adapted"


@dataclass(frozen=True)
class Adapted:
    """A vLLM server with an adapter, and the same weights in one checkpoint."""

    url: str
    merged: Path


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    folder = tmp_path_factory.mktemp("lora")
    write_adapter(folder / "adapter")
    write_merged(folder / "adapter", folder / "merged")
    with demo_server(
        folder / "server.log",
        enable_lora=True,
        max_lora_rank=RANK,
        lora_modules=f"{NAME}={folder / 'adapter'}",
    ) as url:
        yield Adapted(url, folder / "merged")


def log_odds(reranker: Rank1) -> list[float | None]:
    with reranker:
        return [judgment.log_odds for judgment in reranker.judge(QUERY, PASSAGES)]


def test_scores_are_those_of_the_merged_weights(adapted: Adapted) -> None:
    merged = log_odds(
        Rank1.from_transformers(str(adapted.merged), device="cpu", dtype="float32", thinking="none")
    )
    by_name = log_odds(Rank1.from_server(adapted.url, model=NAME, thinking="none"))
    base = log_odds(Rank1.from_server(adapted.url, model=SERVED_NAME, thinking="none"))
    assert by_name == pytest.approx(merged, abs=1e-2)
    assert base != pytest.approx(merged, abs=1e-1)


def test_the_context_length_is_that_of_the_base_model(adapted: Adapted) -> None:
    with Rank1.from_server(adapted.url, model=NAME, thinking="none") as reranker:
        (judgment,) = reranker.judge(QUERY, [f"{PASSAGES[0]} " * 500])
        info = reranker.server_info
    assert (info["parent"], info["context_length"]) == (SERVED_NAME, 2048)
    assert judgment.truncated
    assert judgment.log_odds is not None


def test_without_a_name_the_choice_is_asked_for(adapted: Adapted) -> None:
    with (
        Rank1.from_server(adapted.url) as reranker,
        pytest.raises(EngineError, match=f"serves {NAME}, {SERVED_NAME}: choose one with model="),
    ):
        reranker.judge(QUERY, PASSAGES)
