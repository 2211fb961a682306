"""LlamaIndex: a query engine and a chat engine that read only the nodes that Rank1 keeps.

Set CHAT_BASE_URL and CHAT_MODEL to a chat model (see examples/models.py), then:

    python -m examples.llama_index_rag
"""

from __future__ import annotations

from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms import LLM
from llama_index.core.query_engine import BaseQueryEngine

from examples.models import judge, llama_index_chat_model
from examples.vector_stores import llama_index_store
from rank1_integrations import Rank1
from rank1_integrations.llama_index import Rank1Postprocessor

QUESTION = "How do I remove a directory tree?"
CONVERSATION = ["How do I copy a file with its permissions?", "Which function copies permissions?"]


def query_engine(rank1: Rank1, llm: LLM) -> BaseQueryEngine:
    """Return an engine that answers one question from the relevant ones of six nodes."""
    return llama_index_store().as_query_engine(
        llm=llm,
        similarity_top_k=6,
        node_postprocessors=[Rank1Postprocessor(rank1=rank1, score_threshold=0.5, top_n=3)],
    )


def chat_engine(rank1: Rank1, llm: LLM) -> BaseChatEngine:
    """Return an engine for conversations: `llm` condenses them into a question to answer.

    The engines that LlamaIndex calls "context" put the nodes into the system message, where
    instructions in a retrieved text speak with the authority of the application's own.
    """
    return CondenseQuestionChatEngine.from_defaults(query_engine=query_engine(rank1, llm), llm=llm)


def main() -> None:
    """Ask the query engine once and the chat engine twice, and show the nodes that they read."""
    llm = llama_index_chat_model()
    with judge() as rank1:
        response = query_engine(rank1, llm).query(QUESTION)
        print(QUESTION, response, sep="\n")
        for node in response.source_nodes:
            print(f"- {node.metadata['source']}: {node.metadata['relevance_reasoning']}")

        engine = chat_engine(rank1, llm)
        for message in CONVERSATION:
            reply = engine.chat(message)
            print("", message, reply, sep="\n")
            for node in reply.source_nodes:
                print(f"- {node.metadata['source']}: {node.metadata['relevance_reasoning']}")


if __name__ == "__main__":
    main()
