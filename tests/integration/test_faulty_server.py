"""A server whose answers are at fault costs the passages concerned, and nothing else."""

from __future__ import annotations

import pytest

from benchmarks import soak
from rank1_integrations import EngineError, Rank1
from tests.support.raw_server import FAULTS, Call, Fault, RawServer, RawServerProcess

PASSAGES = [f"Passage {number}." for number in range(6)]
BROKEN = PASSAGES[2]
HARMLESS = {
    "ids that are no numbers",
    "no ids",
    "no usage",
    "usage of zeros",
    "delay of 2.5 s",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_strange_answer_is_one_passages_failure_and_never_a_wrong_score(name: str) -> None:
    with (
        RawServer(lambda call: FAULTS[name] if _is_verdict_on(call, BROKEN) else None) as server,
        Rank1.from_server(server.base_url, on_error="keep", max_retries=0) as rank1,
    ):
        judgments = rank1.judge("a query", PASSAGES)
    assert [*soak.problems_of(PASSAGES, judgments)] == []
    failed = [judgment.index for judgment in judgments if judgment.error]
    assert failed == ([] if name in HARMLESS else [2])


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - HARMLESS))
def test_a_strange_answer_is_raised_as_an_engine_error(name: str) -> None:
    with (
        RawServer(lambda call: FAULTS[name] if _is_verdict_on(call, BROKEN) else None) as server,
        Rank1.from_server(server.base_url, max_retries=0) as rank1,
        pytest.raises(EngineError),
    ):
        rank1.judge("a query", PASSAGES)


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - HARMLESS))
def test_a_strange_answer_about_the_reasoning_never_becomes_a_wrong_judgment(name: str) -> None:
    with (
        RawServer(lambda call: FAULTS[name] if _is_reasoning_on(call, BROKEN) else None) as server,
        Rank1.from_server(server.base_url, on_error="keep", max_retries=0) as rank1,
    ):
        assert [*soak.problems_of(PASSAGES, rank1.judge("a query", PASSAGES))] == []


def test_a_slow_loris_ends_at_the_timeout_of_its_own_passage() -> None:
    slow = Fault(byte_delay=0.02)
    with (
        RawServer(lambda call: slow if _is_verdict_on(call, BROKEN) else None) as server,
        Rank1.from_server(server.base_url, timeout=0.5, max_retries=0, on_error="keep") as rank1,
    ):
        judgments = rank1.judge("a query", PASSAGES)
    assert [judgment.index for judgment in judgments if judgment.error] == [2]


def test_threads_forks_and_cancelled_callers_get_no_others_judgment() -> None:
    with (
        RawServerProcess(soak.FAULT_RATE) as server,
        Rank1.from_server(server.base_url, on_error="keep") as rank1,
    ):
        run = soak.Soak(rank1, server, calls=40)
        run.run([run.fork, run.cancel])
    assert run.tally.problems == []
    assert (run.tally.calls, run.tally.children) == (40, soak.FORKS)
    assert run.tally.finish_reasons["concluded"] > run.tally.finish_reasons["failed"] > 0


def _is_verdict_on(call: Call, passage: str) -> bool:
    return call.is_verdict and call.passage == passage


def _is_reasoning_on(call: Call, passage: str) -> bool:
    return call.is_completion and not call.is_verdict and call.passage == passage
