"""Sums of what judging costs."""

from __future__ import annotations

from rank1_integrations import Judgment, Usage


def test_only_passages_with_a_score_count_as_judged() -> None:
    usage = Usage()
    usage.count_judgment(Judgment(index=0, log_odds=1.0, finish_reason="concluded"))
    usage.count_judgment(Judgment(index=1, log_odds=-1.0, finish_reason="direct"))
    usage.count_judgment(Judgment(index=2, finish_reason="failed", error="no answer"))
    usage.count_judgment(Judgment(index=3, finish_reason="skipped"))
    assert usage == Usage(judgments=2)


def test_reused_judgments_count_as_cache_hits() -> None:
    usage = Usage()
    usage.count_judgment(Judgment(index=0, log_odds=1.0, finish_reason="concluded", cached=True))
    usage.count_judgment(Judgment(index=1, log_odds=1.0, finish_reason="concluded"))
    assert usage == Usage(judgments=2, cache_hits=1)
