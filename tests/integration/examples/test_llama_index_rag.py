"""The LlamaIndex engines: the chat model reads what was kept, and nothing else."""

from __future__ import annotations

from llama_index.core.schema import NodeWithScore

from examples.llama_index_rag import CONVERSATION, QUESTION, chat_engine, query_engine
from examples.models import llama_index_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import Witness, prompt
from tests.integration.tampering_proxy import TamperingProxy


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content() for node in nodes]


def test_the_query_engine_reads_the_kept_nodes_only(
    rank1: Rank1, witness: Witness, chat: TamperingProxy
) -> None:
    response = query_engine(rank1, llama_index_chat_model()).query(QUESTION)

    assert witness.queries == [QUESTION]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[0]) == 6
    assert [node.node.get_content() for node in response.source_nodes] == kept
    (sent,) = chat.calls
    read = prompt(sent)
    assert {text for text in witness.passages[0] if text in read} == set(kept)
    assert QUESTION in read
    # The model's reasons stay between the framework and who reads its traces.
    assert "the query asks for" not in read
    assert str(response).strip()


def test_the_chat_engine_judges_by_the_question_made_of_the_conversation(
    rank1: Rank1, witness: Witness, chat: TamperingProxy
) -> None:
    engine = chat_engine(rank1, llama_index_chat_model())
    first = engine.chat(CONVERSATION[0])
    assert witness.queries == [CONVERSATION[0]]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[0])
    (sent,) = chat.calls
    assert {text for text in witness.passages[0] if text in prompt(sent)} == set(kept)
    assert first.response.strip()

    second = engine.chat(CONVERSATION[1])
    assert CONVERSATION[0] in prompt(chat.calls[1])
    assert CONVERSATION[1] in prompt(chat.calls[1])
    print(witness.queries, second, chat.calls[2:])
