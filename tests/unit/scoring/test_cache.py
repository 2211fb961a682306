"""What is remembered: for whom, for how long, and what a bad entry does.

The engine is scripted, to count what is asked and to force faults.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from peewee import SqliteDatabase, TextField
from playhouse.kv import KeyValue

from rank1_integrations import EngineError, Judgment, Rank1
from rank1_integrations.testing import ScriptedEngine, length_script

PASSAGES = ["a long passage, with many words", "short", "of middling length"]


def asked(cache: Any, seconds: float = 0.0, **options: Any) -> tuple[Rank1, ScriptedEngine]:
    engine = ScriptedEngine(length_script, seconds=seconds)
    return Rank1(engine, cache=cache, **options), engine


def test_what_was_judged_once_is_remembered_with_its_reasoning() -> None:
    cache: dict[str, str] = {}
    first = asked(cache)[0].judge("q", PASSAGES)
    rank1, engine = asked(cache)
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
        {"samples": 2},
    ],
)
def test_what_changes_a_judgment_is_part_of_its_key(other: dict[str, Any]) -> None:
    cache: dict[str, str] = {}
    asked(cache)[0].judge("q", PASSAGES)
    rank1, engine = asked(cache, **other)
    assert not any(one.cached for one in rank1.judge("q", PASSAGES))
    assert engine.requests


def test_another_model_or_query_is_another_question() -> None:
    cache: dict[str, str] = {}
    asked(cache)[0].judge("q", PASSAGES)
    rank1, engine = asked(cache)
    engine.model = "another"
    assert not any(one.cached for one in rank1.judge("q", PASSAGES))
    assert not any(one.cached for one in asked(cache)[0].judge("another", PASSAGES))


@pytest.mark.parametrize(
    "other",
    [
        {"max_concurrency": 1},
        {"timeout": 5},
        {"max_retries": 0},
        {"on_error": "keep"},
        {"deadline": 60},
        {"enough": 3},
        {"step_tokens": 3},
    ],
)
def test_what_does_not_change_a_judgment_is_not(other: dict[str, Any]) -> None:
    cache: dict[str, str] = {}
    asked(cache)[0].judge("q", PASSAGES)
    rank1, engine = asked(cache, **other)
    assert all(one.cached for one in rank1.judge("q", PASSAGES))
    assert engine.requests == []


async def test_the_same_pair_asked_at_the_same_time_is_judged_once() -> None:
    rank1, engine = asked({}, seconds=0.02)
    many = await asyncio.gather(*(rank1.ajudge("q", ["p", "p"]) for _ in range(5)))
    assert len(engine.requests) == 2  # a thought and its verdict
    assert len({one.log_odds for judgments in many for one in judgments}) == 1
    assert sum(not one.cached for judgments in many for one in judgments) == 1


async def test_when_the_first_caller_gives_up_the_second_takes_over() -> None:
    rank1, engine = asked({}, seconds=0.1)
    first = asyncio.create_task(rank1.ajudge("q", ["p"]))
    while not engine.running:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(rank1.ajudge("q", ["p"]))
    await asyncio.sleep(0.02)
    first.cancel()
    (judgment,) = await second
    assert judgment.score is not None
    assert not judgment.cached


def test_failures_are_not_remembered() -> None:
    cache: dict[str, str] = {}
    rank1, _ = asked(cache, on_error="keep")
    assert rank1.judge("q", ["fail"])[0].finish == "failed"
    assert cache == {}


def test_a_verdict_forced_by_the_deadline_is_not_remembered() -> None:
    cache: dict[str, str] = {}
    engine = ScriptedEngine(length_script)

    async def slow_thoughts(request: Any) -> Any:
        engine.seconds = 0.0 if request.labels else 30.0
        return await ScriptedEngine.complete(engine, request)

    engine.complete = slow_thoughts  # type: ignore[method-assign]
    (hurried,) = Rank1(engine, cache=cache, deadline=1.0).judge("q", ["p"])
    (patient,) = Rank1(ScriptedEngine(length_script), cache=cache).judge("q", ["p"])
    assert (hurried.finish, patient.finish) == ("direct", "concluded")


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
    (before,) = asked(cache)[0].judge("q", ["p"])
    (key,) = cache
    cache[key] = entry
    (after,) = asked(cache)[0].judge("q", ["p"])
    assert after == before
    assert "judged again" in caplog.text
    assert json.loads(cache[key])["log_odds"] == before.log_odds


@pytest.mark.parametrize(
    "change",
    [{"finish": "guessed"}, {"log_odds": None}, {"log_odds": float("nan")}, {"cached": "no"}],
)
def test_an_entry_that_is_almost_a_judgment_is_a_miss_too(
    change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache: dict[str, str] = {}
    asked(cache)[0].judge("q", ["p"])
    (key,) = cache
    cache[key] = json.dumps(json.loads(cache[key]) | change)
    assert not asked(cache)[0].judge("q", ["p"])[0].cached
    assert "judged again" in caplog.text


class Broken(dict[str, str]):
    """Storage that fails, as a full disk does."""

    def __getitem__(self, key: str) -> str:
        raise OSError("the disk is gone")

    def __setitem__(self, key: str, value: str) -> None:
        raise OSError("the disk is full")


def test_storage_that_fails_costs_no_judgment(caplog: pytest.LogCaptureFixture) -> None:
    assert asked(Broken())[0].judge("q", ["p"])[0].score is not None
    assert "the disk is gone" in caplog.text
    assert "the disk is full" in caplog.text


def test_the_failure_of_one_is_raised_for_each_who_asked() -> None:
    async def ask_twice() -> list[Any]:
        rank1, _ = asked({}, seconds=0.01)
        return await asyncio.gather(
            *(rank1.ajudge("q", ["fail"]) for _ in range(2)), return_exceptions=True
        )

    assert [type(error) for error in asyncio.run(ask_twice())] == [EngineError] * 2


def file_of_judgments(file: Path) -> KeyValue:
    """The persistent cache of the documentation."""
    pragmas = {"journal_mode": "wal", "busy_timeout": 5000}
    database = SqliteDatabase(str(file), pragmas=pragmas)
    return KeyValue(value_field=TextField(), database=database)


def test_a_file_keeps_judgments_for_other_threads(tmp_path: Path) -> None:
    cache = file_of_judgments(tmp_path / "judgments.db")

    def judge(n: int) -> list[Judgment]:
        return asked(cache)[0].judge(f"q{n % 4}", PASSAGES)

    with ThreadPoolExecutor(4) as pool:
        assert all(len(judgments) == 3 for judgments in pool.map(judge, range(8)))
    assert len(cache) == 4 * 3
    assert all(one.cached for one in asked(cache)[0].judge("q0", PASSAGES))


def judge_in_a_process(file: Path) -> None:
    asked(file_of_judgments(file))[0].judge("q", PASSAGES)


def test_a_file_keeps_judgments_for_other_processes(tmp_path: Path) -> None:
    file = tmp_path / "judgments.db"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=judge_in_a_process, args=(file,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert all(one.cached for one in asked(file_of_judgments(file))[0].judge("q", PASSAGES))
