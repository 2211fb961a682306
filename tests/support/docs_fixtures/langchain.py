"""A LangChain user has a retriever, a chat model and a question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.documents import Document
from openinference.instrumentation.langchain import LangChainInstrumentor

from tests.support.sample_corpus import BEST, POOR, QUERY, WORST, search_manual
from tests.support.searching_model import SearchingModel


@contextmanager
def reader() -> Iterator[dict[str, Any]]:
    names: dict[str, Any] = {
        "retriever": search_manual(),
        "chat_model": SearchingModel(),
        "question": QUERY,
    }
    try:
        yield names
    finally:
        LangChainInstrumentor().uninstrument()
    for made in ("relevant", "thorough", "kept"):
        assert_filtered(names[made])
    assert_filtered(names["state"]["documents"])
    # How many there are depends on how busy the machine is.
    scores = [document.metadata["relevance_score"] for document in names["judged_in_time"]]
    assert all(score is None or score >= 0.5 for score in scores)
    for answer in (names["answer"].text, names["state"]["answer"], names["messages"][-1].text):
        assert BEST in answer
        assert WORST not in answer


def assert_filtered(documents: list[Document]) -> None:
    texts = [document.page_content for document in documents]
    assert BEST in texts
    assert not {POOR, WORST} & set(texts)
