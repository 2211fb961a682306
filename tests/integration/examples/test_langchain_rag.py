"""The LangChain chain: the chat model reads the kept passages only."""

from __future__ import annotations

from examples.langchain_rag import QUESTION, rag
from examples.models import langchain_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import ChatProxy, Witness


def test_the_chat_model_reads_the_kept_passages_only(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    result = rag(rank1, langchain_chat_model()).invoke({"question": QUESTION})

    assert witness.queries == [QUESTION]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[0]) == 6
    assert [document.page_content for document in result["documents"]] == kept
    (prompt,) = chat.prompts()
    assert {text for text in witness.passages[0] if text in prompt} == set(kept)
    assert not any(text in chat.system_prompts() for text in kept)
    assert QUESTION in prompt
    assert [result["answer"]] == chat.replies
    assert result["answer"].strip()


async def test_it_runs_asynchronously_too(rank1: Rank1, chat: ChatProxy) -> None:
    result = await rag(rank1, langchain_chat_model()).ainvoke({"question": QUESTION})
    assert 0 < len(result["documents"]) <= 3
    assert [result["answer"]] == chat.replies
