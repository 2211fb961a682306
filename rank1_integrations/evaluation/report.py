"""Report quality and cost of each policy: a table, plots, and metrics as JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from rank1_integrations.evaluation.metrics import Comparison, MetricConfig, Metrics
from rank1_integrations.evaluation.policies import Policy
from rank1_integrations.exceptions import MissingExtraError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
except ImportError as error:
    raise MissingExtraError(error.name or "matplotlib", "evaluation") from None

MARKERS = "osD^vP*X"


@dataclass(frozen=True, slots=True)
class Row:
    """A finished policy.

    Attributes:
        policy: The policy.
        metrics: Its metrics.
        comparison: With the baseline; None for the baseline.
    """

    policy: Policy
    metrics: Metrics
    comparison: Comparison | None


@dataclass(slots=True, kw_only=True)
class Report:
    """All finished policies on one model and collection.

    Attributes:
        model: The model's name.
        collection: The collection's name.
        queries: Number of queries.
        excluded: Number of queries of the collection that are excluded.
        config: How the metrics were computed.
        first_stage: Metrics of the candidates in the first-stage order.
        rows: The policies; the first is the baseline.
    """

    model: str
    collection: str
    queries: int
    excluded: int
    config: MetricConfig
    first_stage: Metrics
    rows: list[Row] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """Model, collection and its size."""
        return (
            f"{self.model} on {self.collection}: {self.queries} queries, "
            f"{self.first_stage.passages} passages"
        )

    @property
    def baseline(self) -> str:
        """Name of the baseline."""
        return self.rows[0].policy.name


def show(report: Report) -> None:
    """Print tables of quality and cost, and notes on how to read them."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(f"[bold]{escape(report.heading)}[/]")
    console.print(_table(report, _quality(report)))
    console.print(_table(report, _cost(report)))
    for note in _notes(report):
        console.print(escape(note), highlight=False)


def _table(report: Report, columns: dict[str, list[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("policy")
    for heading in columns:
        table.add_column(escape(heading), justify="right")
    for row, *cells in zip(report.rows, *columns.values(), strict=True):
        table.add_row(*map(escape, [row.policy.name, *cells]))
    return table


def _quality(report: Report) -> dict[str, list[str]]:
    rows = report.rows
    p_values = [row.comparison and row.comparison.p_value for row in rows]
    return {
        f"nDCG@{report.config.top_n}": [_number(row.metrics.ndcg) for row in rows],
        f"to {report.baseline} [95%]": [_interval(row.comparison) for row in rows],
        "p": ["" if p is None else f"{p:.3f}" for p in p_values],
        "MRR": [_number(row.metrics.mrr) for row in rows],
        "precision": [_number(row.metrics.precision) for row in rows],
        "recall": [_number(row.metrics.recall) for row in rows],
        "ECE": [_number(row.metrics.calibration_error) for row in rows],
    }


def _cost(report: Report) -> dict[str, list[str]]:
    rows = report.rows
    shares = [row.comparison and row.comparison.tokens_share for row in rows]
    return {
        "reasoned": [str(row.metrics.reasoned) for row in rows],
        "tokens": [f"{row.metrics.tokens:,}" for row in rows],
        f"of {report.baseline}": ["" if share is None else f"{share:.0%}" for share in shares],
        "seconds": [f"{row.metrics.seconds:.1f}" for row in rows],
        "s/query": [f"{row.metrics.median_seconds:.2f}" for row in rows],
        "slowest": [f"{row.metrics.slowest_seconds:.2f}" for row in rows],
        "skipped": [str(row.metrics.finish_reasons.get("skipped", 0)) for row in rows],
        "failed": [str(row.metrics.failures) for row in rows],
    }


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _interval(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    if comparison.low is None or comparison.high is None:
        return f"{comparison.difference:+.3f}"
    return f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"


def _notes(report: Report) -> list[str]:
    config = report.config
    gain = "relevance label" if config.gains == "linear" else "2^label - 1"
    notes = [
        f"First-stage order: nDCG@{config.top_n} {_number(report.first_stage.ndcg)}, "
        f"MRR {_number(report.first_stage.mrr)}.",
        f"Gain in nDCG: {gain}. Relevant: label >= {config.min_relevance}. "
        f"Precision and recall at score >= {config.score_threshold:g}.",
        f"To {report.baseline}: mean difference in nDCG, its 95% confidence interval and p of a "
        "paired t-test over queries, not corrected for the number of policies.",
        "Tokens: generated for reasoning, verdicts and probes.",
        "Seconds: wall clock of one run, queries one after another; s/query is the median.",
    ]
    if report.excluded:
        notes.append(
            f"Excluded: {report.excluded} queries without a relevant passage or a candidate."
        )
    return notes


def write(report: Report, folder: Path) -> None:
    """Write report.jsonl, policies.png and calibration.png to a folder."""
    with (folder / "report.jsonl").open("w", encoding="utf-8") as file:
        for row in report.rows:
            file.write(json.dumps(_line(report, row)) + "\n")
    plot_policies(report).savefig(folder / "policies.png", dpi=150)
    plot_calibration(report).savefig(folder / "calibration.png", dpi=150)


def _line(report: Report, row: Row) -> dict[str, Any]:
    return {
        "policy": row.policy.name,
        "options": row.policy.settings,
        "model": report.model,
        "collection": report.collection,
        "queries": report.queries,
        "excluded": report.excluded,
        **asdict(report.config),
        **asdict(row.metrics),
        "first_stage": {"ndcg": report.first_stage.ndcg, "mrr": report.first_stage.mrr},
        "baseline": report.baseline,
        "comparison": asdict(row.comparison) if row.comparison else None,
    }


def plot_policies(report: Report) -> Figure:
    """Plot quality over cost: nDCG and the share of the baseline's tokens, a point each."""
    figure, axes = _axes(report.heading)
    baseline = report.rows[0].metrics
    for row, marker in zip(report.rows, cycle(MARKERS), strict=False):
        share = row.metrics.tokens / baseline.tokens
        axes.errorbar(
            share,
            row.metrics.ndcg,
            yerr=_bars(row.comparison),
            marker=marker,
            markersize=9,
            fillstyle="none",
            linestyle="none",
            capsize=4,
            label=f"{row.policy.name}: {row.metrics.ndcg:.3f}, {share:.0%} of tokens",
        )
    axes.axhline(baseline.ndcg, linestyle="--", linewidth=0.8, color="C0")
    axes.axhline(
        report.first_stage.ndcg,
        linestyle=":",
        color="grey",
        label=f"first-stage order: {report.first_stage.ndcg:.3f}",
    )
    axes.margins(0.15)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -0.02), min(top, 1.02))
    axes.set_xlabel(f"tokens generated, as a share of {report.baseline}'s {baseline.tokens:,}")
    axes.set_ylabel(f"nDCG@{report.config.top_n}")
    axes.set_title(
        f"bars: 95% confidence interval of the difference to {report.baseline}", fontsize=9
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _bars(comparison: Comparison | None) -> list[list[float]] | None:
    """Return the lengths of the error bar, downwards and upwards."""
    if comparison is None or comparison.low is None or comparison.high is None:
        return None
    difference = comparison.difference
    return [[difference - comparison.low], [comparison.high - difference]]


def plot_calibration(report: Report) -> Figure:
    """Plot the share of relevant passages over the score, a line for each policy."""
    figure, axes = _axes(report.heading)
    axes.plot([0, 1], [0, 1], linestyle="--", linewidth=0.8, color="grey", label="calibrated")
    for number, row in enumerate(report.rows):
        bins, color = row.metrics.bins, f"C{number}"
        scores, shares = [one.score for one in bins], [one.relevant for one in bins]
        scored = sum(one.passages for one in bins)
        error = _number(row.metrics.calibration_error)
        axes.plot(scores, shares, color=color, label=f"{row.policy.name}: ECE {error}")
        # Areas are proportional to the number of passages: small bins are uncertain.
        areas = [600 * one.passages / scored for one in bins]
        axes.scatter(scores, shares, s=areas, color=color, alpha=0.5)
    axes.axvline(report.config.score_threshold, linewidth=0.8, linestyle=":", color="grey")
    axes.set_xlabel("mean score of the passages in a bin")
    axes.set_ylabel("share of them that is relevant")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _axes(heading: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    figure.suptitle(heading, fontsize=10, wrap=True)
    return figure, figure.subplots()
