"""A chatbot that remembers the conversation and filters its passages within 3 seconds.

Each message is answered from passages that were retrieved for it. Shortly before the deadline,
reasoning that still runs is cut and its verdicts are forced. Set CHAT_BASE_URL and CHAT_MODEL to a
chat model (see examples/models.py), then:

    python -m examples.chatbot
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse, wrap_model_call
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph

from examples.langchain_rag import filtered_retriever, join
from examples.models import judge, langchain_chat_model
from rank1_integrations import Judgment, Rank1

DEADLINE = 3.0

TASK = "Answer the user's last message from the passages below it, and from nothing else."


def chatbot(rank1: Rank1, chat_model: BaseChatModel) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return an agent that remembers each thread and reads the passages of the last message."""
    retriever = filtered_retriever(rank1)

    @wrap_model_call
    def add_passages(
        request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        # The system message is for instructions. Retrieved text may hold some of its own, which
        # must not speak with its authority.
        *earlier, last = request.messages
        documents = retriever.invoke(search_query(request.messages))
        message = HumanMessage(f"{last.text}\n\nPassages:\n\n{join(documents)}")
        return handler(request.override(messages=[*earlier, message]))

    return create_agent(
        chat_model, system_prompt=TASK, middleware=[add_passages], checkpointer=InMemorySaver()
    )


def search_query(messages: list[AnyMessage]) -> str:
    """Return the user's last two messages: the first says what "it" is in the second."""
    texts = [message.text for message in messages if isinstance(message, HumanMessage)]
    return " ".join(texts[-2:])


def show(query: str, passages: list[str], judgments: list[Judgment]) -> None:
    """Print how each passage was judged, as `on_judgments`."""
    for passage, judgment in zip(passages, judgments, strict=True):
        score = "  -  " if judgment.score is None else f"{judgment.score:.3f}"
        print(f"  {score} {judgment.finish_reason:9} {passage[:70]}")


def main() -> None:
    """Talk until the user sends an empty line."""
    # A server that fails is no reason to end the conversation: unscored passages come last.
    with judge(deadline=DEADLINE, on_error="keep", on_judgments=show) as rank1:
        bot = chatbot(rank1, langchain_chat_model())
        thread: Any = {"configurable": {"thread_id": "console"}}
        while message := input("> ").strip():
            reply = bot.invoke({"messages": [HumanMessage(message)]}, thread)
            print(reply["messages"][-1].text)


if __name__ == "__main__":
    main()
