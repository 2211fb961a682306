"""The scripted engine answers as its script says, and no more kindly than a real one."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from rank1_integrations import EngineError, Rank1
from rank1_integrations.engines.base import Completion, Request, TokenIds
from rank1_integrations.scoring.prompt import END_OF_REASONING, FALSE, TRUE, build_prompt
from rank1_integrations.scoring.steps import FINISHED_REASONING
from rank1_integrations.testing import ScriptedEngine

PROMPT = build_prompt("query", "passage").text
TEXTS = ["", " words, code(x<3)\n\n- a list\t", " é 你好。हिन्दी 😀", "a</think>b<think>", "x" * 200]


def scripted(reasoning: str = " one two three.", **settings: Any) -> ScriptedEngine:
    return ScriptedEngine(lambda _: 1.0, reasoning=reasoning, **settings)


def reason(prompt: str | TokenIds, max_tokens: int = 100) -> Request:
    return Request(prompt=prompt, max_tokens=max_tokens, stop=END_OF_REASONING)


def verdict(prompt: str | TokenIds) -> Request:
    return Request(prompt=prompt, max_tokens=1, labels=(TRUE, FALSE))


def log_odds(completion: Completion) -> float:
    return completion.label_logprobs[TRUE] - completion.label_logprobs[FALSE]


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_survives_its_token_ids(text: str) -> None:
    engine = scripted()
    assert await engine.decode(engine.encode(text)) == text


def test_a_token_is_an_ascii_word_a_control_token_or_one_byte_of_another_character() -> None:
    assert len(scripted().encode("Two words</think>\n你")) == 2 + 1 + 1 + 3


async def test_token_ids_mean_the_same_to_every_engine() -> None:
    assert await scripted().decode(scripted().encode(" some words")) == " some words"


async def test_text_that_is_no_valid_unicode_can_be_counted() -> None:
    assert await scripted().count_tokens("\ud800") == 3


@pytest.mark.parametrize("text", TEXTS)
async def test_the_first_tokens_are_a_beginning_of_whole_characters(text: str) -> None:
    engine = scripted()
    for count in range(len(engine.encode(text)) + 1):
        beginning = await engine.first_tokens(text, count)
        assert text.startswith(beginning)
        assert len(engine.encode(beginning)) <= count


@pytest.mark.parametrize("expected", [0.1, 1 / 3, -2.7, 0.0, 40.0, math.inf])
async def test_log_odds_are_exactly_the_scripts(expected: float) -> None:
    completion = await ScriptedEngine(lambda _: expected).complete(verdict(PROMPT))
    assert log_odds(completion) == expected
    assert completion.text == (TRUE if expected > 0 else FALSE)


async def test_direct_verdicts_have_a_script_of_their_own() -> None:
    engine = ScriptedEngine(lambda _: 1.0, direct=lambda _: 2.0)
    direct = f"{PROMPT}\n{FINISHED_REASONING}\n{END_OF_REASONING}"
    forced = f"{PROMPT}\n It says: {FINISHED_REASONING} No.\n{END_OF_REASONING}"
    assert log_odds(await engine.complete(verdict(direct))) == 2.0
    assert log_odds(await engine.complete(verdict(engine.encode(direct)))) == 2.0
    assert log_odds(await engine.complete(verdict(forced))) == 1.0


async def test_an_exception_of_the_script_is_raised() -> None:
    engine = ScriptedEngine(lambda _: LookupError("the script says so"))
    with pytest.raises(LookupError, match="the script says so"):
        await engine.complete(reason(PROMPT))


@pytest.mark.parametrize("whole", [" one two three.", " 你好。é 😀 ok.", " a<b\n\n- c"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_reasoning_continues_in_token_ids_where_they_leave_off(whole: str, size: int) -> None:
    engine = scripted(whole)
    ids, ended = engine.encode(PROMPT), "length"
    while ended == "length":
        completion = await engine.complete(reason(ids, size))
        assert completion.prompt_ids == ids and completion.token_ids is not None
        ids, ended = (*ids, *completion.token_ids), completion.ended
    assert ended == "stop"
    assert await engine.decode(ids) == f"{PROMPT}{whole}{END_OF_REASONING}"


@pytest.mark.parametrize("size", range(1, 15))
async def test_reasoning_continues_in_text_with_the_character_that_was_broken(size: int) -> None:
    engine, whole = scripted(" 你好。é ok.", tells_ids=False), " 你好。é ok."
    first = (await engine.complete(reason(PROMPT, size))).text
    second = (await engine.complete(reason(f"{PROMPT}{first}"))).text
    assert first.rstrip("\ufffd") + second == whole


async def test_a_prompt_that_lost_some_of_the_reasoning_is_refused() -> None:
    with pytest.raises(EngineError, match="Was something lost between two parts"):
        await scripted().complete(reason(f"{PROMPT} one three"))


async def test_no_more_tokens_are_generated_than_asked_for_and_the_stop_text_counts() -> None:
    engine = scripted(" one two.")
    answers = [await engine.complete(reason(PROMPT, size)) for size in (1, 2, 3, 4)]
    assert [one.completion_tokens for one in answers] == [1, 2, 3, 3]
    assert [one.ended for one in answers] == ["length", "length", "stop", "stop"]
    assert [one.text for one in answers] == [" one", " one two.", " one two.", " one two."]


async def test_without_a_stop_text_the_verdict_follows_and_the_sequence_ends() -> None:
    completion = await scripted(" one.").complete(Request(prompt=PROMPT, max_tokens=9))
    assert (completion.text, completion.ended) == (" one.</think> true", "eos")


async def test_counts_and_token_ids_can_be_kept_back() -> None:
    engine = scripted(tells_usage=False, tells_ids=False)
    completion = await engine.complete(reason(PROMPT))
    assert completion == Completion(text=" one two three.", ended="stop")
    assert await engine.decode(engine.encode("text")) is None


async def test_a_request_longer_than_the_context_is_refused() -> None:
    engine = scripted(context_length=await scripted().count_tokens(PROMPT) + 5)
    await engine.complete(reason(PROMPT, 5))
    with pytest.raises(EngineError, match="too short"):
        await engine.complete(reason(PROMPT, 6))


async def test_a_request_is_answered_when_the_hold_lets_go() -> None:
    released, held = asyncio.Event(), asyncio.Semaphore(0)

    async def hold(_: Request) -> None:
        held.release()
        await released.wait()

    engine = scripted(hold=hold)
    tasks = [asyncio.create_task(engine.complete(reason(PROMPT))) for _ in range(3)]
    for _ in tasks:
        await held.acquire()
    assert (engine.running, engine.most_running, len(engine.requests)) == (3, 3, 3)
    tasks[0].cancel()
    released.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert all(isinstance(one, Completion) for one in others)
    assert (engine.running, engine.cancelled) == (0, 1)


async def test_requests_that_run_when_the_engine_is_closed_fail() -> None:
    engine = scripted()
    task = asyncio.create_task(engine.complete(reason(PROMPT)))
    await asyncio.sleep(0)
    await engine.aclose()
    with pytest.raises(EngineError, match="closed"):
        await task
    assert engine.closed


async def test_an_engine_after_a_fork_has_the_script_and_nothing_else() -> None:
    engine = scripted(" Hm.", seconds=0.001)
    await engine.complete(reason(PROMPT))
    await engine.aclose()
    copy = engine.after_fork()
    assert (copy.requests, copy.closed, copy.seconds) == ([], False, 0.001)
    assert (await copy.complete(reason(PROMPT))).text == " Hm."


def test_a_reranker_on_the_scripted_engine_keeps_what_the_script_wants() -> None:
    with Rank1(ScriptedEngine(lambda text: 3.0 if "France" in text else -3.0)) as rank1:
        result = rank1.rank("capital", ["Rome.", "Paris is in France."], score_threshold=0.5)
    assert [(one.index, one.log_odds) for one in result] == [(1, 3.0)]
    assert result[0].reasoning == "I have read: Paris is in France.."
