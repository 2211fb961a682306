"""Judge a collection under each policy, and report the policies' quality and cost.

A collection is a folder with queries.tsv, corpus.tsv and qrels.txt, or BEIR's queries.jsonl,
corpus.jsonl and qrels/test.tsv; and, for the candidates, a retriever's run.txt. The key of a
server is read from RANK1_API_KEY. Run the same command again to continue an interrupted one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rank1_integrations.config import Options
from rank1_integrations.evaluation.collection import read_collection
from rank1_integrations.evaluation.policies import DEFAULTS, FIXED, parse_policies
from rank1_integrations.evaluation.runner import EvaluationConfig
from rank1_integrations.exceptions import Rank1Error

MODEL = (
    "backend",
    "base_url",
    "model",
    "context_length",
    "timeout",
    "max_retries",
    "engine_args",
    "device",
    "dtype",
    "batch_size",
)
SELECTION = ("top_n", "score_threshold")
OPTIONS = tuple(name for name in Options.model_fields if name not in FIXED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the evaluation.

    Args:
        arguments: Of the command line; None for those of the process.

    Returns:
        The exit status: 0, 1 after an error message, or 130 if interrupted.
    """
    parsed = _parser().parse_args(arguments)
    try:
        _run(parsed)
    except (Rank1Error, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    return 0


def _run(parsed: argparse.Namespace) -> None:
    policies = parse_policies(parsed.policy)
    collection = read_collection(
        parsed.collection,
        qrels=parsed.qrels,
        run=parsed.run,
        min_relevance=parsed.min_relevance,
        candidates=parsed.candidates,
    )
    # Imported late: --help and mistakes take no time, and a missing library is one sentence.
    from rank1_integrations.evaluation.experiment import evaluate_policies

    fields = EvaluationConfig.model_fields
    settings = {name: value for name, value in vars(parsed).items() if name in fields}
    with closing(EvaluationConfig(**settings)) as config:
        evaluate_policies(
            policies,
            config,
            collection,
            queries=parsed.queries,
            min_relevance=parsed.min_relevance,
            gains=parsed.gains,
            output=parsed.output,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rank1_integrations.evaluation", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("collection", type=Path, help="folder with queries, corpus and qrels")
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME:option=value,...",
        help="a named set of options, repeatable; the first policy is the baseline. Default: "
        f"{' '.join(map(str, DEFAULTS))}, which can also be given by name alone",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("rank1-evaluation"), help="folder for all results"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--qrels", type=Path, help="another qrels file")
    data.add_argument("--run", type=Path, help="another run file of the retriever")
    data.add_argument("--queries", type=_count, help="judge only the first so many queries")
    data.add_argument("--candidates", type=_count, help="judge only the best so many candidates")
    data.add_argument(
        "--min-relevance", type=_count, default=1, help="lowest label that counts as relevant"
    )
    data.add_argument(
        "--gains",
        choices=["linear", "exponential"],
        default="linear",
        help="gain of a passage in nDCG: its label, as in trec_eval, or 2^label - 1",
    )
    _add(parser.add_argument_group("model"), MODEL)
    _add(parser.add_argument_group("selection"), SELECTION)
    _add(parser.add_argument_group("options of all policies that do not set them"), OPTIONS)
    return parser


def _add(group: argparse._ArgumentGroup, names: Sequence[str]) -> None:
    """Add an argument for each setting. The settings validate the values."""
    for name in names:
        field = EvaluationConfig.model_fields[name]
        description = " ".join((field.description or "").split()).replace("%", "%%")
        default = "" if field.default is None else f" Default: {field.default}"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            type=_TYPES.get(name, str),
            help=description + default,
        )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON, in quotes: {error}") from None


def _optional(text: str) -> str | None:
    return None if text.lower() == "none" else text


_TYPES: dict[str, Callable[[str], Any]] = {"engine_args": _json, "top_n": _optional}


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1; it is {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
