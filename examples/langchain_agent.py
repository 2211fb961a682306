"""Two LangChain agents that search documentation and read only the passages that Rank1 keeps.

Set CHAT_BASE_URL and CHAT_MODEL to a chat model (see examples/models.py), then:

    python -m examples.langchain_agent

Its server must let it call tools (`vllm serve ... --enable-auto-tool-choice`).
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
    """Return an agent whose tool filters its passages by the agent's own query: the simplest."""
    return create_agent(
        chat_model,
        tools=[search_tool(filtered_retriever(rank1))],
        system_prompt=TASK,
        middleware=[search_first],
    )


def agent_with_middleware(rank1: Rank1, chat_model: BaseChatModel) -> Agent:
    """Return an agent for tools that you can't change; it filters by the user's question."""
    compressor = Rank1Compressor(rank1=rank1, score_threshold=0.5, top_n=3)
    return create_agent(
        chat_model,
        tools=[search_tool(langchain_store().as_retriever(search_kwargs={"k": 6}))],
        system_prompt=TASK,
        middleware=[search_first, Rank1FilterMiddleware(compressor, query=users_question)],
    )


def search_tool(retriever: BaseRetriever) -> BaseTool:
    """Return a tool whose messages carry the documents as `artifact`, beside their text."""
    return create_retriever_tool(
        retriever,
        "search_documentation",
        "Search Python's documentation for passages that answer a question.",
        response_format="content_and_artifact",
    )


def users_question(request: ToolCallRequest) -> str:
    """Return the user's last message, not the agent's search terms."""
    messages = request.state["messages"]
    return next(m.text for m in reversed(messages) if isinstance(m, HumanMessage))


@wrap_model_call
def search_first(
    request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
) -> ModelResponse[Any]:
    """Make the model search before it answers: small models rarely do so by themselves."""
    if isinstance(request.messages[-1], HumanMessage):
        request = request.override(tool_choice="any")
    return handler(request)


def main() -> None:
    """Ask both agents the same question and show the passages that they read."""
    with judge() as rank1:
        for make in (agent_with_filtered_tool, agent_with_middleware):
            agent = make(rank1, langchain_chat_model())
            messages = agent.invoke({"messages": [HumanMessage(QUESTION)]})["messages"]
            print(make.__name__, QUESTION, messages[-1].text, sep="\n")
            for message in messages:
                if isinstance(message, ToolMessage):
                    for document in message.artifact:
                        metadata = document.metadata
                        print(f"- {metadata['source']}: {metadata['relevance_reasoning']}")


if __name__ == "__main__":
    main()
