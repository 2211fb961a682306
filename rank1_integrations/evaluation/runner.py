"""Judge a collection under one policy, and store the judgments on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from rank1_integrations._adapter import Rank1Settings
from rank1_integrations.evaluation.collection import Collection, Query
from rank1_integrations.evaluation.policies import FIXED, Policy
from rank1_integrations.exceptions import ConfigurationError, EngineError
from rank1_integrations.judgment import Judgment
from rank1_integrations.reranker import Rank1
from rank1_integrations.scoring.usage import Usage
from rank1_integrations.selection import Selection

_FIELDS = {field.name for field in fields(Judgment)}


class EvaluationConfig(Rank1Settings):
    """The model and the selection that all policies share."""

    top_n: int | None = 10
    """The most passages to keep, and the n of nDCG@n; None to keep all, and for nDCG@10."""

    score_threshold: float = 0.5
    """Keep passages with score >= threshold."""

    _rerankers: list[Rank1] = PrivateAttr(default_factory=list)

    def start(self) -> str:
        """Judge one passage, so that the timing of no policy includes loading or warm-up.

        Returns:
            The model's name.

        Raises:
            EngineError: The model gives no answer.
        """
        rank1 = self._with_options(thinking="none", on_error="raise")
        rank1.judge("Is this a test?", ["It is one."])
        return rank1.model

    def rank1_for(self, policy: Policy) -> Rank1:
        """Return a reranker with a policy's options on the shared engine; `close` closes it.

        Raises:
            ConfigurationError: The policy's options conflict with the common ones.
        """
        try:
            return self._with_options(**policy.options, on_error="keep")
        except ConfigurationError as error:
            raise ConfigurationError(f"policy {policy.name}: {error}") from None

    def _with_options(self, **options: Any) -> Rank1:
        common = self._rank1.options.model_dump(exclude_unset=True)
        rank1 = Rank1(self._rank1._runtime.latest.engine, **{**common, **options})
        # A reranker closes its engine when it is collected, and this engine is shared.
        self._rerankers.append(rank1)
        return rank1


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """The result of one query under a policy.

    Attributes:
        query_id: Id of the query.
        judgments: Of all candidates, in the first-stage order.
        ranking: The judgments that `Rank1.rank` keeps without top_n and threshold, best first.
        usage: Cost of the query.
        seconds: Wall clock from the call to the last judgment.
    """

    query_id: str
    judgments: list[Judgment]
    ranking: list[Judgment]
    usage: Usage
    seconds: float

    @property
    def failures(self) -> int:
        """Number of passages without a judgment or without the reasoning that was to come."""
        return sum(
            judgment.error is not None and judgment.finish_reason != "skipped"
            for judgment in self.judgments
        )


class PolicyRun:
    """One policy on one collection. Stored judgments with the same settings are reused.

    In `folder`, settings.json has the settings, and judgments.jsonl a line for each judgment,
    appended query by query.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        model: str,
        policy: Policy,
        collection: Collection,
        folder: Path,
    ) -> None:
        """Read the stored judgments.

        Raises:
            ConfigurationError: They were made with other settings.
        """
        self.policy = policy
        self._config, self._collection = config, collection
        self._rank1 = config.rank1_for(policy)
        self._file = folder / "judgments.jsonl"
        self._settings = _settings(config, model, self._rank1, collection)
        self._results = self._resume(folder)

    def count_stored(self, queries: Sequence[Query]) -> int:
        """Return the number of queries with stored judgments."""
        return sum(query.id in self._results for query in queries)

    def judge(self, queries: Sequence[Query]) -> Iterator[JudgedQuery]:
        """Judge queries one after another, and yield the results.

        Args:
            queries: Some or all of the collection's.

        Raises:
            EngineError: No passage of a query could be judged. Earlier results are stored.
        """
        for query in queries:
            result = self._results.get(query.id)
            if result is None:
                result = self._judge(query)
                self._results[query.id] = result
                _append(self._file, query, result)
            yield result

    def _judge(self, query: Query) -> JudgedQuery:
        start, usage_before = time.perf_counter(), self._rank1.usage
        try:
            judgments = self._rank1.judge(
                query.text,
                query.passages.values(),
                top_n=self._config.top_n,
                score_threshold=self._config.score_threshold,
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"query {query.id}: {error}") from error
        seconds = time.perf_counter() - start
        usage = _difference(self._rank1.usage, usage_before)
        errors = [one.error for one in judgments if one.finish_reason == "failed"]
        if errors and not any(judgment.score is not None for judgment in judgments):
            raise EngineError(f"query {query.id}: no passage could be judged: {errors[0]}")
        return _result(query.id, judgments, usage, seconds)

    def _resume(self, folder: Path) -> dict[str, JudgedQuery]:
        settings_file = folder / "settings.json"
        if not settings_file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            settings_file.write_text(json.dumps(self._settings, indent=2), encoding="utf-8")
        try:
            stored_settings = dict(json.loads(settings_file.read_text(encoding="utf-8")))
            results = {result.query_id: result for result in self._read()}
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigurationError(
                f"{folder} holds other files than this command writes ({error}): give another "
                "--output"
            ) from None
        if stored_settings != self._settings:
            raise ConfigurationError(
                f"{folder} holds judgments made with other settings "
                f"({_changes(stored_settings, self._settings)}): give another --output, or "
                "delete it"
            )
        # Drops the incomplete last line of an interrupted run, and queries with failures.
        rewritten = self._file.with_suffix(".new")
        rewritten.write_text("", encoding="utf-8")
        for query in self._collection.queries:
            if query.id in results:
                _append(rewritten, query, results[query.id])
        rewritten.replace(self._file)
        return results

    def _read(self) -> Iterator[JudgedQuery]:
        """Yield the stored queries that were judged completely and without failures."""
        if not self._file.exists():
            return
        sizes = {query.id: len(query.passages) for query in self._collection.queries}
        text = self._file.read_text(encoding="utf-8")
        complete_lines = [line for line in text.split("\n")[:-1] if line]
        by_query = groupby(map(json.loads, complete_lines), key=lambda row: row["query_id"])
        for query_id, group in by_query:
            rows = list(group)
            result = _result(
                query_id,
                [Judgment(**{name: row[name] for name in _FIELDS & row.keys()}) for row in rows],
                Usage(**rows[0]["query_usage"]),
                rows[0]["query_seconds"],
            )
            if len(rows) == sizes.get(query_id) and not result.failures:
                yield result


def _result(query_id: str, judgments: list[Judgment], usage: Usage, seconds: float) -> JudgedQuery:
    ranking, _ = Selection().split(judgments)
    return JudgedQuery(query_id, judgments, ranking, usage, seconds)


def _settings(
    config: EvaluationConfig, model: str, rank1: Rank1, collection: Collection
) -> dict[str, Any]:
    """Return everything that judgments and times depend on, in plain JSON types."""
    options = rank1.options
    return {
        "model": model,
        "backend": config.backend,
        "engine_args": config.engine_args,
        "collection": collection.digest,
        "top_n": config.top_n,
        "score_threshold": config.score_threshold,
        **options.model_dump(mode="json", exclude={*FIXED}),
        # With the numbers that "adaptive" stands for, which can differ between versions.
        "thinking": asdict(options.adaptive) if options.adaptive else options.thinking,
    }


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now"
        for name in now | before
        if before.get(name) != now.get(name)
    )


def _append(file: Path, query: Query, result: JudgedQuery) -> None:
    """Write a line for each passage of a query, in one write."""
    lines = [
        json.dumps(
            {
                "query_id": query.id,
                "passage_id": passage,
                "relevance_label": query.qrels.get(passage),
                "query_seconds": result.seconds,
                "query_usage": asdict(result.usage),
                **judgment.to_dict(),
            }
        )
        for passage, judgment in zip(query.passages, result.judgments, strict=True)
    ]
    with file.open("a", encoding="utf-8") as opened:
        opened.write("".join(f"{line}\n" for line in lines))


def _difference(after: Usage, before: Usage) -> Usage:
    counts_before = asdict(before)
    return Usage(**{name: count - counts_before[name] for name, count in asdict(after).items()})
