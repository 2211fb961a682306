"""Judges a collection under one policy, and keeps what was judged on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from rank1_integrations._adapter import Rank1Settings
from rank1_integrations.evaluation.collection import Collection, Query
from rank1_integrations.evaluation.policies import COMMON, FIXED, Policy
from rank1_integrations.exceptions import ConfigurationError, EngineError
from rank1_integrations.judgment import Judgment
from rank1_integrations.reranker import Rank1
from rank1_integrations.scoring.usage import Usage

_FIELDS = {field.name for field in fields(Judgment)}


class Setup(Rank1Settings):
    """One model for all policies: the settings of the adapters, and where a user would cut."""

    top_n: int = 10
    """How many passages to keep at most, and the n of nDCG@n."""

    score_threshold: float = 0.5
    """Keep passages with score >= threshold."""

    def start(self) -> str:
        """Judge a first passage, so that neither mistakes nor loading wait for a policy's clock.

        Returns:
            The model's name.

        Raises:
            EngineError: The model can't be asked.
        """
        self._share(thinking="none", on_error="raise").judge("Is this a test?", ["It is one."])
        return self._rank1.model

    def rank1_for(self, policy: Policy) -> Rank1:
        """Rank1 with a policy's options, on the one engine; `Setup` closes it.

        Raises:
            ConfigurationError: The policy's options don't go with the common ones.
        """
        try:
            return self._share(**policy.options, on_error="keep")
        except ConfigurationError as error:
            raise ConfigurationError(f"policy {policy.name}: {error}") from None

    def _share(self, **options: Any) -> Rank1:
        common = self._rank1.options.model_dump(exclude_unset=True)
        return Rank1(self._rank1._engine, **{**common, **options})


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """What a policy made of one query.

    Attributes:
        query_id: Which.
        judgments: Of all candidates, in the retriever's order.
        ranking: Those that `Rank1.rank` would return without a cut, best first.
        usage: What it cost.
        seconds: Wall clock from the question to the last judgment.
    """

    query_id: str
    judgments: list[Judgment]
    ranking: list[Judgment]
    usage: Usage
    seconds: float

    @property
    def failures(self) -> int:
        """How many passages lack a judgment, or the thought that was to make it a better one."""
        return sum(one.error is not None and one.finish != "skipped" for one in self.judgments)


class PolicyRun:
    """One policy on one collection; what was judged before, with the same settings, is reused.

    In `folder`, settings.json says what was asked, and judgments.jsonl has a line for each
    judgment, written query by query as they are judged.
    """

    def __init__(
        self, setup: Setup, model: str, policy: Policy, collection: Collection, folder: Path
    ) -> None:
        """Read what is there.

        Raises:
            ConfigurationError: It was made with other settings.
        """
        self.policy = policy
        self._setup, self._collection = setup, collection
        self._rank1 = setup.rank1_for(policy)
        self._file = folder / "judgments.jsonl"
        self._settings = _settings(setup, model, self._rank1, collection)
        self._judged = self._resume(folder)

    def known(self, queries: Sequence[Query]) -> int:
        """How many of the queries need not be judged again."""
        return sum(query.id in self._judged for query in queries)

    def judge(self, queries: Sequence[Query]) -> Iterator[JudgedQuery]:
        """Each query once judged, one after another.

        Args:
            queries: Some or all of the collection's.

        Raises:
            EngineError: No passage of a query could be judged. What was judged before is kept.
        """
        for query in queries:
            judged = self._judged.get(query.id)
            if judged is None:
                judged = self._judge(query)
                self._judged[query.id] = judged
                _append(self._file, query, judged)
            yield judged

    def _judge(self, query: Query) -> JudgedQuery:
        started, spent = time.perf_counter(), self._rank1.usage
        try:
            judgments = self._rank1.judge(
                query.text,
                query.passages.values(),
                top_n=self._setup.top_n,
                score_threshold=self._setup.score_threshold,
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"query {query.id}: {error}") from error
        seconds, usage = time.perf_counter() - started, _difference(self._rank1.usage, spent)
        errors = [judgment.error for judgment in judgments if judgment.finish == "failed"]
        if errors and not any(judgment.score is not None for judgment in judgments):
            raise EngineError(f"query {query.id}: no passage could be judged: {errors[0]}")
        return self._judged_query(query.id, judgments, usage, seconds)

    def _judged_query(
        self, query_id: str, judgments: list[Judgment], usage: Usage, seconds: float
    ) -> JudgedQuery:
        return JudgedQuery(query_id, judgments, self._rank1.cut(judgments), usage, seconds)

    def _resume(self, folder: Path) -> dict[str, JudgedQuery]:
        known = folder / "settings.json"
        if not known.exists():
            folder.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(self._settings, indent=2), encoding="utf-8")
        try:
            before = dict(json.loads(known.read_text(encoding="utf-8")))
            judged = {one.query_id: one for one in self._read()}
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigurationError(
                f"{folder} holds something else than judgments ({error}): give another --output"
            ) from None
        if before != self._settings:
            raise ConfigurationError(
                f"{folder} holds judgments made with other settings "
                f"({_changes(before, self._settings)}): give another --output, or delete it"
            )
        # A torn line of an interrupted run, and queries with failures, are done again.
        rewritten = self._file.with_suffix(".new")
        rewritten.write_text("", encoding="utf-8")
        for query in self._collection.queries:
            if query.id in judged:
                _append(rewritten, query, judged[query.id])
        rewritten.replace(self._file)
        return judged

    def _read(self) -> Iterator[JudgedQuery]:
        """The queries on disk that were judged completely and without failures."""
        if not self._file.exists():
            return
        sizes = {query.id: len(query.passages) for query in self._collection.queries}
        text = self._file.read_text(encoding="utf-8")
        whole = [line for line in text.split("\n")[:-1] if line]
        for query_id, group in groupby(map(json.loads, whole), key=lambda row: row["query_id"]):
            rows = list(group)
            judged = self._judged_query(
                query_id,
                [Judgment(**{name: row[name] for name in _FIELDS & row.keys()}) for row in rows],
                Usage(**rows[0]["query_usage"]),
                rows[0]["query_seconds"],
            )
            if len(rows) == sizes.get(query_id) and not judged.failures:
                yield judged


def _settings(setup: Setup, model: str, rank1: Rank1, collection: Collection) -> dict[str, Any]:
    """Everything that a judgment or its time depends on, in plain JSON types."""
    return {
        "model": model,
        "backend": setup.backend,
        "engine_args": setup.engine_args,
        "collection": collection.digest,
        "top_n": setup.top_n,
        "score_threshold": setup.score_threshold,
        **rank1.options.model_dump(mode="json", exclude={*COMMON, *FIXED}),
    }


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now"
        for name in now | before
        if before.get(name) != now.get(name)
    )


def _append(file: Path, query: Query, judged: JudgedQuery) -> None:
    """A line for each passage of a query, in one write."""
    lines = [
        json.dumps(
            {
                "query_id": query.id,
                "passage_id": passage,
                "grade": query.grades.get(passage),
                "query_seconds": judged.seconds,
                "query_usage": asdict(judged.usage),
                **judgment.to_dict(),
            }
        )
        for passage, judgment in zip(query.passages, judged.judgments, strict=True)
    ]
    with file.open("a", encoding="utf-8") as opened:
        opened.write("".join(f"{line}\n" for line in lines))


def _difference(after: Usage, before: Usage) -> Usage:
    spent = asdict(before)
    return Usage(**{name: count - spent[name] for name, count in asdict(after).items()})
