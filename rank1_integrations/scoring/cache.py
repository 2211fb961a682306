"""Judgments that are remembered, in any mapping the user gives."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter

from rank1_integrations.config import Cache
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.prompt import Prompt
from rank1_integrations.scoring.steps import Plan

logger = logging.getLogger(__name__)

# Goes into every key: raise it when the same question would be answered otherwise than before.
_FORM = 1

_JUDGMENT = TypeAdapter(Judgment)


class Memory:
    """Looks judgments up before they are made, and lets the same question be asked only once.

    A judgment's key is a hash of what decides it: model, prompt and plan. An entry is a text of
    JSON, so that any mapping can hold it. The mapping is used on the background loop only.
    """

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache
        self._being_made: dict[str, asyncio.Future[Judgment | None]] = {}

    def find(self, model: str, prompt: Prompt, plan: Plan, index: int) -> Judgment | None:
        """The remembered judgment, if there is one; arguments as for `recall`."""
        found = None if self._cache is None else self._read(_key(model, prompt, plan))
        return None if found is None else replace(found, index=index, cached=True)

    async def recall(
        self,
        model: str,
        prompt: Prompt,
        plan: Plan,
        index: int,
        make: Callable[[], Awaitable[tuple[Judgment, bool]]],
    ) -> Judgment:
        """The remembered judgment, or what `make` answers.

        Args:
            model: The model's name.
            prompt: What is asked.
            plan: How it is judged.
            index: The passage's place in this call.
            make: Judges; says with the judgment whether it is final, and may be remembered.
        """
        if self._cache is None:
            return (await make())[0]
        key = _key(model, prompt, plan)
        while True:
            found = self._read(key)
            if found is None and key in self._being_made:
                # Whoever makes it may be cut short, or give up: then this call takes over.
                found = await asyncio.shield(self._being_made[key])
                if found is None:
                    continue
            if found is not None:
                return replace(found, index=index, cached=True)
            return await self._make(key, make)

    async def _make(
        self, key: str, make: Callable[[], Awaitable[tuple[Judgment, bool]]]
    ) -> Judgment:
        making = self._being_made[key] = asyncio.get_running_loop().create_future()
        shared: Judgment | None = None
        try:
            judgment, is_final = await make()
            if is_final:
                shared = judgment
                self._write(key, judgment)
            return judgment
        finally:
            del self._being_made[key]
            making.set_result(shared)

    def _read(self, key: str) -> Judgment | None:
        assert self._cache is not None
        try:
            entry = self._cache[key]
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
        assert self._cache is not None
        try:
            self._cache[key] = _JUDGMENT.dump_json(replace(judgment, index=0)).decode()
        except Exception as error:
            logger.warning("the cache can't be written, the judgment is not kept: %s", error)


def _key(model: str, prompt: Prompt, plan: Plan) -> str:
    decides = json.dumps([_FORM, model, prompt.text, asdict(plan)], sort_keys=True)
    return f"rank1:{hashlib.sha256(decides.encode()).hexdigest()}"


def _decode(entry: Any) -> Judgment:
    """The judgment in an entry.

    Raises:
        ValueError: It is no JSON text, or no judgment.
    """
    judgment = _JUDGMENT.validate_json(entry, strict=True)
    if judgment.log_odds is None or not math.isfinite(judgment.log_odds):
        raise ValueError("it has no log-odds")
    return judgment
