"""The chatbot remembers, reads the passages of the last message, and keeps its deadline."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage

from examples.chatbot import TASK, chatbot
from examples.models import judge, langchain_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import ChatProxy, Witness

FIRST, SECOND = "How do I copy a file?", "And with its permissions?"


def talk(rank1: Rank1, *messages: str) -> list[str]:
    """Return the chatbot's replies in one conversation."""
    bot = chatbot(rank1, langchain_chat_model())
    thread: Any = {"configurable": {"thread_id": "a conversation"}}
    return [
        bot.invoke({"messages": [HumanMessage(message)]}, thread)["messages"][-1].text
        for message in messages
    ]


def test_a_message_is_answered_from_its_own_passages_and_the_conversation(
    rank1: Rank1, witness: Witness, chat: ChatProxy
) -> None:
    replies = talk(rank1, FIRST, SECOND)
    assert witness.queries == [FIRST, f"{FIRST} {SECOND}"]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[1])
    instructions, *conversation, last = chat.calls[1].body["messages"]
    assert instructions["content"] == TASK
    assert [message["content"] for message in conversation] == [FIRST, replies[0]]
    assert last["role"] == "user"
    assert last["content"].startswith(SECOND)
    assert {text for text in witness.passages[1] if text in last["content"]} == set(kept)
    assert replies == chat.replies
    assert all(reply.strip() for reply in replies)


def test_past_the_deadline_reasoning_is_cut_and_the_reply_comes(
    witness: Witness, chat: ChatProxy
) -> None:
    with judge(deadline=0.001, on_error="keep", on_judgments=witness.see) as rank1:
        (reply,) = talk(rank1, FIRST)
    (judgments,) = witness.judgments
    assert "concluded" not in {judgment.finish_reason for judgment in judgments}
    (read,) = chat.prompts()
    assert 0 < sum(text in read for text in witness.passages[0]) <= 3
    assert [reply] == chat.replies
    assert reply.strip()
