"""A chatbot that remembers the conversation, and never waits longer for its passages than 3 s.

    CHAT_BASE_URL=http://localhost:8000/v1 CHAT_MODEL=... python -m examples.chatbot

Each message is answered from passages that were retrieved for it and filtered before the deadline.
Thoughts that are still running then are cut, and their verdicts asked for.
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, dynamic_prompt
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph

from examples.langchain_rag import filtered_retriever, join
from examples.models import judge, langchain_chat_model
from rank1_integrations import Judgment, Rank1

DEADLINE = 3.0


def chatbot(rank1: Rank1, chat_model: BaseChatModel) -> CompiledStateGraph[Any, Any, Any, Any]:
    """An agent with a memory of each thread, whose instructions hold this message's passages."""
    retriever = filtered_retriever(rank1)

    @dynamic_prompt
    def instructions(request: ModelRequest[Any]) -> str:
        documents = retriever.invoke(search_query(request.messages))
        return f"Answer from these passages alone:\n\n{join(documents)}"

    return create_agent(chat_model, middleware=[instructions], checkpointer=InMemorySaver())


def search_query(messages: list[AnyMessage]) -> str:
    """The user's last two messages: the one before says what "it" is in the last."""
    asked = [message.text for message in messages if isinstance(message, HumanMessage)]
    return " ".join(asked[-2:])


def show(query: str, passages: list[str], judgments: list[Judgment]) -> None:
    """Tell how each passage was judged; given to the judge as `on_judgments`."""
    for passage, judgment in zip(passages, judgments, strict=True):
        score = "  -  " if judgment.score is None else f"{judgment.score:.3f}"
        print(f"  {score} {judgment.finish:9} {passage[:70]}")


def main() -> None:
    """Talk until the user sends an empty line."""
    # What could not be judged in time is no error here: it is read last.
    with judge(deadline=DEADLINE, on_error="keep", on_judgments=show) as rank1:
        bot = chatbot(rank1, langchain_chat_model())
        thread: Any = {"configurable": {"thread_id": "console"}}
        while message := input("> ").strip():
            reply = bot.invoke({"messages": [HumanMessage(message)]}, thread)
            print(reply["messages"][-1].text)


if __name__ == "__main__":
    main()
