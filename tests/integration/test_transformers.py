"""The transformers engine: batches, limits, closing, and checkpoints that can't be used."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rank1_integrations import ConfigurationError, EngineError, Rank1
from rank1_integrations.demo_model import DEMO_MODEL
from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.scoring.prompt import END_OF_REASONING, FALSE, TRUE, build_prompt
from tests.support.damaged_checkpoints import DAMAGES, write_damaged_checkpoint

torch = pytest.importorskip("torch", reason="comes with the transformers extra")
from rank1_integrations.engines.transformers import TransformersEngine  # noqa: E402

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "x",
    "A tuple can't be changed once it is made. " * 20,
    "Sockets connect to other machines.",
]
PATIENCE = 120


def load(model: str | Path = DEMO_MODEL, **options: Any) -> TransformersEngine:
    return TransformersEngine(str(model), **{"device": "cpu", "dtype": "float32", **options})


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return load()


@pytest.fixture
def own_engine() -> Iterator[TransformersEngine]:
    """An engine that the test closes."""
    engine = load()
    yield engine
    asyncio.run(engine.aclose())


def reasoning(passage: str, *, max_tokens: int = 60, stop: str = END_OF_REASONING) -> Request:
    return Request(prompt=build_prompt(QUERY, passage).text, max_tokens=max_tokens, stop=stop)


def endless() -> Request:
    """A request that keeps the model busy for longer than any test waits."""
    return Request(prompt=build_prompt(QUERY, "x").text, max_tokens=100_000)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


def batch_sizes(engine: TransformersEngine) -> list[int]:
    """Return a list that grows by the size of each batch that the network is given."""
    sizes: list[int] = []

    def count(module: Any, args: Any, options: dict[str, Any]) -> None:
        if options["input_ids"].shape[1] > 1:  # the prompts, not a generated token
            sizes.append(len(options["input_ids"]))

    engine._network.register_forward_pre_hook(count, with_kwargs=True)
    return sizes


def test_a_batch_gives_what_each_passage_gives_alone(local: Rank1) -> None:
    together = local.judge(QUERY, PASSAGES)
    for index, passage in enumerate(PASSAGES):
        (alone,) = local.judge(QUERY, [passage])
        assert alone.log_odds == pytest.approx(together[index].log_odds, abs=1e-2)
        assert alone.reasoning == together[index].reasoning


async def test_many_callers_share_one_model(local: Rank1) -> None:
    first, *others = await asyncio.gather(*(local.ajudge(QUERY, PASSAGES) for _ in range(6)))
    for judgments in others:
        assert [j.log_odds for j in judgments] == pytest.approx(
            [j.log_odds for j in first], abs=1e-2
        )


async def test_a_completion_holds_ids_that_continue_it_exactly(engine: TransformersEngine) -> None:
    request = reasoning(PASSAGES[0])
    whole = await engine.complete(request)
    assert whole.ended == "stop"
    assert whole.prompt_ids is not None
    assert whole.token_ids is not None
    assert len(whole.prompt_ids) == await engine.count_tokens(str(request.prompt))
    assert await engine.decode(whole.token_ids) == whole.text + END_OF_REASONING
    assert whole.prompt_tokens == len(whole.prompt_ids)
    assert whole.completion_tokens == len(whole.token_ids) > 8
    part = await engine.complete(reasoning(PASSAGES[0], max_tokens=8))
    assert (part.ended, part.completion_tokens) == ("length", 8)
    assert part.token_ids is not None
    rest = await engine.complete(
        Request(prompt=whole.prompt_ids + part.token_ids, max_tokens=60, stop=END_OF_REASONING)
    )
    assert rest.token_ids is not None
    assert part.token_ids + rest.token_ids == whole.token_ids


async def test_a_row_that_others_of_its_batch_outlast_ends_where_it_ends_alone(
    engine: TransformersEngine,
) -> None:
    # Several tokens, and only in the first one's reasoning.
    stop = " yes; list"
    short, long = reasoning(PASSAGES[0], stop=stop), reasoning(PASSAGES[3], stop=stop)
    alone = await engine.complete(short)
    beside, outlasting = await asyncio.gather(*map(engine.complete, (short, long)))
    assert (alone.ended, outlasting.ended) == ("stop", "length")
    assert beside == alone
    assert alone.token_ids is not None
    assert await engine.decode(alone.token_ids) == alone.text + stop


async def test_labels_have_log_probabilities_at_the_first_position(
    engine: TransformersEngine,
) -> None:
    prompt = f"{build_prompt(QUERY, PASSAGES[0]).text}\nIt sorts.\n{END_OF_REASONING}"
    request = Request(prompt=prompt, max_tokens=1, labels=(TRUE, FALSE))
    completion = await engine.complete(request)
    assert completion.label_logprobs.keys() == {TRUE, FALSE}
    assert sum(2.718281828**logprob for logprob in completion.label_logprobs.values()) <= 1


async def test_a_label_of_several_tokens_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(EngineError, match="'true or false' is not one token of"):
        await engine.complete(Request(prompt="x", max_tokens=1, labels=("true or false",)))


async def test_a_prompt_that_fails_fails_alone(engine: TransformersEngine) -> None:
    out_of_vocabulary = Request(prompt=(10**6,), max_tokens=1)
    failed, completion = await asyncio.gather(
        engine.complete(out_of_vocabulary),
        engine.complete(Request(prompt="x", max_tokens=1)),
        return_exceptions=True,
    )
    assert isinstance(failed, IndexError)
    assert isinstance(completion, Completion)


async def test_callers_that_begin_one_a_turn_of_the_loop_fill_each_batch(
    own_engine: TransformersEngine,
) -> None:
    sizes = batch_sizes(own_engine)

    async def make_two_requests(turns: int) -> None:
        for _ in range(turns):  # as the worker pool starts its jobs
            await asyncio.sleep(0)
        for _ in range(2):
            await own_engine.complete(reasoning(PASSAGES[0], max_tokens=2))

    await asyncio.gather(*map(make_two_requests, range(16)))
    assert sizes == [16, 16]


async def test_requests_complete_while_the_clock_stands_still(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    completions: list[Completion] = []

    def complete() -> None:
        completions.append(asyncio.run(engine.complete(reasoning(PASSAGES[0], max_tokens=2))))

    frozen = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: frozen)
    # A thread that can be left behind: waiting for it needs no clock of Python's.
    thread = threading.Thread(target=complete, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert [completion.completion_tokens for completion in completions] == [2]


async def test_torchs_random_state_stays_the_callers(engine: TransformersEngine) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    await engine.complete(reasoning(PASSAGES[0]))
    assert torch.equal(torch.get_rng_state(), before)


async def test_closing_fails_running_and_waiting_requests_at_once_and_frees_the_model() -> None:
    engine = load(batch_size=1)
    network = weakref.ref(engine._network)
    running = asyncio.create_task(engine.complete(endless()))
    await until(lambda: bool(engine._running))
    waiting = asyncio.create_task(engine.complete(endless()))
    await until(lambda: bool(engine._waiting))
    started = time.perf_counter()
    await engine.aclose()
    results = await asyncio.gather(running, waiting, return_exceptions=True)
    assert time.perf_counter() - started < 0.5
    for result in results:
        assert isinstance(result, EngineError)
        assert "is closed: make a new Rank1 object" in str(result)
    await engine.aclose()
    await until(lambda: gc.collect() >= 0 and network() is None)


async def test_a_closed_engine_refuses_requests(own_engine: TransformersEngine) -> None:
    await own_engine.aclose()
    with pytest.raises(EngineError, match="is closed: make a new Rank1 object"):
        await own_engine.start()
    with pytest.raises(EngineError, match="is closed: make a new Rank1 object"):
        await own_engine.complete(endless())


def test_an_engine_that_is_collected_frees_its_model() -> None:
    engine = load()
    network = weakref.ref(engine._network)
    del engine
    gc.collect()
    assert network() is None


async def test_a_cancelled_request_ends_at_its_next_token(engine: TransformersEngine) -> None:
    call = asyncio.create_task(engine.complete(endless()))
    await until(lambda: bool(engine._running))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(PATIENCE):
        assert (await engine.complete(reasoning(PASSAGES[0], max_tokens=2))).completion_tokens == 2


async def test_a_cancelled_call_leaves_the_model_usable(local: Rank1) -> None:
    call = asyncio.create_task(local.ajudge(QUERY, PASSAGES * 10))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await local.ajudge(QUERY, PASSAGES[:1]))[0].score is not None


def test_an_engine_for_a_forked_child_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(EngineError, match=r"before this process was forked: make a new Rank1"):
        engine.after_fork()


def test_a_retrained_folder_has_another_fingerprint(tmp_path: Path) -> None:
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    first, same = load(tmp_path / "model"), load(tmp_path / "model")
    os.utime(tmp_path / "model" / "model.safetensors", (1, 1))
    retrained = load(tmp_path / "model")
    assert first.fingerprint == same.fingerprint != retrained.fingerprint
    assert first.model == retrained.model


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't load"):
        Rank1.from_transformers(str(tmp_path / "nothing"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_what_to_do(damage: str, tmp_path: Path) -> None:
    write_damaged_checkpoint(tmp_path / "model", DAMAGES[damage])
    with pytest.raises(
        ConfigurationError, match=r"(?s)can't load .*delete it and download it again"
    ):
        load(tmp_path / "model")


def test_weights_that_are_missing_in_an_intact_file_are_not_made_up(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    weights = safetensors.load_file(tmp_path / "model" / "model.safetensors")
    lost = sorted(name for name in weights if "mlp" in name)[0]
    del weights[lost]
    safetensors.save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=f"it lacks 1 weights, such as {lost}"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"device": "abacus"}, "device='abacus'"),
        ({"device": "meta:x"}, "device='meta:x'"),
        ({"dtype": "float3"}, "dtype='float3' is not one of torch's: use float32"),
        ({"dtype": "nn"}, "dtype='nn' is not one of torch's"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_arguments_that_can_not_work_are_refused_by_name(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Rank1.from_transformers(str(DEMO_MODEL), **bad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"can't move .* to device='cuda'"):
        Rank1.from_transformers(str(DEMO_MODEL), device="cuda")
