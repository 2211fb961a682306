"""The background loop: one for the process, usable from anywhere but itself."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from rank1_integrations import Rank1Error, _event_loop


async def loop_and_thread() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    return asyncio.get_running_loop(), threading.current_thread()


async def test_all_work_runs_on_one_loop_and_one_thread() -> None:
    first = _event_loop.run(loop_and_thread())
    assert await _event_loop.arun(loop_and_thread()) == first
    assert first[0] is not asyncio.get_running_loop()
    assert first[1].daemon


def test_errors_reach_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("from the loop")

    with pytest.raises(ValueError, match="from the loop"):
        _event_loop.run(fail())


def test_calling_from_the_loop_itself_is_refused_instead_of_hanging() -> None:
    async def call_again() -> None:
        _event_loop.run(loop_and_thread())

    with pytest.raises(Rank1Error, match="own background loop"):
        _event_loop.run(call_again())


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """As in a terminal: a process started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_ends_the_work() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def long() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def interrupt() -> None:
        begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        _event_loop.run(long())
    assert ended.wait(10)


async def test_work_that_is_late_ends_one_by_one_so_that_others_are_not_held_up() -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    works = (work(number) for number in range(100))
    assert [item async for item in _event_loop.as_completed(works, until=time.monotonic())] == []
    for _ in range(20):
        await asyncio.sleep(0)
    assert 0 < len(ended) <= 20
    while len(ended) < 100:
        await asyncio.sleep(0)
    assert ended == list(reversed(range(100)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    _event_loop.run(loop_and_thread())
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        alive = _event_loop.run(loop_and_thread())[1].is_alive()
        os._exit(0 if alive else 1)
    assert os.waitpid(child, 0)[1] == 0
