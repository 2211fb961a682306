"""Judges a collection under each policy and says what each brings and costs.

A collection is a folder with queries.tsv, corpus.tsv and qrels.txt, or BEIR's queries.jsonl,
corpus.jsonl and qrels/test.tsv; and, for the candidates, a retriever's run.txt. A server's key is
taken from RANK1_API_KEY or else OPENAI_API_KEY. Run the same command again to go on where an
interrupted one stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rank1_integrations.config import Options
from rank1_integrations.evaluation.collection import read_collection
from rank1_integrations.evaluation.policies import DEFAULTS, FIXED, parse_policies
from rank1_integrations.evaluation.runner import Setup
from rank1_integrations.exceptions import Rank1Error

MODEL = ("backend", "base_url", "model", "engine_args")
CUT = ("top_n", "score_threshold")
OPTIONS = tuple(name for name in Options.model_fields if name not in FIXED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; returns the exit status: 0, or 1 with a sentence on what went wrong."""
    asked = _parser().parse_args(arguments)
    try:
        _run(asked)
    except (Rank1Error, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    return 0


def _run(asked: argparse.Namespace) -> None:
    policies = parse_policies(asked.policy)
    collection = read_collection(
        asked.collection,
        qrels=asked.qrels,
        run=asked.run,
        min_grade=asked.min_grade,
        candidates=asked.candidates,
    )
    # Here, so that --help and mistakes cost no time, and a missing library is a sentence.
    from rank1_integrations.evaluation.experiment import try_policies

    settings = {name: value for name, value in vars(asked).items() if name in Setup.model_fields}
    with closing(Setup.check(settings)) as setup:
        try_policies(
            policies,
            setup,
            collection,
            queries=asked.queries,
            min_grade=asked.min_grade,
            gains=asked.gains,
            output=asked.output,
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
        help="a set of options to try, as often as there are policies; the first is what the "
        f"others are compared with. Default: {' '.join(map(str, DEFAULTS))}, which may also be "
        "given by name alone",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("rank1-experiment"), help="folder for all results"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--qrels", type=Path, help="another place for the judgments of people")
    data.add_argument("--run", type=Path, help="another place for the retriever's result")
    data.add_argument("--queries", type=_count, help="judge the first so many only")
    data.add_argument("--candidates", type=_count, help="the retriever's first so many only")
    data.add_argument(
        "--min-grade", type=_count, default=1, help="the lowest grade that counts as relevant"
    )
    data.add_argument(
        "--gains",
        choices=["linear", "exponential"],
        default="linear",
        help="a passage's worth in nDCG: its grade, as trec_eval has it, or 2^grade - 1",
    )
    _add(parser.add_argument_group("model"), MODEL)
    _add(parser.add_argument_group("what a user would keep"), CUT)
    _add(parser.add_argument_group("options of all policies that don't say otherwise"), OPTIONS)
    return parser


def _add(group: argparse._ArgumentGroup, names: Sequence[str]) -> None:
    """Arguments named as the settings are, which also check them."""
    for name in names:
        field = Setup.model_fields[name]
        says = " ".join((field.description or "").split()).replace("%", "%%")
        default = "" if field.default is None else f" Default: {field.default}"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            type=_json if name == "engine_args" else str,
            help=says + default,
        )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON, in quotes: {error}") from None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on; it is {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
