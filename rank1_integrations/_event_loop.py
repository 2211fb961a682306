"""One event loop on a thread of its own, for all I/O of the process.

Synchronous callers submit to it and wait, which works inside a running loop too; asynchronous
callers await it from whatever loop they are in. So a client never meets two loops.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from rank1_integrations.exceptions import Rank1Error

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_endings: set[asyncio.Future[None]] = set()
"""Work that is being cancelled while nobody waits; the loop alone would let it be collected."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the background loop and wait for its result.

    Raises:
        Rank1Error: Called from the background loop itself, which could only wait for ever.
    """
    call = _Call(work)
    try:
        return _submit(call.follow()).result()
    except BaseException:
        # Ctrl-C reaches this thread only: without this, the work would go on unseen.
        call.give_up()
        raise


async def arun(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the background loop and await its result; cancelling cancels the work."""
    return await asyncio.wrap_future(_submit(work))


async def iterate(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The items of `source`, which runs on the background loop and ends when this does."""
    loop, items = asyncio.get_running_loop(), asyncio.Queue[T | None]()

    async def produce() -> None:
        async with aclosing(source):
            async for item in source:
                loop.call_soon_threadsafe(items.put_nowait, item)

    producing = asyncio.ensure_future(arun(produce()))
    producing.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
        await producing
    finally:
        producing.cancel()


async def gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first error cancels what still runs and is raised itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def as_completed(
    works: Iterable[Coroutine[Any, Any, T]], *, until: float | None = None
) -> AsyncGenerator[T, None]:
    """Results as they come; an error, or leaving early, cancels what still runs.

    Args:
        works: What is to be done at the same time.
        until: When to stop waiting, by `time.monotonic()`. What then still runs is cancelled,
            and that is not waited for.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    timeout = None if until is None else max(0.0, until - time.monotonic())
    is_late = False
    try:
        for result in asyncio.as_completed(tasks, timeout=timeout):
            yield await result
    except TimeoutError:
        is_late = True
    finally:
        ending = asyncio.ensure_future(_end(tasks, in_turns=is_late))
        if is_late:
            _endings.add(ending)
            ending.add_done_callback(_endings.discard)
        else:
            await ending


async def _end(tasks: list[asyncio.Task[T]], *, in_turns: bool) -> None:
    """Cancel what still runs, and see it end.

    Args:
        tasks: Those that began last are cancelled first: they may still be waiting for what the
            others give free.
        in_turns: Cancel one in a turn of the loop: where time is over, all at once would hold up
            what is due now elsewhere.
    """
    for task in reversed(tasks):
        task.cancel()
        if in_turns:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)


class _Call(Generic[T]):
    """Work that can be given up at any moment, even while it is being handed to the loop."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._given_up = False

    async def follow(self) -> T:
        """The work's result."""
        self._task = asyncio.current_task()
        if self._given_up:
            self._work.close()
            raise asyncio.CancelledError
        return await self._work

    def give_up(self) -> None:
        """Cancel the work, whether it has begun or not."""
        self._given_up = True
        _background_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is None:
            self._work.close()
        else:
            self._task.cancel()


def _submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    loop = _background_loop()
    try:
        inside = asyncio.get_running_loop() is loop
    except RuntimeError:
        inside = False
    if inside:
        work.close()
        raise Rank1Error("Rank1 can't be called from code that runs on its own background loop")
    return asyncio.run_coroutine_threadsafe(work, loop)


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="rank1", daemon=True).start()
        return _loop


def _forget_loop() -> None:
    """In a forked child the thread is gone: the next call makes a loop of the child's own."""
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)
