"""Evaluate all policies, one after another, and report those that finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rank1_integrations.evaluation.collection import Collection, Query
from rank1_integrations.evaluation.metrics import (
    Gains,
    MetricConfig,
    compare,
    compute_metrics,
    first_stage_results,
)
from rank1_integrations.evaluation.policies import Policy
from rank1_integrations.evaluation.report import Report, Row, show, write
from rank1_integrations.evaluation.runner import EvaluationConfig, PolicyRun
from rank1_integrations.exceptions import MissingExtraError

try:
    from rich.console import Console
    from rich.progress import track
except ImportError as error:
    raise MissingExtraError(error.name or "rich", "evaluation") from None

DEFAULT_CUTOFF = 10
"""The n of nDCG@n if the selection has no top_n."""


def evaluate_policies(
    policies: Sequence[Policy],
    config: EvaluationConfig,
    collection: Collection,
    *,
    queries: int | None,
    min_relevance: int,
    gains: Gains,
    output: Path,
) -> None:
    """Judge a collection under each policy, and report the policies that finished.

    The report is written even if a later policy fails.

    Args:
        policies: The policies; the first is the baseline.
        config: The model and the selection.
        collection: The collection.
        queries: Judge only so many queries, the first ones; None for all.
        min_relevance: The lowest relevance label that counts as relevant.
        gains: Gain of a passage in nDCG.
        output: Folder for all results; stored judgments are reused.

    Raises:
        ConfigurationError: A policy can't work, or has judgments made with other settings.
        EngineError: The model gives no answers any more.
    """
    model = config.start()
    # All are made before the first is judged, so that a mistake in the last fails at once.
    runs = [
        PolicyRun(config, model, policy, collection, output / policy.name) for policy in policies
    ]
    chosen = collection.queries[:queries]
    metric_config = MetricConfig(
        top_n=config.top_n or DEFAULT_CUTOFF,
        score_threshold=config.score_threshold,
        min_relevance=min_relevance,
        gains=gains,
    )
    report = Report(
        model=model,
        collection=collection.name,
        queries=len(chosen),
        excluded=collection.excluded,
        config=metric_config,
        first_stage=compute_metrics(chosen, first_stage_results(chosen), metric_config),
    )
    console = Console(stderr=True)
    try:
        for run in runs:
            report.rows.append(_evaluate(run, chosen, report, console))
    except BaseException:
        console.print(f"Run the same command again to continue from the judgments in {output}")
        raise
    finally:
        if report.rows:
            write(report, output)
            show(report)
    console.print(f"Judgments, metrics and plots are in {output}")


def _evaluate(run: PolicyRun, queries: Sequence[Query], report: Report, console: Console) -> Row:
    """Return the report's row for one policy, compared with the first one."""
    name = run.policy.name
    if stored := run.count_stored(queries):
        console.print(f"{name}: {stored} queries with stored judgments are reused")
    results = list(track(run.judge(queries), name, len(queries), console=console))
    metrics = compute_metrics(queries, results, report.config)
    baseline = report.rows[0].metrics if report.rows else None
    return Row(run.policy, metrics, compare(metrics, baseline) if baseline else None)
