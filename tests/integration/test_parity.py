"""The scores are those of the model card's procedure, run on the same engine and model."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest

from examples.bm25 import Bm25Index
from examples.standard_library import passages
from rank1_integrations import Judgment, Rank1
from rank1_integrations.demo_model import DEMO_MODEL
from tests.integration.conftest import ENGINE_ARGS
from tests.support.vllm_server import VLLM_ENVIRONMENT

QUERIES = [
    "How do I sort a list in place?",
    "What happens when an exception is raised in a finally clause?",
    "read a file line by line",
    "convert a string to an integer",
    "difference between a list and a tuple",
    "run a function in another thread",
    "parse command line arguments",
    "frobnicate the quxified zzyzx-42",
]
PASSAGES_EACH = 26
# Some of the demonstration model's reasonings are shorter than this, some longer.
MAX_TOKENS = 36

Pair = tuple[dict[str, Any], Judgment]


@pytest.fixture(scope="module")
def pairs(in_process: Rank1, tmp_path_factory: pytest.TempPathFactory) -> list[list[Pair]]:
    """What the card's procedure saw and what Rank1 judged, for each query and passage."""
    index = Bm25Index(passages())
    found = [
        [passage.text for passage, _ in index.search(query, PASSAGES_EACH)] for query in QUERIES
    ]
    output = tmp_path_factory.mktemp("card") / "seen.json"
    asked = {
        "model": str(DEMO_MODEL),
        "engine_args": ENGINE_ARGS,
        "max_tokens": MAX_TOKENS,
        "pairs": [
            (query, text) for query, texts in zip(QUERIES, found, strict=True) for text in texts
        ],
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.reference_procedure", str(output)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, **VLLM_ENVIRONMENT},
        timeout=600,
    )
    assert output.exists(), done.stderr[-4000:]
    seen = iter(json.loads(output.read_text()))
    with Rank1.from_vllm(
        str(DEMO_MODEL), engine_args=ENGINE_ARGS, max_reasoning_tokens=MAX_TOKENS
    ) as rank1:
        return [
            [(next(seen), judgment) for judgment in rank1.judge(query, texts)]
            for query, texts in zip(QUERIES, found, strict=True)
        ]


def log_odds(seen: dict[str, Any]) -> float:
    difference: float = seen["true"] - seen["false"]
    return difference


def test_there_are_enough_pairs_of_both_kinds(pairs: list[list[Pair]]) -> None:
    concluded = [seen["concluded"] for query in pairs for seen, _ in query]
    assert len(concluded) >= 200
    assert 40 <= sum(concluded) <= len(concluded) - 40


def test_reasoning_ends_as_it_does_by_the_card(pairs: list[list[Pair]]) -> None:
    for seen, judgment in (pair for query in pairs for pair in query):
        assert judgment.finish_reason == ("concluded" if seen["concluded"] else "forced")
        assert judgment.reasoning == seen["text"].strip()


def test_concluded_reasoning_has_the_cards_log_odds(pairs: list[list[Pair]]) -> None:
    for seen, judgment in (pair for query in pairs for pair in query):
        if seen["concluded"]:
            assert judgment.log_odds == pytest.approx(log_odds(seen), abs=1e-3)


def test_forced_verdicts_have_the_exact_log_odds_of_the_labels(pairs: list[list[Pair]]) -> None:
    for seen, judgment in (pair for query in pairs for pair in query):
        if not seen["concluded"]:
            assert judgment.log_odds == pytest.approx(log_odds(seen), abs=1e-3)
            assert judgment.log_odds is not None
            assert math.isfinite(judgment.log_odds)
            assert judgment.score not in (None, 0.5)
            assert not judgment.log_odds_is_bound
            assert judgment.reasoning_tokens == MAX_TOKENS


def test_the_order_is_the_cards(pairs: list[list[Pair]]) -> None:
    for query in pairs:
        ours = [seen for seen, _ in sorted(query, key=lambda pair: -(pair[1].log_odds or 0))]
        for better, worse in itertools.pairwise(ours):
            assert log_odds(better) >= log_odds(worse) - 1e-5
