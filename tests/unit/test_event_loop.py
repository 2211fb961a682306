"""The background loop, and the worker pool that runs on it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from rank1_integrations import Rank1Error, _event_loop
from rank1_integrations._event_loop import PerProcess, SharedTask, WorkerPool

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


async def loop_and_thread() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    return asyncio.get_running_loop(), threading.current_thread()


async def turns(count: int = 50) -> None:
    """Let everything that is ready on this loop run."""
    for _ in range(count):
        await asyncio.sleep(0)


# One loop


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


async def test_cancelling_the_caller_cancels_the_work() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    call = asyncio.create_task(_event_loop.arun(work()))
    assert await asyncio.to_thread(begun.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(ended.wait, 10)


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """As in a terminal: a process started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_ends_the_work() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupt() -> None:
        begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        _event_loop.run(work())
    assert ended.wait(10)


# Streams


async def test_a_stream_yields_every_item_in_order_before_it_ends() -> None:
    async def work(emit: Callable[[int], None]) -> None:
        for number in range(100):
            emit(number)

    assert [number async for number in _event_loop.stream(work)] == [*range(100)]


async def test_the_error_of_a_stream_comes_behind_its_items() -> None:
    async def work(emit: Callable[[int], None]) -> None:
        emit(1)
        raise ValueError("from the loop")

    stream = _event_loop.stream(work)
    assert await anext(stream) == 1
    with pytest.raises(ValueError, match="from the loop"):
        await anext(stream)


# Forking


@needs_fork
def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    _event_loop.run(loop_and_thread())
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        is_alive = _event_loop.run(loop_and_thread())[1].is_alive()
        os._exit(0 if is_alive else 1)
    assert os.waitpid(child, 0)[1] == 0


@needs_fork
def test_a_value_is_rebuilt_once_in_a_forked_child() -> None:
    holder = PerProcess(1, lambda value: value + 1)
    assert (holder.get(), holder.get()) == (1, 1)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        is_right = not holder.is_current and (holder.get(), holder.get()) == (2, 2)
        os._exit(0 if is_right and holder.is_current else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert holder.get() == 1


# Threads that are not real


GREEN_THREADS = """
import sys, types
module = types.ModuleType({module!r})
module.{function} = lambda name: name == {patched!r}
sys.modules[{module!r}] = module
from rank1_integrations import ConfigurationError, Rank1
from rank1_integrations.testing import ScriptedEngine
try:
    Rank1(ScriptedEngine(lambda passage: 1.0))
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "function", "patched"),
    [
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ],
)
def test_patched_threads_are_refused_by_the_name_of_the_library(
    module: str, function: str, patched: str
) -> None:
    """A stub says that it has patched: the real libraries would patch this process."""
    code = GREEN_THREADS.format(module=module, function=function, patched=patched)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    name = module.partition(".")[0]
    assert done.stdout.startswith(f"{name} has replaced this process's threads")
    assert "gthread" in done.stdout


@pytest.mark.parametrize(
    ("module", "function"),
    [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")],
)
def test_a_library_that_has_not_patched_threads_is_no_obstacle(
    module: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub: Any = type(sys)(module)
    setattr(stub, function, lambda _: False)
    monkeypatch.setitem(sys.modules, module, stub)
    _event_loop.check_threads()


# Shared tasks


async def test_callers_of_the_same_time_share_one_run() -> None:
    runs, gate = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        await gate.wait()

    shared = SharedTask(work)
    waiting = [asyncio.create_task(shared.wait()) for _ in range(20)]
    await turns()
    gate.set()
    await asyncio.gather(*waiting)
    assert runs == 1


async def test_a_failure_reaches_all_who_wait_and_is_forgotten() -> None:
    runs, gate = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        await gate.wait()
        raise ValueError(f"run {runs}")

    shared = SharedTask(work)
    waiting = [asyncio.create_task(shared.wait()) for _ in range(20)]
    await turns()
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {str(result) for result in results} == {"run 1"}
    with pytest.raises(ValueError, match="run 2"):
        await shared.wait()


async def test_a_caller_that_leaves_does_not_end_a_shared_run() -> None:
    ends, gate = 0, asyncio.Event()

    async def work() -> None:
        nonlocal ends
        await gate.wait()
        ends += 1

    shared = SharedTask(work)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await shared.wait()
    gate.set()
    await turns()
    assert ends == 1


async def test_cancelling_a_shared_run_tells_its_callers_that_the_object_is_closed() -> None:
    shared = SharedTask(asyncio.Event().wait)  # type: ignore[arg-type]
    waiting = asyncio.create_task(shared.wait())
    await turns()
    shared.cancel()
    with pytest.raises(Rank1Error, match="closed"):
        await waiting


# The worker pool


class Work:
    """Jobs of one caller that wait for a gate, and a record of what became of them."""

    def __init__(self, count: int, *, gate: asyncio.Event | None = None) -> None:
        self.count, self.gate = count, gate
        self.read = self.begun = self.cancelled = 0
        self.results: list[int] = []

    def jobs(self) -> Iterator[Callable[[], Coroutine[Any, Any, int]]]:
        for number in range(self.count):
            self.read += 1
            yield partial(self._job, number)

    async def _job(self, number: int) -> int:
        self.begun += 1
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number

    def accept(self, result: int) -> bool:
        self.results.append(result)
        return False


def pool_tasks() -> int:
    return sum("Work._job" in str(task.get_coro()) for task in asyncio.all_tasks())


async def test_every_job_runs_once() -> None:
    work = Work(200)
    await WorkerPool(7).run(work.jobs(), work.accept)
    assert sorted(work.results) == [*range(200)]


async def test_without_jobs_a_run_ends() -> None:
    work = Work(0)
    await WorkerPool(7).run(work.jobs(), work.accept)
    assert work.results == []


async def test_only_running_jobs_have_a_task_and_are_read() -> None:
    work = Work(40_000, gate=asyncio.Event())
    run = asyncio.create_task(WorkerPool(7).run(work.jobs(), work.accept))
    await turns(100)
    assert pool_tasks() == work.begun == work.read == 7
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert work.read == work.cancelled == 7
    assert pool_tasks() == 0


async def test_the_size_holds_for_all_callers_together() -> None:
    gate = asyncio.Event()
    works, pool = [Work(50, gate=gate) for _ in range(4)], WorkerPool(6)
    runs = [asyncio.create_task(pool.run(work.jobs(), work.accept)) for work in works]
    await turns(100)
    assert pool_tasks() == 6
    gate.set()
    await asyncio.gather(*runs)
    assert [len(work.results) for work in works] == [50] * 4


async def test_a_failing_job_ends_its_callers_run_and_no_other() -> None:
    pool, gate = WorkerPool(8), asyncio.Event()
    other, failing = Work(3, gate=gate), Work(10_000, gate=gate)

    async def fail() -> int:
        raise ValueError("from a job")

    def jobs() -> Iterator[Callable[[], Coroutine[Any, Any, int]]]:
        yield from [*failing.jobs()][:3]
        yield fail
        yield from failing.jobs()

    beside = asyncio.create_task(pool.run(other.jobs(), other.accept))
    with pytest.raises(ValueError, match="from a job"):
        await pool.run(jobs(), failing.accept)
    assert failing.cancelled == failing.begun <= 8
    gate.set()
    await beside
    assert len(other.results) == 3


async def test_an_error_of_on_result_is_the_callers() -> None:
    def refuse(_: int) -> bool:
        raise ValueError("from on_result")

    with pytest.raises(ValueError, match="from on_result"):
        await WorkerPool(2).run(Work(5).jobs(), refuse)


async def test_a_run_stops_when_on_result_has_enough() -> None:
    work, results = Work(1000), []

    def accept(result: int) -> bool:
        results.append(result)
        return len(results) == 3

    await WorkerPool(4).run(work.jobs(), accept)
    assert len(results) == 3
    assert work.begun <= 3 + 4


async def test_at_its_end_a_run_is_left_without_waiting_for_its_jobs() -> None:
    stuck = asyncio.Event()

    async def ignore_cancelling() -> int:
        while not stuck.is_set():
            try:
                await stuck.wait()
            except asyncio.CancelledError:
                continue
        return 1

    work, until = Work(0), asyncio.get_running_loop().time()
    await WorkerPool(2).run(iter([ignore_cancelling] * 3), work.accept, until=until)
    stuck.set()
    await turns()
    assert work.results == []


async def test_callers_are_served_in_turn() -> None:
    """As an interactive call beside a batch of 10,000."""
    pool, batch, call = WorkerPool(4), Work(10_000), Work(2)
    running = asyncio.create_task(pool.run(batch.jobs(), batch.accept))
    while len(batch.results) < 100:
        await asyncio.sleep(0)
    before = len(batch.results)
    await pool.run(call.jobs(), call.accept)
    assert len(batch.results) - before <= 12
    running.cancel()


async def test_a_worker_is_kept_for_callers_that_have_none() -> None:
    """Beside a batch whose jobs never end, a short call still begins at once."""
    pool, batch, call = WorkerPool(16), Work(10_000, gate=asyncio.Event()), Work(1)
    running = asyncio.create_task(pool.run(batch.jobs(), batch.accept))
    await turns(100)
    assert pool_tasks() == 15
    await pool.run(call.jobs(), call.accept)
    assert call.results == [0]
    running.cancel()


async def test_urgent_jobs_take_free_workers_first() -> None:
    pool, slow, urgent = WorkerPool(2), Work(1000), Work(20)
    running = asyncio.create_task(pool.run(slow.jobs(), slow.accept))
    await turns(10)
    before = len(slow.results)
    await pool.run(urgent.jobs(), urgent.accept, urgent=True)
    assert len(slow.results) - before <= 4
    running.cancel()


async def test_closing_ends_all_runs_and_refuses_further_ones() -> None:
    pool, work = WorkerPool(2), Work(5, gate=asyncio.Event())
    running = [asyncio.create_task(pool.run(work.jobs(), work.accept)) for _ in range(2)]
    await turns()
    pool.close()
    for run in running:
        with pytest.raises(Rank1Error, match="closed"):
            await run
    assert work.cancelled == work.begun
    with pytest.raises(Rank1Error, match="closed"):
        await pool.run(work.jobs(), work.accept)


async def test_a_pool_goes_on_after_cancelled_and_failed_runs() -> None:
    pool = WorkerPool(2)
    for _ in range(10):
        stuck = Work(5, gate=asyncio.Event())
        run = asyncio.create_task(pool.run(stuck.jobs(), stuck.accept))
        await turns(3)
        run.cancel()
        await asyncio.wait([run])
    work = Work(10)
    await pool.run(work.jobs(), work.accept)
    assert len(work.results) == 10
