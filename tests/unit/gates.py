"""Gates that hold work on the background loop until a test opens them, from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from rank1_integrations.engines.base import Request
from rank1_integrations.testing import Hold


class Gate:
    """Holds what waits for it until it is opened; tells how much is held."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_open = False
        self._held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._arrived = 0

    async def wait(self) -> None:
        with self._changed:
            self._arrived += 1
            self._changed.notify_all()
            if self._is_open:
                return
            event = asyncio.Event()
            self._held.append((asyncio.get_running_loop(), event))
        await event.wait()

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            for loop, event in self._held:
                loop.call_soon_threadsafe(event.set)

    def await_arrivals(self, count: int = 1) -> None:
        """Wait until so many have come to the gate; blocks the calling thread."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrived >= count, timeout=20)

    def hold(self, applies: Callable[[Request], bool] = lambda _: True) -> Hold:
        """Return a hook that holds the requests to which this applies."""

        async def hold(request: Request) -> None:
            if applies(request):
                await self.wait()

        return hold


def is_reasoning(request: Request) -> bool:
    return not request.labels


def mentions(word: str) -> Callable[[Request], bool]:
    """Return whether a text prompt holds a word."""
    return lambda request: word in str(request.prompt)
