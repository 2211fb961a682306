"""The LlamaIndex engines: the chat model reads the kept nodes only."""

from __future__ import annotations

from examples.llama_index_rag import CONVERSATION, QUESTION, chat_engine, query_engine
from examples.models import llama_index_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import ChatProxy, Witness


def test_the_query_engine_reads_the_kept_nodes_only(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    response = query_engine(rank1, llama_index_chat_model()).query(QUESTION)

    assert witness.queries == [QUESTION]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[0]) == 6
    assert [node.node.get_content() for node in response.source_nodes] == kept
    (prompt,) = chat.prompts()
    assert {text for text in witness.passages[0] if text in prompt} == set(kept)
    assert not any(text in chat.system_prompts() for text in kept)
    assert QUESTION in prompt
    # The judge's reasoning is for traces, not for the chat model.
    assert "the query asks for" not in prompt
    assert [str(response)] == chat.replies
    assert str(response).strip()


def test_the_chat_engine_judges_against_the_condensed_question(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    engine = chat_engine(rank1, llama_index_chat_model())
    first = str(engine.chat(CONVERSATION[0]))
    assert witness.queries == [CONVERSATION[0]]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[0])
    (prompt,) = chat.prompts()
    assert {text for text in witness.passages[0] if text in prompt} == set(kept)
    assert not any(text in chat.system_prompts() for text in kept)
    assert [first] == chat.replies
    assert first.strip()

    engine.chat(CONVERSATION[1])
    _, condensing, *answering = chat.prompts()
    assert all(text in condensing for text in (CONVERSATION[0], first, CONVERSATION[1]))
    assert witness.queries[1] == chat.replies[1]
    # Without a relevant node, LlamaIndex answers without the chat model.
    kept = witness.relevant()[:3]
    assert len(answering) == (1 if kept else 0)
    assert all(text in prompt for prompt in answering for text in kept)
    assert not any(text in chat.system_prompts() for text in kept)
