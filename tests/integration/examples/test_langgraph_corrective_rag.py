"""The graph: if nothing is relevant, it rewrites the query, twice at most."""

from __future__ import annotations

from typing import Any

from examples.langgraph_corrective_rag import MOST_REWRITES, NOTHING_FOUND, QUESTION, corrective_rag
from examples.models import langchain_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import ChatProxy, Witness


def steps(rank1: Rank1, question: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the nodes that ran, each with its update."""
    graph = corrective_rag(rank1, langchain_chat_model())
    updates = graph.stream({"question": question}, stream_mode="updates")
    return [(node, update) for step in updates for node, update in step.items()]


def test_a_question_with_relevant_passages_is_answered_at_once(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    done = steps(rank1, "How do I remove a directory tree?")
    assert [node for node, _ in done] == ["retrieve", "grade", "answer"]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[0])
    (prompt,) = chat.prompts()
    assert {text for text in witness.passages[0] if text in prompt} == set(kept)
    assert not any(text in chat.system_prompts() for text in kept)
    assert done[-1] == ("answer", {"answer": chat.replies[0]})


def test_a_question_without_relevant_passages_is_rewritten(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    done = steps(rank1, QUESTION)
    assert [node for node, _ in done[:5]] == ["retrieve", "grade", "rewrite", "retrieve", "grade"]
    assert done[1] == ("grade", {"documents": []})
    assert QUESTION in chat.prompts()[0]
    assert witness.queries[:2] == [QUESTION, chat.replies[0]]
    assert chat.replies[0] != QUESTION
    if done[-1][0] == "answer":
        # The user's own question is answered, from the passages of the rewritten one.
        prompt = chat.prompts()[-1]
        assert QUESTION in prompt
        assert {text for text in witness.passages[-1] if text in prompt} == set(
            witness.relevant()[:3]
        )


def test_it_gives_up_in_the_end(rank1: Rank1, witness: Witness, chat: ChatProxy) -> None:
    done = steps(rank1, "How do I bake bread?")
    assert len(witness.queries) == MOST_REWRITES + 1
    assert [len(update["documents"]) for node, update in done if node == "grade"] == [0] * 3
    assert done[-1] == ("rewrite", {"answer": NOTHING_FOUND})
    assert len(chat.calls) == MOST_REWRITES
