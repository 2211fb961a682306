"""The graph: what is found irrelevant is searched for again, in other words, twice at most."""

from __future__ import annotations

from typing import Any

import pytest

from examples.langgraph_corrective_rag import MOST_REWRITES, NOTHING_FOUND, QUESTION, corrective_rag
from examples.models import langchain_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import Witness, prompt
from tests.integration.tampering_proxy import TamperingProxy


def steps(rank1: Rank1, question: str) -> list[tuple[str, dict[str, Any]]]:
    graph = corrective_rag(rank1, langchain_chat_model())
    updates = graph.stream({"question": question}, stream_mode="updates")
    return [(node, update) for step in updates for node, update in step.items()]


def test_a_question_with_relevant_passages_is_answered_at_once(
    rank1: Rank1, witness: Witness, chat: TamperingProxy
) -> None:
    done = steps(rank1, "How do I remove a directory tree?")
    assert [node for node, _ in done] == ["retrieve", "grade", "answer"]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[0])
    (sent,) = chat.calls
    assert {text for text in witness.passages[0] if text in prompt(sent)} == set(kept)
    assert done[-1][1]["answer"].strip()


def test_a_question_without_any_is_put_in_other_words(
    rank1: Rank1, witness: Witness, chat: TamperingProxy
) -> None:
    done = steps(rank1, QUESTION)
    assert [node for node, _ in done[:5]] == ["retrieve", "grade", "rewrite", "retrieve", "grade"]
    assert done[1][1]["documents"] == []
    rewritten = done[2][1]["query"]
    assert rewritten != QUESTION
    assert witness.queries[:2] == [QUESTION, rewritten.strip()]
    assert QUESTION in prompt(chat.calls[0])
    if done[-1][0] == "answer":
        # The user's own question is answered, from what the other words found.
        assert QUESTION in prompt(chat.calls[-1])
        assert all(text in prompt(chat.calls[-1]) for text in witness.relevant()[:3])


def test_it_gives_up_in_the_end(rank1: Rank1, witness: Witness, chat: TamperingProxy) -> None:
    done = steps(rank1, "How do I bake bread?")
    assert len(witness.queries) == MOST_REWRITES + 1
    assert [len(update["documents"]) for node, update in done if node == "grade"] == [0] * 3
    assert done[-1] == ("rewrite", {"answer": NOTHING_FOUND})
    assert len(chat.calls) == MOST_REWRITES
