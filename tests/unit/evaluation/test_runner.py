"""Judgments are stored, and nothing is judged twice.

The scripted engine replaces the model, to count requests and to fail when a test wants it.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rank1_integrations import ConfigurationError, EngineError, Rank1
from rank1_integrations.config import Adaptive
from rank1_integrations.evaluation.collection import Collection, Query
from rank1_integrations.evaluation.policies import parse_policy
from rank1_integrations.evaluation.runner import EvaluationConfig, JudgedQuery, PolicyRun
from rank1_integrations.testing import ScriptedEngine
from tests.unit.evaluation.collections import query

QUERIES = [query({"a": 1, "bb": 0, "ccc": 0}, f"q{number}") for number in range(4)]
COLLECTION = Collection("small", QUERIES, 0)


def length_script(passage: str) -> float:
    return float(len(passage))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(length_script)


def run(engine: ScriptedEngine, folder: Path, policy: str = "none", **settings: Any) -> PolicyRun:
    config = EvaluationConfig(rank1=Rank1(engine), **settings)
    return PolicyRun(config, "scripted", parse_policy(policy), COLLECTION, folder)


def judge(policy_run: PolicyRun, queries: int = 4) -> list[JudgedQuery]:
    return list(policy_run.judge(QUERIES[:queries]))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "judgments.jsonl").read_text().splitlines()]


def failing_at(request: int) -> ScriptedEngine:
    """Return an engine that fails from the given request on, counted from 1."""
    count = 0

    def script(passage: str) -> float:
        nonlocal count
        count += 1
        if count >= request:
            raise EngineError("the server is gone")
        return length_script(passage)

    return ScriptedEngine(script)


def test_every_judgment_is_stored_as_a_line(engine: ScriptedEngine, tmp_path: Path) -> None:
    answers = judge(run(engine, tmp_path), 2)
    assert [one.query_id for one in answers] == ["q0", "q1"]
    assert [
        (row["query_id"], row["passage_id"], row["relevance_label"]) for row in rows(tmp_path)
    ] == [
        (name, passage, label)
        for name in ("q0", "q1")
        for passage, label in QUERIES[0].qrels.items()
    ]
    first = answers[0].judgments[0]
    assert rows(tmp_path)[0].items() >= first.to_dict().items()
    assert rows(tmp_path)[0]["query_seconds"] == answers[0].seconds
    assert rows(tmp_path)[0]["query_usage"] == asdict(answers[0].usage)
    assert [one.usage.answer_tokens for one in answers] == [3, 3]


def test_stored_queries_are_not_judged_again(engine: ScriptedEngine, tmp_path: Path) -> None:
    before = judge(run(engine, tmp_path), 2)
    asked = len(engine.requests)
    again = run(engine, tmp_path)
    assert again.count_stored(QUERIES) == 2
    assert judge(again, 2) == before
    assert len(engine.requests) == asked
    assert judge(again)[:2] == before
    assert len(engine.requests) == 2 * asked
    assert len(rows(tmp_path)) == 12


def test_a_run_with_fewer_queries_keeps_all_stored_judgments(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    judge(run(engine, tmp_path))
    judge(run(engine, tmp_path), 1)
    assert run(engine, tmp_path).count_stored(QUERIES) == 4


def test_a_dead_server_stops_the_policy_and_earlier_judgments_are_stored(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="query q2: no passage could be judged: the server is"):
        judge(run(failing_at(7), tmp_path))
    again = run(engine, tmp_path)
    assert again.count_stored(QUERIES) == 2
    assert len(judge(again)) == 4
    assert len(engine.requests) == 6


def test_a_query_with_a_failed_passage_is_judged_again_by_the_next_run(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="query q1"):
        judge(run(failing_at(3), tmp_path))
    assert [row["finish_reason"] for row in rows(tmp_path)] == ["direct", "direct", "failed"]
    assert rows(tmp_path)[2]["error"] == "the server is gone"
    judge(run(engine, tmp_path))
    assert [row["finish_reason"] for row in rows(tmp_path)] == ["direct"] * 12


def test_a_query_with_failed_reasoning_is_judged_again_by_the_next_run(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    def script(passage: str) -> float:
        raise EngineError("the server is gone")

    adaptive = "adaptive:thinking=adaptive,max_share=1,confidence=0.9999999"
    dead = ScriptedEngine(script, direct=length_script)
    first = judge(run(dead, tmp_path, adaptive), 1)
    assert first[0].failures == 3
    assert {one.finish_reason for one in first[0].judgments} == {"direct"}
    assert run(engine, tmp_path, adaptive).count_stored(QUERIES) == 0


def test_the_ranking_equals_that_of_rank(engine: ScriptedEngine, tmp_path: Path) -> None:
    all_ranked = judge(run(engine, tmp_path / "none"), 1)[0]
    assert [one.index for one in all_ranked.ranking] == [2, 1, 0]
    enough = judge(run(engine, tmp_path / "one", "one:thinking=none,enough=1"), 1)[0]
    judged = [one for one in enough.judgments if one.score is not None]
    assert 0 < len(enough.ranking) == len(judged) < 3
    assert enough.failures == 0
    again = judge(run(engine, tmp_path / "one", "one:thinking=none,enough=1"), 1)[0]
    assert again == enough


def test_a_query_with_an_incomplete_last_line_is_judged_again(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    before = judge(run(engine, tmp_path), 2)
    file = tmp_path / "judgments.jsonl"
    file.write_text(file.read_text()[:-30])
    again = run(engine, tmp_path)
    assert again.count_stored(QUERIES) == 1
    scores = [[one.score for one in of.judgments] for of in judge(again, 2)]
    assert scores == [[one.score for one in of.judgments] for of in before]
    assert len(rows(tmp_path)) == 6


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        ("none:thinking=full", {}, "thinking: 'none' there, 'full' now"),
        ("none", {"top_n": 5}, "top_n: 10 there, 5 now"),
        ("none", {"score_threshold": 0.7}, "score_threshold: 0.5 there, 0.7 now"),
        ("none:thinking=adaptive,max_share=0.5", {}, "thinking: 'none' there, {'max_share': 0.5"),
    ],
)
def test_judgments_made_with_other_settings_are_neither_reused_nor_lost(
    engine: ScriptedEngine, tmp_path: Path, policy: str, settings: dict[str, Any], message: str
) -> None:
    judge(run(engine, tmp_path), 1)
    with pytest.raises(ConfigurationError, match=f"{message}.*give another --output"):
        run(engine, tmp_path, policy, **settings)
    assert run(engine, tmp_path).count_stored(QUERIES) == 1


@pytest.mark.parametrize("file", ["settings.json", "judgments.jsonl"])
@pytest.mark.parametrize("content", ["not JSON\n", "[]\n", '{"query_id": "q0"}\n', "7\n"])
def test_files_with_other_content_are_left_unchanged(
    engine: ScriptedEngine, tmp_path: Path, file: str, content: str
) -> None:
    judge(run(engine, tmp_path), 1)
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigurationError, match="give another --output"):
        run(engine, tmp_path)
    assert (tmp_path / file).read_text() == content


def test_options_of_a_policy_replace_the_common_ones() -> None:
    engine = ScriptedEngine(length_script)
    config = EvaluationConfig(
        rank1=Rank1(engine, thinking="none", max_concurrency=3, on_error="raise")
    )
    options = config.rank1_for(parse_policy("mine:thinking=full,max_reasoning_tokens=9")).options
    assert (options.thinking, options.max_reasoning_tokens) == ("full", 9)
    assert (options.max_concurrency, options.on_error) == (3, "keep")


def test_adaptive_judgments_are_reused_only_with_the_same_numbers(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    judge(run(engine, tmp_path, "adaptive"), 1)
    same = f"adaptive:thinking=adaptive,max_share={Adaptive().max_share}"
    assert run(engine, tmp_path, same).count_stored(QUERIES) == 1
    with pytest.raises(ConfigurationError, match=r"'max_share': 0\.5"):
        run(engine, tmp_path, "adaptive:thinking=adaptive,max_share=0.5")


def test_a_dropped_reranker_of_a_policy_leaves_the_shared_engine_open(
    engine: ScriptedEngine,
) -> None:
    config = EvaluationConfig(rank1=Rank1(engine))
    config.start()
    config.rank1_for(parse_policy("none"))
    gc.collect()
    config.start()
    assert not engine.closed


@pytest.mark.parametrize(("top_n", "reasoned"), [(10, "best"), (None, "doubtful")])
def test_policies_know_the_selection(tmp_path: Path, top_n: int | None, reasoned: str) -> None:
    # For an ordered list the best verdicts matter, for a threshold alone those near it.
    log_odds = {"best": 6.0, "doubtful": 0.1, "worst": -6.0}
    engine = ScriptedEngine(lambda passage: log_odds[passage])
    passages = {name: name for name in log_odds}
    collection = Collection("small", [Query("q", "What?", passages, {"best": 1})], 0)
    config = EvaluationConfig(rank1=Rank1(engine), top_n=top_n, score_threshold=0.5)
    policy_run = PolicyRun(config, "scripted", parse_policy("adaptive"), collection, tmp_path)
    (result,) = policy_run.judge(collection.queries)
    judged = dict(zip(passages, result.judgments, strict=True))
    assert [name for name in judged if judged[name].reasoning] == [reasoned]


def test_a_query_that_can_not_be_judged_is_named_in_the_error(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.context_length = 10
    with pytest.raises(ConfigurationError, match="query q0: "):
        judge(run(engine, tmp_path))


def test_start_returns_the_model_and_fails_if_it_gives_no_answer() -> None:
    assert EvaluationConfig(rank1=Rank1(ScriptedEngine(length_script))).start() == "scripted"
    with pytest.raises(EngineError, match="the server is gone"):
        EvaluationConfig(rank1=Rank1(failing_at(1), on_error="keep")).start()
