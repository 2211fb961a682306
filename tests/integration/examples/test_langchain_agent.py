"""The agents: the chat model calls the tool by itself and reads the kept passages."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from examples.langchain_agent import (
    QUESTION,
    Agent,
    agent_with_filtered_tool,
    agent_with_middleware,
)
from examples.models import langchain_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import ChatProxy, Witness


@pytest.fixture(autouse=True)
def room_for_a_call(chat: ChatProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the tool takes about 40 tokens."""
    monkeypatch.setenv("CHAT_MAX_TOKENS", "64")


def ask(agent: Agent) -> tuple[dict[str, Any], ToolMessage, str]:
    """Return the chat model's search, the tool's message, and the chat model's answer."""
    _, call, result, answer = agent.invoke({"messages": [HumanMessage(QUESTION)]})["messages"]
    assert isinstance(call, AIMessage)
    assert isinstance(result, ToolMessage)
    (tool_call,) = call.tool_calls
    return tool_call["args"], result, answer.text


def check(result: ToolMessage, witness: Witness, chat: ChatProxy) -> None:
    """Check that the tool's message and the chat model's prompt hold the kept passages only."""
    kept = witness.relevant()[:3]
    assert len(kept) < len(witness.passages[0]) == 6
    assert [document.page_content for document in result.artifact] == kept
    _, prompt = chat.prompts()
    assert {text for text in witness.passages[0] if text in prompt} == set(kept)
    assert not any(text in chat.system_prompts() for text in witness.passages[0])


def test_a_filtered_tool_returns_passages_relevant_to_the_agents_query(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    arguments, result, answer = ask(agent_with_filtered_tool(rank1, langchain_chat_model()))
    assert witness.queries == [arguments["query"]]
    check(result, witness, chat)
    assert answer == chat.replies[1]
    assert answer.strip()


def test_the_middleware_keeps_passages_relevant_to_the_users_question(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    _, result, answer = ask(agent_with_middleware(rank1, langchain_chat_model()))
    assert witness.queries == [QUESTION]
    assert witness.relevant()
    check(result, witness, chat)
    assert answer == chat.replies[1]
    assert answer.strip()
