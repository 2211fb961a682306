"""Shows what every policy brought and cost: a table, plots, and the figures as JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from rank1_integrations.evaluation.measures import Comparison, Figures, Scale
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
    """A finished policy; `comparison` is None for the one that the others are compared with."""

    policy: Policy
    figures: Figures
    comparison: Comparison | None


@dataclass(slots=True, kw_only=True)
class Report:
    """All policies that have finished, on one model and collection.

    Attributes:
        model: Its name.
        collection: Its name.
        queries: How many were judged.
        left_out: How many of the collection's can't be reckoned with.
        scale: How the figures were reckoned.
        retriever: The figures of the candidates in the order in which they came.
        rows: The policies; the first is the baseline.
    """

    model: str
    collection: str
    queries: int
    left_out: int
    scale: Scale
    retriever: Figures
    rows: list[Row] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """What was judged, by what."""
        return (
            f"{self.model} on {self.collection}: {self.queries} queries, "
            f"{self.retriever.passages} passages"
        )

    @property
    def baseline(self) -> str:
        """The name of the policy that the others are compared with."""
        return self.rows[0].policy.name


def show(report: Report) -> None:
    """Print what each policy brings, what it costs, and how to read it."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(f"[bold]{escape(report.heading)}[/]")
    console.print(_table(report, _brings(report)))
    console.print(_table(report, _costs(report)))
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


def _brings(report: Report) -> dict[str, list[str]]:
    rows = report.rows
    p_values = [row.comparison and row.comparison.p_value for row in rows]
    return {
        f"nDCG@{report.scale.top_n}": [_number(row.figures.ndcg) for row in rows],
        f"to {report.baseline} [95%]": [_interval(row.comparison) for row in rows],
        "p": ["" if p is None else f"{p:.3f}" for p in p_values],
        "MRR": [_number(row.figures.mrr) for row in rows],
        "precision": [_number(row.figures.precision) for row in rows],
        "recall": [_number(row.figures.recall) for row in rows],
        "ECE": [_number(row.figures.calibration_error) for row in rows],
    }


def _costs(report: Report) -> dict[str, list[str]]:
    rows = report.rows
    shares = [row.comparison and row.comparison.tokens_share for row in rows]
    return {
        "thoughts": [str(_thoughts(row.figures)) for row in rows],
        "tokens": [f"{row.figures.tokens:,}" for row in rows],
        f"of {report.baseline}": ["" if share is None else f"{share:.0%}" for share in shares],
        "seconds": [f"{row.figures.seconds:.1f}" for row in rows],
        "s/query": [f"{row.figures.median_seconds:.2f}" for row in rows],
        "slowest": [f"{row.figures.slowest_seconds:.2f}" for row in rows],
        "skipped": [str(row.figures.finishes.get("skipped", 0)) for row in rows],
        "failed": [str(row.figures.failures) for row in rows],
    }


def _thoughts(figures: Figures) -> int:
    return figures.finishes.get("concluded", 0) + figures.finishes.get("forced", 0)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _interval(against: Comparison | None) -> str:
    if against is None:
        return ""
    if against.low is None or against.high is None:
        return f"{against.difference:+.3f}"
    return f"{against.difference:+.3f} [{against.low:+.3f}, {against.high:+.3f}]"


def _notes(report: Report) -> list[str]:
    scale = report.scale
    gain = "the grade" if scale.gains == "linear" else "2^grade - 1"
    notes = [
        f"The retriever's own order: nDCG@{scale.top_n} {_number(report.retriever.ndcg)}, "
        f"MRR {_number(report.retriever.mrr)}.",
        f"Gain in nDCG: {gain}. Relevant: grade {scale.min_grade} or above. "
        f"Precision and recall at score >= {scale.score_threshold:g}.",
        f"Against {report.baseline}: mean difference in nDCG, its 95% confidence interval and p of "
        "a paired t-test over queries, uncorrected for the number of policies.",
        "Tokens: generated, for thoughts, verdicts and looks at where an answer stands.",
        "Seconds: wall clock, measured once, one query after another; s/query is the median.",
    ]
    if report.left_out:
        notes.append(f"Left out: {report.left_out} queries without relevant passage or candidate.")
    return notes


def write(report: Report, folder: Path) -> None:
    """Figures and plots into a folder: report.jsonl, policies.png and calibration.png."""
    with (folder / "report.jsonl").open("w", encoding="utf-8") as file:
        for row in report.rows:
            file.write(json.dumps(_line(report, row)) + "\n")
    plot_policies(report).savefig(folder / "policies.png", dpi=150)
    plot_calibration(report).savefig(folder / "calibration.png", dpi=150)


def _line(report: Report, row: Row) -> dict[str, Any]:
    return {
        "policy": row.policy.name,
        "options": row.policy.options,
        "model": report.model,
        "collection": report.collection,
        "queries": report.queries,
        "left_out": report.left_out,
        **asdict(report.scale),
        **asdict(row.figures),
        "retriever": {"ndcg": report.retriever.ndcg, "mrr": report.retriever.mrr},
        "baseline": report.baseline,
        "comparison": asdict(row.comparison) if row.comparison else None,
    }


def plot_policies(report: Report) -> Figure:
    """Quality over cost: nDCG and the share of the baseline's tokens, a point for each policy."""
    figure, axes = _axes(report.heading)
    most = report.rows[0].figures.tokens
    for row, marker in zip(report.rows, cycle(MARKERS), strict=False):
        share = row.figures.tokens / most
        axes.errorbar(
            share,
            row.figures.ndcg,
            yerr=_bars(row.comparison),
            marker=marker,
            markersize=9,
            fillstyle="none",
            linestyle="none",
            capsize=4,
            label=f"{row.policy.name}: {row.figures.ndcg:.3f}, {share:.0%} of tokens",
        )
    axes.axhline(report.rows[0].figures.ndcg, linestyle="--", linewidth=0.8, color="C0")
    axes.axhline(
        report.retriever.ndcg,
        linestyle=":",
        color="grey",
        label=f"retriever's order: {report.retriever.ndcg:.3f}",
    )
    axes.margins(0.15)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -0.02), min(top, 1.02))
    axes.set_xlabel(f"tokens generated, as a share of {report.baseline}'s {most:,}")
    axes.set_ylabel(f"nDCG@{report.scale.top_n}")
    axes.set_title(
        f"bars: 95% confidence interval of the difference to {report.baseline}", fontsize=9
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _bars(against: Comparison | None) -> list[list[float]] | None:
    """How far the interval of the difference reaches down and up."""
    if against is None or against.low is None or against.high is None:
        return None
    return [[against.difference - against.low], [against.high - against.difference]]


def plot_calibration(report: Report) -> Figure:
    """The share of relevant passages over the score, a line for each policy."""
    figure, axes = _axes(report.heading)
    axes.plot([0, 1], [0, 1], linestyle="--", linewidth=0.8, color="grey", label="calibrated")
    for number, row in enumerate(report.rows):
        bins, color = row.figures.bins, f"C{number}"
        scores, shares = [one.score for one in bins], [one.relevant for one in bins]
        judged = sum(one.passages for one in bins)
        error = _number(row.figures.calibration_error)
        axes.plot(scores, shares, color=color, label=f"{row.policy.name}: ECE {error}")
        # A mark's area is its number of passages: small ones say little.
        areas = [600 * one.passages / judged for one in bins]
        axes.scatter(scores, shares, s=areas, color=color, alpha=0.5)
    axes.axvline(report.scale.score_threshold, linewidth=0.8, linestyle=":", color="grey")
    axes.set_xlabel("mean score of the passages in a bin")
    axes.set_ylabel("share of them that is relevant")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _axes(heading: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    figure.suptitle(heading, fontsize=10, wrap=True)
    return figure, figure.subplots()
