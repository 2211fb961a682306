"""The chatbot: it remembers, reads passages of the message at hand, and keeps its deadline."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage

from examples.chatbot import chatbot
from examples.models import judge, langchain_chat_model
from rank1_integrations import Rank1
from tests.integration.examples.conftest import Witness, prompt
from tests.integration.tampering_proxy import TamperingProxy

FIRST, SECOND = "How do I copy a file?", "And with its permissions?"


def talk(rank1: Rank1, *messages: str) -> list[str]:
    """The chatbot's replies in one conversation."""
    bot = chatbot(rank1, langchain_chat_model())
    thread: Any = {"configurable": {"thread_id": "a conversation"}}
    return [
        bot.invoke({"messages": [HumanMessage(message)]}, thread)["messages"][-1].text
        for message in messages
    ]


def test_a_message_is_answered_from_its_own_passages_and_what_was_said_before(
    rank1: Rank1, witness: Witness, chat: TamperingProxy
) -> None:
    replies = talk(rank1, FIRST, SECOND)
    assert witness.queries == [FIRST, f"{FIRST} {SECOND}"]
    kept = witness.relevant()[:3]
    assert 0 < len(kept) < len(witness.passages[1])
    instructions, *conversation = chat.calls[1].body["messages"]
    assert {text for text in witness.passages[1] if text in instructions["content"]} == set(kept)
    assert [said["content"] for said in conversation] == [FIRST, replies[0], SECOND]
    assert all(reply.strip() for reply in replies)


def test_when_time_is_up_thoughts_are_cut_and_the_reply_comes_all_the_same(
    witness: Witness, chat: TamperingProxy
) -> None:
    with judge(deadline=0.001, on_error="keep", on_judgments=witness.see) as rank1:
        (reply,) = talk(rank1, FIRST)
    (judgments,) = witness.judgments
    assert "concluded" not in {judgment.finish for judgment in judgments}
    read = prompt(chat.calls[0])
    assert 0 < sum(text in read for text in witness.passages[0]) <= 3
    assert reply.strip()
