"""The transformers engine: batches, limits, and checkpoints that can't be used."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rank1_integrations import ConfigurationError, EngineError, Rank1
from rank1_integrations.demo_model import DEMO_MODEL

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "x",
    "A tuple can't be changed once it is made. " * 20,
    "Sockets connect to other machines.",
]


def test_a_batch_gives_what_each_passage_gives_alone(local: Rank1) -> None:
    together = local.judge(QUERY, PASSAGES)
    for place, passage in enumerate(PASSAGES):
        (alone,) = local.judge(QUERY, [passage])
        assert alone.log_odds == pytest.approx(together[place].log_odds, abs=1e-2)
        assert alone.reasoning == together[place].reasoning


async def test_many_callers_share_one_model(local: Rank1) -> None:
    first, *others = await asyncio.gather(*(local.ajudge(QUERY, PASSAGES) for _ in range(6)))
    for judgments in others:
        assert [j.log_odds for j in judgments] == pytest.approx(
            [j.log_odds for j in first], abs=1e-2
        )


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't load"):
        Rank1.from_transformers(str(tmp_path / "nothing"))


@pytest.mark.parametrize("bad", [{"device": "abacus"}, {"dtype": "float3"}])
def test_a_device_or_dtype_that_does_not_exist_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="can't load"):
        Rank1.from_transformers(str(DEMO_MODEL), **bad)  # type: ignore[arg-type]


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_size must be at least 1"):
        Rank1.from_transformers(str(DEMO_MODEL), batch_size=0)


def test_a_request_that_takes_too_long_is_an_error_that_says_what_to_do() -> None:
    with (
        Rank1.demo(timeout=0.001) as rank1,
        pytest.raises(EngineError, match="raise timeout="),
    ):
        rank1.judge(QUERY, PASSAGES)


async def test_a_cancelled_call_leaves_the_model_usable(local: Rank1) -> None:
    call = asyncio.create_task(local.ajudge(QUERY, PASSAGES * 10))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await local.ajudge(QUERY, PASSAGES[:1]))[0].score is not None
