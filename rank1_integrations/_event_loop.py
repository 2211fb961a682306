"""The background event loop of the process, and the worker pool that runs on it.

Synchronous callers submit work and wait, which works inside a running loop too. Asynchronous
callers await the work from whatever loop they are in. So clients, locks and tasks meet one loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from rank1_integrations.exceptions import ConfigurationError, Rank1Error

T = TypeVar("T")

Emit = Callable[[T], None]
Job = Callable[[], Coroutine[Any, Any, T]]

# One worker in so many is kept for callers that have none, so that a short call begins at once
# beside a long batch.
_WORKERS_PER_RESERVED = 16

if sys.platform == "win32":
    _BaseLoop = asyncio.ProactorEventLoop
else:
    _BaseLoop = asyncio.SelectorEventLoop


class _Loop(_BaseLoop):
    """An event loop whose clock does not stop when tests freeze `time.monotonic`."""

    clock = staticmethod(time.monotonic)

    def time(self) -> float:
        return self.clock()


now = _Loop.clock
"""The clock of the background loop, in seconds; for any thread."""

_lock = threading.Lock()
_loop: _Loop | None = None
_selector: selectors.BaseSelector | None = None
_spawned: set[asyncio.Task[Any]] = set()
_abandoned: list[Any] = []
"""What a forked child inherited from its parent's loop. Collecting it would run its finalizers."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the background loop and return its result.

    Raises:
        Rank1Error: The caller is on the background loop itself and would wait for ever.
    """
    call = _Call(work)
    try:
        return _submit(call.follow()).result()
    except BaseException:
        # Ctrl-C reaches this thread only: without this, the work would go on unseen.
        call.give_up()
        raise


async def arun(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the background loop and await its result. Cancelling cancels the work."""
    return await asyncio.wrap_future(_submit(work))


async def stream(work: Callable[[Emit[T]], Coroutine[Any, Any, None]]) -> AsyncGenerator[T, None]:
    """Yield what `work` emits on the background loop. Leaving early cancels the work."""
    loop, items = asyncio.get_running_loop(), asyncio.Queue[T | None]()

    def emit(item: T) -> None:
        loop.call_soon_threadsafe(items.put_nowait, item)

    working = asyncio.ensure_future(arun(work(emit)))
    working.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
        await working
    finally:
        working.cancel()


def spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` on the background loop, if there is one, without waiting.

    For finalizers: it takes no lock, since the collector may run in a thread that holds it.
    """
    loop = _loop
    if loop is None or sys.is_finalizing():
        return

    def begin() -> None:
        task = loop.create_task(work())
        _spawned.add(task)
        task.add_done_callback(_spawned.discard)

    # A closed loop has nothing left to free.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(begin)


def check_threads() -> None:
    """Refuse a process whose threads are not real ones.

    Raises:
        ConfigurationError: gevent or eventlet has patched the threading module.
    """
    patched = {"gevent.monkey": "is_module_patched", "eventlet.patcher": "is_monkey_patched"}
    for module, function in patched.items():
        monkey = sys.modules.get(module)
        is_patched = getattr(monkey, function, None)
        name = module.partition(".")[0]
        if is_patched is not None and is_patched("threading" if name == "gevent" else "thread"):
            raise ConfigurationError(
                f"{name} has replaced this process's threads, and Rank1 needs a real one for its "
                "event loop: run it in a worker with real threads, such as gunicorn -k gthread or "
                "celery --pool threads"
            )


class PerProcess(Generic[T]):
    """Holds what is bound to one process's event loop and rebuilds it in a forked child.

    `get` is called on the background loop only, so it needs no lock.
    """

    def __init__(self, value: T, rebuild: Callable[[T], T]) -> None:
        self.latest = value
        self._rebuild = rebuild
        self._process = os.getpid()

    @property
    def is_current(self) -> bool:
        """Whether the value belongs to this process."""
        return self._process == os.getpid()

    def get(self) -> T:
        """Return this process's value."""
        if not self.is_current:
            value = self._rebuild(self.latest)
            _abandoned.append(self.latest)
            self.latest, self._process = value, os.getpid()
        return self.latest


class SharedTask:
    """Runs a coroutine function once for all callers of the same time.

    A caller that leaves does not cancel it. Success and failure reach all who wait, and are not
    remembered: the next call runs it again.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Wait for the end of the run in progress, or of a new one.

        Raises:
            Rank1Error: It was cancelled. Besides, whatever the work raises.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._work())
            self._task.add_done_callback(self._forget)
        task = self._task
        await asyncio.wait([task])
        if task.cancelled():
            raise closed_error()
        task.result()

    def cancel(self) -> None:
        """Cancel the run in progress."""
        if self._task is not None:
            self._task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            # Seen here, so that asyncio does not complain where no caller is left.
            task.exception()


class _Batch(Generic[T]):
    """The jobs of one caller."""

    def __init__(
        self, jobs: Iterator[Job[T]], on_result: Callable[[T], bool], done: asyncio.Future[None]
    ) -> None:
        self.jobs, self.on_result, self.done = jobs, on_result, done
        self.tasks: set[asyncio.Task[T]] = set()
        self.is_exhausted = False

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        if not self.done.cancel() and not self.done.cancelled():
            # Seen here, so that asyncio does not complain of an error after the deadline.
            self.done.exception()


class WorkerPool:
    """Runs the jobs of many callers, at most `size` at the same time, each caller in turn.

    Only running jobs have a task; the others wait in their caller's iterator, so that a list of
    100,000 costs nothing before its turn and cancelling touches running jobs only. One job is
    started in a turn of the loop: building a request takes milliseconds, and 64 in a row would
    hold up everybody's deadlines.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._reserve = size // _WORKERS_PER_RESERVED
        self._running = 0
        self._urgent: deque[_Batch[Any]] = deque()
        self._normal: deque[_Batch[Any]] = deque()
        self._batches: set[_Batch[Any]] = set()
        self._is_starting = False
        self._is_closed = False

    async def run(
        self,
        jobs: Iterable[Job[T]],
        on_result: Callable[[T], bool],
        *,
        until: float | None = None,
        urgent: bool = False,
    ) -> None:
        """Run jobs until all are done, one raises, or time is over. The others are cancelled.

        Args:
            jobs: Coroutine functions; read one by one, as workers become free.
            on_result: Called with each result as it comes. Returns True to stop.
            until: When to stop, by the loop's clock; None for no limit. Jobs that still run then
                are cancelled and not waited for.
            urgent: Take free workers before the batches that are not urgent.

        Raises:
            Rank1Error: The pool is closed. Besides, whatever a job or `on_result` raises.
        """
        if self._is_closed:
            raise closed_error()
        batch = _Batch(iter(jobs), on_result, asyncio.get_running_loop().create_future())
        queue = self._urgent if urgent else self._normal
        queue.append(batch)
        self._batches.add(batch)
        self._start_soon()
        is_late = False
        try:
            async with asyncio.timeout_at(until) as limit:
                await batch.done
        except TimeoutError:
            if not limit.expired():
                raise
            is_late = True
        finally:
            self._batches.discard(batch)
            if not batch.is_exhausted:
                queue.remove(batch)
            batch.close()
            running = [*batch.tasks]
            for task in running:
                task.cancel()
            if running and not is_late:
                await asyncio.wait(running)

    def close(self) -> None:
        """End all calls with an error and refuse further ones."""
        self._is_closed = True
        for batch in self._batches:
            batch.fail(closed_error())

    def _start_soon(self) -> None:
        if not self._is_starting:
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._is_starting = False
        if self._start_one():
            self._start_soon()

    def _start_one(self) -> bool:
        """Start the next job of the next caller that may have a worker; False if there is none."""
        free = self._size - self._running
        for queue in (self._urgent, self._normal):
            for _ in range(len(queue) if free else 0):
                batch = queue[0]
                queue.rotate(-1)
                if batch.tasks and free <= self._reserve:
                    continue
                job = None if batch.done.done() else next(batch.jobs, None)
                if job is not None:
                    self._begin(batch, job)
                    return True
                queue.pop()
                batch.is_exhausted = True
                if not batch.tasks:
                    batch.end()
        return False

    def _begin(self, batch: _Batch[T], job: Job[T]) -> None:
        task = asyncio.get_running_loop().create_task(job())
        self._running += 1
        batch.tasks.add(task)
        task.add_done_callback(lambda task: self._finish(batch, task))

    def _finish(self, batch: _Batch[T], task: asyncio.Task[T]) -> None:
        self._running -= 1
        batch.tasks.discard(task)
        self._start_soon()
        if task.cancelled():
            batch.fail(closed_error())
        elif (error := task.exception()) is not None:
            batch.fail(error)
        elif not batch.done.done():
            self._report(batch, task.result())

    def _report(self, batch: _Batch[T], result: T) -> None:
        try:
            is_enough = batch.on_result(result)
        except Exception as error:  # of the caller's, and raised to the caller
            batch.fail(error)
            return
        if is_enough or (batch.is_exhausted and not batch.tasks):
            batch.end()


def closed_error() -> Rank1Error:
    """Return the error of a call on a closed object."""
    return Rank1Error("this Rank1 object is closed: make a new one")


class _Call(Generic[T]):
    """Work that can be given up at any moment, even while it is being handed to the loop."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._is_given_up = False

    async def follow(self) -> T:
        """Return the work's result."""
        self._task = asyncio.current_task()
        if self._is_given_up:
            self._work.close()
            raise asyncio.CancelledError
        return await self._work

    def give_up(self) -> None:
        """Cancel the work, whether it has begun or not."""
        self._is_given_up = True
        _background_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is None:
            self._work.close()
        else:
            self._task.cancel()


def _submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    loop = _background_loop()
    try:
        is_inside = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_inside = False
    if is_inside:
        work.close()
        raise Rank1Error("Rank1 can't be called from code that runs on its own background loop")
    return asyncio.run_coroutine_threadsafe(work, loop)


def _background_loop() -> _Loop:
    global _loop, _selector
    with _lock:
        if _loop is None:
            if sys.platform == "win32":
                _loop = _Loop()
            else:
                _selector = selectors.DefaultSelector()
                _loop = _Loop(_selector)
            threading.Thread(target=_loop.run_forever, name="rank1", daemon=True).start()
        return _loop


def _leave_parents_loop() -> None:
    """Give up the parent's loop in a forked child: the next call makes a new one.

    The child has copies of the parent's connections. Each is replaced by /dev/null under its own
    number, so that nothing in the child, such as a finalizer, can say a word on the wire, and the
    numbers stay taken until their owners close them.
    """
    global _loop, _selector, _lock
    if _loop is not None and _selector is not None:
        _abandoned.append(_loop)
        _loop.set_exception_handler(lambda *_: None)
        null = os.open(os.devnull, os.O_RDWR)
        for key in [*_selector.get_map().values()]:
            os.dup2(null, key.fd, inheritable=False)
        os.close(null)
    _abandoned.extend(_spawned)
    _spawned.clear()
    _loop, _selector, _lock = None, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents_loop)
