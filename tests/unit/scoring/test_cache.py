"""Cached judgments: what decides a key, who shares one, and what a bad entry or slow cache does."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from peewee import SqliteDatabase, TextField
from playhouse.kv import KeyValue

from rank1_integrations import Adaptive, EngineError, Judgment, Rank1
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script
from tests.unit.gates import Gate, is_reasoning

PASSAGES = ["a long passage, with many words", "short", "of middling length"]


def make(cache: Any, hold: Any = None, **options: Any) -> tuple[Rank1, ScriptedEngine]:
    engine = ScriptedEngine(length_script, hold=hold)
    return Rank1(engine, cache=cache, **options), engine


def test_a_judgment_is_cached_with_its_reasoning() -> None:
    cache: dict[str, str] = {}
    first = make(cache)[0].judge("q", PASSAGES)
    rank1, engine = make(cache)
    again = rank1.judge("q", PASSAGES[::-1])
    assert engine.requests == []
    assert [one.cached for one in [*first, *again]] == [False] * 3 + [True] * 3
    for before, after in zip(first, again[::-1], strict=True):
        assert (after.log_odds, after.reasoning) == (before.log_odds, before.reasoning)
    assert [one.index for one in again] == [0, 1, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"max_reasoning_tokens": 100},
        {"relevance": "Evidence for {query}"},
        {"thinking": "none"},
        {"instruction": "Only recent ones."},
        {"thinking": Adaptive(max_share=1)},
        {"cache_namespace": "retrained"},
    ],
)
def test_what_changes_a_judgment_is_part_of_its_key(other: dict[str, Any]) -> None:
    cache: dict[str, str] = {}
    make(cache)[0].judge("q", PASSAGES)
    rank1, engine = make(cache, **other)
    assert not any(one.cached for one in rank1.judge("q", PASSAGES))
    assert engine.requests
    rank1, engine = make(cache, **other)
    assert all(one.cached for one in rank1.judge("q", PASSAGES))
    assert engine.requests == []


class Checkpoint(ScriptedEngine):
    """A checkpoint served under the same name as others."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(length_script)
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        return self._fingerprint


def test_the_engines_fingerprint_is_part_of_the_key() -> None:
    """A folder can be retrained, and a server restarted on another model of the same name."""
    cache: dict[str, str] = {}
    Rank1(Checkpoint("a"), cache=cache).judge("q", PASSAGES)
    assert not any(one.cached for one in Rank1(Checkpoint("b"), cache=cache).judge("q", PASSAGES))
    assert all(one.cached for one in Rank1(Checkpoint("a"), cache=cache).judge("q", PASSAGES))


def test_without_a_fingerprint_the_name_tells_models_apart() -> None:
    cache: dict[str, str] = {}
    make(cache)[0].judge("q", PASSAGES)
    rank1, engine = make(cache)
    engine.model = "another"
    assert not any(one.cached for one in rank1.judge("q", PASSAGES))


def test_the_query_is_part_of_the_key() -> None:
    cache: dict[str, str] = {}
    make(cache)[0].judge("q", PASSAGES)
    assert not any(one.cached for one in make(cache)[0].judge("another", PASSAGES))


@pytest.mark.parametrize(
    "other",
    [
        {"max_concurrency": 1},
        {"straggler": 2},
        {"on_error": "keep"},
        {"deadline": 60},
        {"enough": 3},
        {"enough": 3, "deadline": 60},
    ],
)
def test_what_does_not_change_a_judgment_is_not(other: dict[str, Any]) -> None:
    cache: dict[str, str] = {}
    make(cache)[0].judge("q", PASSAGES)
    rank1, engine = make(cache, **other)
    assert all(one.cached for one in rank1.judge("q", PASSAGES))
    assert engine.requests == []


async def test_the_same_pair_of_many_callers_is_judged_once() -> None:
    gate = Gate()
    rank1, engine = make({}, hold=gate.hold())
    calls = [asyncio.create_task(rank1.ajudge("q", ["p", "p"])) for _ in range(5)]
    await asyncio.to_thread(gate.await_arrivals)
    gate.open()
    many = await asyncio.gather(*calls)
    assert len(engine.requests) == 2  # reasoning and its verdict
    assert len({one.log_odds for judgments in many for one in judgments}) == 1
    assert sum(not one.cached for judgments in many for one in judgments) == 1


async def test_when_the_first_caller_leaves_the_second_takes_over() -> None:
    gate = Gate()
    rank1, engine = make({}, hold=gate.hold())
    first = asyncio.create_task(rank1.ajudge("q", ["p"]))
    await asyncio.to_thread(gate.await_arrivals)
    second = asyncio.create_task(rank1.ajudge("q", ["p"]))
    first.cancel()
    await asyncio.to_thread(gate.await_arrivals, 2)
    gate.open()
    (judgment,) = await second
    assert judgment.score is not None
    assert not judgment.cached
    assert engine.cancelled == 1


def test_failures_are_not_cached() -> None:
    cache: dict[str, str] = {}
    rank1, _ = make(cache, on_error="keep")
    assert rank1.judge("q", ["fail"])[0].finish_reason == "failed"
    assert cache == {}


@pytest.mark.parametrize("held", [is_reasoning, lambda request: type(request.prompt) is tuple])
def test_a_verdict_that_the_deadline_forced_is_not_cached(held: Any) -> None:
    cache: dict[str, str] = {}

    def engine(hold: Any = None) -> ScriptedEngine:
        return ScriptedEngine(length_script, reasoning=" word" * 100, hold=hold)

    (hurried,) = Rank1(engine(Gate().hold(held)), cache=cache, deadline=0.4).judge("q", ["p"])
    (patient,) = Rank1(engine(), cache=cache).judge("q", ["p"])
    assert hurried.finish_reason in ("direct", "forced")
    assert patient.finish_reason == "concluded"
    assert not patient.cached


def test_a_verdict_that_the_straggler_limit_forced_is_not_cached() -> None:
    cache: dict[str, str] = {}

    def engine() -> ScriptedEngine:
        return ScriptedEngine(
            length_script, reasoning=lambda passage: " word" * (500 if passage == "long" else 5)
        )

    passages = [*(f"passage {n}" for n in range(10)), "long"]
    limited = Rank1(engine(), cache=cache, straggler=2).judge("q", passages)
    unlimited = Rank1(engine(), cache=cache).judge("q", passages)
    assert [one.finish_reason for one in limited[-1:] + unlimited[-1:]] == ["forced", "concluded"]
    assert [one.cached for one in unlimited] == [True] * 10 + [False]


def test_reasoning_cut_at_max_reasoning_tokens_is_cached() -> None:
    cache: dict[str, str] = {}
    for is_cached in (False, True):
        (judgment,) = make(cache, max_reasoning_tokens=2)[0].judge("q", ["p"])
        assert (judgment.finish_reason, judgment.cached) == ("forced", is_cached)


def test_under_a_deadline_a_cached_judgment_after_reasoning_needs_no_direct_verdict() -> None:
    cache: dict[str, str] = {}
    make(cache)[0].judge("q", PASSAGES)
    rank1, engine = make(cache, deadline=60)
    assert [one.finish_reason for one in rank1.judge("q", PASSAGES)] == ["concluded"] * 3
    assert engine.requests == []


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "no json",
        "[]",
        "{}",
        '{"log_odds": 1.0}',
        None,
        7,
        b"\xff",
        pytest.param("log_odds=NaN", id="a number as text"),
    ],
)
def test_a_corrupt_or_foreign_entry_is_a_miss_with_a_warning(
    entry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache: dict[str, Any] = {}
    (before,) = make(cache)[0].judge("q", ["p"])
    (key,) = cache
    cache[key] = entry
    (after,) = make(cache)[0].judge("q", ["p"])
    assert after == before
    assert "judged again" in caplog.text
    assert json.loads(cache[key])["log_odds"] == before.log_odds


@pytest.mark.parametrize(
    "change",
    [
        {"finish_reason": "guessed"},
        {"log_odds": None},
        {"log_odds": float("nan")},
        {"cached": "no"},
    ],
)
def test_an_entry_that_is_almost_a_judgment_is_a_miss_too(
    change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache: dict[str, str] = {}
    make(cache)[0].judge("q", ["p"])
    (key,) = cache
    cache[key] = json.dumps(json.loads(cache[key]) | change)
    assert not make(cache)[0].judge("q", ["p"])[0].cached
    assert "judged again" in caplog.text


class Broken(dict[str, str]):
    """Storage that fails, as a full disk does."""

    def __getitem__(self, key: str) -> str:
        raise OSError("the disk is gone")

    def __setitem__(self, key: str, value: str) -> None:
        raise OSError("the disk is full")


def test_storage_that_fails_costs_no_judgment(caplog: pytest.LogCaptureFixture) -> None:
    assert make(Broken())[0].judge("q", ["p"])[0].score is not None
    assert "the disk is gone" in caplog.text
    assert "the disk is full" in caplog.text


class Slow(dict[str, str]):
    """Storage that answers when a test lets it, as a network drive does."""

    def __init__(self) -> None:
        self.is_open, self.threads = threading.Event(), set[threading.Thread]()

    def __getitem__(self, key: str) -> str:
        self.threads.add(threading.current_thread())
        assert self.is_open.wait(20)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: str) -> None:
        self.threads.add(threading.current_thread())
        assert self.is_open.wait(20)
        super().__setitem__(key, value)


def test_a_slow_cache_holds_up_no_other_object() -> None:
    cache = Slow()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make(cache)[0].judge, "q", PASSAGES)
        assert len(make({}, deadline=60)[0].judge("q", PASSAGES)) == 3
        assert not waiting.done()
        cache.is_open.set()
        assert all(one.score is not None for one in waiting.result(20))


def test_the_deadline_bounds_a_slow_look_up() -> None:
    cache = Slow()
    judgments = make(cache, deadline=0.2)[0].judge("q", PASSAGES)
    assert [one.finish_reason for one in judgments] == ["skipped"] * 3
    cache.is_open.set()


class SlowToWrite(Slow):
    """Storage that only writes slowly."""

    def __getitem__(self, key: str) -> str:
        raise KeyError(key)


def test_the_deadline_bounds_a_slow_write_and_no_judgment_is_lost_by_it() -> None:
    cache = SlowToWrite()
    judgments = make(cache, deadline=0.4)[0].judge("q", PASSAGES)
    assert all(one.score is not None for one in judgments)
    cache.is_open.set()


def test_a_call_returns_when_its_judgments_are_written() -> None:
    cache = SlowToWrite()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(make(cache)[0].judge, "q", PASSAGES)
        while not cache.threads:
            threading.Event().wait(0.001)
        assert len(cache) == 0
        cache.is_open.set()
        assert len(call.result(20)) == len(cache) == 3


def test_the_mapping_is_used_on_one_thread_alone() -> None:
    """As sqlite3 connections want it."""
    cache = Slow()
    cache.is_open.set()
    rank1, _ = make(cache)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda n: rank1.judge(f"q{n}", PASSAGES), range(8)):
            pass
    (thread,) = cache.threads
    assert thread is not threading.current_thread()


async def test_a_failure_is_raised_for_each_caller() -> None:
    gate = Gate()
    rank1, _ = make({}, hold=gate.hold())
    calls = [asyncio.create_task(rank1.ajudge("q", ["fail"])) for _ in range(2)]
    await asyncio.to_thread(gate.await_arrivals)
    gate.open()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [EngineError] * 2


def file_of_judgments(file: Path) -> KeyValue:
    """The persistent cache of the documentation."""
    pragmas = {"journal_mode": "wal", "busy_timeout": 5000}
    database = SqliteDatabase(str(file), pragmas=pragmas)
    return KeyValue(value_field=TextField(), database=database)


def test_a_file_keeps_judgments_for_other_threads(tmp_path: Path) -> None:
    cache = file_of_judgments(tmp_path / "judgments.db")

    def judge(n: int) -> list[Judgment]:
        return make(cache)[0].judge(f"q{n % 4}", PASSAGES)

    with ThreadPoolExecutor(4) as pool:
        assert all(len(judgments) == 3 for judgments in pool.map(judge, range(8)))
    assert len(cache) == 4 * 3
    assert all(one.cached for one in make(cache)[0].judge("q0", PASSAGES))


def judge_in_a_process(file: Path) -> None:
    make(file_of_judgments(file))[0].judge("q", PASSAGES)


def test_a_file_keeps_judgments_for_other_processes(tmp_path: Path) -> None:
    file = tmp_path / "judgments.db"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=judge_in_a_process, args=(file,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert all(one.cached for one in make(file_of_judgments(file))[0].judge("q", PASSAGES))
