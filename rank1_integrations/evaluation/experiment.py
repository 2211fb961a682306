"""All policies, one after another, and the report on those that finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rank1_integrations.evaluation.collection import Collection, Query
from rank1_integrations.evaluation.measures import Gains, Scale, compare, measure, unranked
from rank1_integrations.evaluation.policies import Policy
from rank1_integrations.evaluation.report import Report, Row, show, write
from rank1_integrations.evaluation.runner import PolicyRun, Setup
from rank1_integrations.exceptions import MissingExtraError

try:
    from rich.console import Console
    from rich.progress import track
except ImportError as error:
    raise MissingExtraError(error.name or "rich", "evaluation") from None


def try_policies(
    policies: Sequence[Policy],
    setup: Setup,
    collection: Collection,
    *,
    queries: int | None,
    min_grade: int,
    gains: Gains,
    output: Path,
) -> None:
    """Judge a collection under each policy, and report those that finished, come what may.

    Args:
        policies: What to try; the first is what the others are compared with.
        setup: The model, and where a user would cut.
        collection: What to judge.
        queries: Its first so many only; None for all.
        min_grade: The lowest grade that counts as relevant.
        gains: A passage's worth in nDCG.
        output: Folder for all results; what is there already is reused.

    Raises:
        ConfigurationError: A policy can't work, or was judged with other settings before.
        EngineError: The model gives no answers any more.
    """
    model = setup.start()
    # All are made before the first is judged, so that a mistake in the last shows at once.
    runs = [
        PolicyRun(setup, model, policy, collection, output / policy.name) for policy in policies
    ]
    chosen = collection.queries[:queries]
    scale = Scale(
        top_n=setup.top_n,
        score_threshold=setup.score_threshold,
        min_grade=min_grade,
        gains=gains,
    )
    report = Report(
        model=model,
        collection=collection.name,
        queries=len(chosen),
        left_out=collection.left_out,
        scale=scale,
        retriever=measure(chosen, unranked(chosen), scale),
    )
    console = Console(stderr=True)
    try:
        for run in runs:
            report.rows.append(_try(run, chosen, report, console))
    except BaseException:
        console.print(f"Nothing judged is lost: the same command goes on from what is in {output}")
        raise
    finally:
        if report.rows:
            write(report, output)
            show(report)
    console.print(f"Judgments, figures and plots are in {output}")


def _try(run: PolicyRun, queries: Sequence[Query], report: Report, console: Console) -> Row:
    """One policy's row of the report, with the first policy as what it is compared with."""
    name = run.policy.name
    if known := run.known(queries):
        console.print(f"{name}: {known} queries judged before are reused")
    judged = list(track(run.judge(queries), name, len(queries), console=console))
    figures = measure(queries, judged, report.scale)
    baseline = report.rows[0].figures if report.rows else None
    return Row(run.policy, figures, compare(figures, baseline) if baseline else None)
