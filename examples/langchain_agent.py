"""A LangChain agent that searches documentation and reads only what Rank1 keeps, in two ways.

    CHAT_BASE_URL=http://localhost:8000/v1 CHAT_MODEL=... python -m examples.langchain_agent

The server must let the model call tools (`vllm serve ... --enable-auto-tool-choice`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse, wrap_model_call
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, create_retriever_tool
from langgraph.graph.state import CompiledStateGraph

from examples.langchain_rag import filtered_retriever
from examples.models import judge, langchain_chat_model
from examples.vector_stores import langchain_store
from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor, Rank1FilterMiddleware

Agent = CompiledStateGraph[Any, Any, Any, Any]

QUESTION = "How do I make a temporary directory?"

TASK = (
    "Search Python's documentation for the user's question. "
    'For "How do I open a file?" search {"query": "How do I open a file?"}.'
)


def agent_with_filtered_tool(rank1: Rank1, chat_model: BaseChatModel) -> Agent:
    """The simplest way: the tool's retriever filters what it found by the agent's own query."""
    return create_agent(
        chat_model,
        tools=[search_tool(filtered_retriever(rank1))],
        system_prompt=TASK,
        middleware=[search_first],
    )


def agent_with_middleware(rank1: Rank1, chat_model: BaseChatModel) -> Agent:
    """For tools that are not yours to change; here what counts is the user's question."""
    compressor = Rank1Compressor(rank1=rank1, score_threshold=0.5, top_n=3)
    return create_agent(
        chat_model,
        tools=[search_tool(langchain_store().as_retriever(search_kwargs={"k": 6}))],
        system_prompt=TASK,
        middleware=[search_first, Rank1FilterMiddleware(compressor, query=users_question)],
    )


def search_tool(retriever: BaseRetriever) -> BaseTool:
    """A tool whose messages carry the documents themselves, as `artifact`, beside their text."""
    return create_retriever_tool(
        retriever,
        "search_documentation",
        "Search Python's documentation for passages that answer a question.",
        response_format="content_and_artifact",
    )


def users_question(request: ToolCallRequest) -> str:
    """What the user asked last, however the agent puts it."""
    messages = request.state["messages"]
    return next(m.text for m in reversed(messages) if isinstance(m, HumanMessage))


@wrap_model_call
def search_first(
    request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
) -> ModelResponse[Any]:
    """Make the model search before it answers: small ones seldom do so by themselves."""
    if isinstance(request.messages[-1], HumanMessage):
        request = request.override(tool_choice="any")
    return handler(request)


def main() -> None:
    """Ask both agents the same and show what they read."""
    with judge() as rank1:
        for make in (agent_with_filtered_tool, agent_with_middleware):
            agent = make(rank1, langchain_chat_model())
            messages = agent.invoke({"messages": [HumanMessage(QUESTION)]})["messages"]
            print(make.__name__, QUESTION, messages[-1].text, sep="\n")
            for message in messages:
                if isinstance(message, ToolMessage):
                    for found in message.artifact:
                        metadata = found.metadata
                        print(f"- {metadata['source']}: {metadata['relevance_reasoning']}")


if __name__ == "__main__":
    main()
