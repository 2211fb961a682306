"""Cached judgments, in any mapping that the user gives."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter

from rank1_integrations._event_loop import closed_error
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.prompt import Prompt
from rank1_integrations.scoring.steps import Plan, Scored

logger = logging.getLogger(__name__)

# Part of every key. Raise it when the same prompt would be judged otherwise than before.
_FORMAT = 2

_JUDGMENT = TypeAdapter(Judgment)


class JudgmentCache:
    """Caches judgments and deduplicates identical requests in flight.

    An entry is JSON text. The user's mapping is used on one thread of its own: it may be slow,
    and the event loop serves other callers meanwhile.
    """

    def __init__(self, mapping: MutableMapping[str, str], namespace: str) -> None:
        self._mapping = mapping
        self._namespace = namespace
        self._in_flight: dict[str, asyncio.Future[Judgment | None]] = {}
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rank1-cache")

    def key(self, model: str, prompt: Prompt, plan: Plan) -> str:
        """Return the key of a judgment: a hash of everything that decides it.

        Args:
            model: The engine's fingerprint.
            prompt: The prompt.
            plan: How the pair is scored.
        """
        decides = [_FORMAT, self._namespace, model, prompt.text, asdict(plan)]
        text = json.dumps(decides, sort_keys=True)
        return f"rank1:{hashlib.sha256(text.encode()).hexdigest()}"

    async def find(self, key: str, index: int) -> Judgment | None:
        """Return the cached judgment for the passage at `index`, if there is one."""
        judgment = await self._run(self._read, key)
        return None if judgment is None else replace(judgment, index=index, cached=True)

    async def get_or_compute(
        self, key: str, index: int, compute: Callable[[], Awaitable[Scored]]
    ) -> Judgment:
        """Return the cached judgment, or what `compute` returns; it is cached if it is final."""
        while True:
            if key in self._in_flight:
                # Its owner may be cut short or give up: then this call takes over.
                shared = await asyncio.shield(self._in_flight[key])
                if shared is not None:
                    return replace(shared, index=index, cached=True)
                continue
            return await self._find_or_compute(key, index, compute)

    async def flush(self) -> None:
        """Wait until everything is written."""
        await self._run(lambda: None)

    def close(self) -> None:
        """Let the thread end when everything is written."""
        self._is_closed = True
        self._thread.shutdown(wait=False)

    async def _find_or_compute(
        self, key: str, index: int, compute: Callable[[], Awaitable[Scored]]
    ) -> Judgment:
        flight = self._in_flight[key] = asyncio.get_running_loop().create_future()
        shared: Judgment | None = None
        try:
            cached = await self.find(key, index)
            if cached is not None:
                shared = cached
                return cached
            scored = await compute()
            if scored.is_final:
                shared = scored.judgment
                # Not awaited: a slow cache must not cost the caller a judgment at a deadline.
                self._thread.submit(self._write, key, shared)
            return scored.judgment
        finally:
            del self._in_flight[key]
            flight.set_result(shared)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._is_closed:
            raise closed_error()
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _read(self, key: str) -> Judgment | None:
        try:
            entry = self._mapping[key]
        except KeyError:
            return None
        except Exception as error:  # mappings raise what their storage raises
            logger.warning("the cache can't be read, the passage is judged again: %s", error)
            return None
        try:
            return _decode(entry)
        except ValueError as error:
            logger.warning("a cache entry is no judgment, the passage is judged again: %s", error)
            return None

    def _write(self, key: str, judgment: Judgment) -> None:
        try:
            self._mapping[key] = _JUDGMENT.dump_json(replace(judgment, index=0)).decode()
        except Exception as error:  # mappings raise what their storage raises
            logger.warning("the cache can't be written, the judgment is not kept: %s", error)


def _decode(entry: Any) -> Judgment:
    """Return the judgment in an entry.

    Raises:
        ValueError: It is no JSON text, or no judgment.
    """
    judgment = _JUDGMENT.validate_json(entry, strict=True)
    if judgment.log_odds is None or not math.isfinite(judgment.log_odds):
        raise ValueError("it has no log-odds")
    return judgment
