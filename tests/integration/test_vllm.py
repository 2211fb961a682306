"""The vLLM engine: its callers, its processes, and what can't be used."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rank1_integrations import ConfigurationError, EngineError, Rank1, Rank1Error, _event_loop
from rank1_integrations.demo_model import DEMO_MODEL
from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.llama_index import Rank1Postprocessor
from tests.integration.conftest import ENGINE_ARGS
from tests.support.damaged_checkpoints import DAMAGES, write_damaged_checkpoint
from tests.support.vllm_server import VLLM_ENVIRONMENT

psutil = pytest.importorskip("psutil", reason="comes with vLLM")
pytest.importorskip("vllm", reason="vLLM is not installed: `make test` installs it")
from rank1_integrations.engines.vllm.engine import VllmEngine  # noqa: E402

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "x",
    "A tuple can't be changed once it is made. " * 20,
    "Sockets connect to other machines.",
]
PATIENCE = 300


def another(**options: Any) -> Rank1:
    """Return an object that shares the engine of the whole run."""
    return Rank1.from_vllm(str(DEMO_MODEL), engine_args=ENGINE_ARGS, **options)


def load(model: str | Path = DEMO_MODEL, **engine_args: Any) -> VllmEngine:
    return VllmEngine(str(model), engine_args={**ENGINE_ARGS, **engine_args})


def engine_of(rank1: Rank1) -> VllmEngine:
    engine = rank1._runtime.latest.engine
    assert isinstance(engine, VllmEngine)
    return engine


def unfinished(of: Rank1 | VllmEngine) -> int:
    """Return the number of requests that vLLM works on."""
    engine = engine_of(of) if isinstance(of, Rank1) else of
    count: int = engine._llm.get_num_unfinished_requests()
    return count


def endless() -> Request:
    """A request that takes seconds."""
    return Request(prompt="x", max_tokens=1000)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_callers_in_threads_are_at_work_together_and_get_what_each_gets_alone(
    in_process: Rank1,
) -> None:
    alone = in_process.judge(QUERY, PASSAGES)
    most = 0
    with ThreadPoolExecutor() as threads:
        calls = [threads.submit(in_process.judge, QUERY, PASSAGES * 3) for _ in range(4)]
        while not all(call.done() for call in calls):
            most = max(most, unfinished(in_process))
            time.sleep(0.001)
    assert most > len(PASSAGES * 3)
    for call in calls:
        for judgment, expected in zip(call.result(), alone * 3, strict=True):
            assert judgment.reasoning == expected.reasoning
            assert judgment.log_odds == pytest.approx(expected.log_odds, abs=1e-3)


async def test_a_cancelled_call_ends_its_requests_in_vllm(in_process: Rank1) -> None:
    call = asyncio.create_task(in_process.ajudge(QUERY, PASSAGES * 50))
    while not unfinished(in_process):
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    wait_until(lambda: unfinished(in_process) == 0)
    assert (await in_process.ajudge(QUERY, PASSAGES[:1]))[0].relevant


async def test_a_request_that_vllm_gives_up_is_an_error_and_no_half_reasoning(
    in_process: Rank1,
) -> None:
    llm = engine_of(in_process)._llm
    call = asyncio.create_task(in_process.ajudge(QUERY, PASSAGES * 50))
    while not unfinished(in_process):
        await asyncio.sleep(0.001)
    await _event_loop.arun(llm.abort([*llm.output_processor.request_states], internal=True))
    with pytest.raises(EngineError, match="gave a request up"):
        await call


def test_objects_with_the_same_arguments_share_one_model(in_process: Rank1) -> None:
    before = children()
    second = another(thinking="none")
    assert children() == before
    assert second.judge(QUERY, PASSAGES[:1])[0].finish_reason == "direct"
    second.close()
    with pytest.raises(Rank1Error, match="this Rank1 object is closed"):
        second.judge(QUERY, PASSAGES)
    assert children() == before
    assert in_process.judge(QUERY, PASSAGES[:1])[0].finish_reason == "concluded"


@pytest.mark.usefixtures("in_process")
async def test_closing_ends_the_calls_that_run() -> None:
    rank1 = another()
    call = asyncio.create_task(rank1.ajudge(QUERY, PASSAGES * 50))
    while not unfinished(rank1):
        await asyncio.sleep(0.001)
    await rank1.aclose()
    with pytest.raises(Rank1Error, match="this Rank1 object is closed"):
        await call
    wait_until(lambda: unfinished(rank1) == 0)


async def fail_on_close(engine: VllmEngine) -> float:
    """Close an engine amid a request; return the seconds until the request failed."""
    call = asyncio.create_task(engine.complete(endless()))
    while not unfinished(engine):
        await asyncio.sleep(0.001)
    started = time.perf_counter()
    closing = asyncio.create_task(engine.aclose())
    with pytest.raises(EngineError, match="is closed: make a new Rank1 object"):
        await call
    seconds = time.perf_counter() - started
    await closing
    return seconds


def test_closing_fails_the_requests_of_one_object_and_leaves_those_of_others(
    in_process: Rank1,
) -> None:
    engine, other = load(), load()

    async def close_one() -> tuple[float, Completion]:
        call = asyncio.create_task(other.complete(endless()))
        return await fail_on_close(engine), await call

    seconds, completion = _event_loop.run(close_one())
    assert seconds < 1
    assert completion.completion_tokens is not None
    with pytest.raises(EngineError, match="is closed: make a new Rank1 object"):
        _event_loop.run(engine.start())
    with pytest.raises(EngineError, match="is closed: make a new Rank1 object"):
        _event_loop.run(engine.complete(endless()))
    _event_loop.run(other.aclose())
    assert in_process.judge(QUERY, PASSAGES[:1])[0].relevant


@pytest.mark.usefixtures("in_process")
def test_nothing_waits_for_a_model_that_loads_and_closing_the_last_object_ends_its_processes() -> (
    None
):
    before, engines = children(), list[VllmEngine]()
    loading = threading.Thread(target=lambda: engines.append(load(max_model_len=1280)))
    loading.start()
    wait_until(lambda: children() > before)
    started = time.perf_counter()
    shared = load()
    _event_loop.run(shared.aclose())
    assert time.perf_counter() - started < 5
    assert loading.is_alive()
    loading.join()
    (engine,) = engines
    assert _event_loop.run(fail_on_close(engine)) < 1
    assert children() <= before


def test_requests_complete_while_the_clock_stands_still(
    in_process: Rank1, monkeypatch: pytest.MonkeyPatch
) -> None:
    completions: list[Completion] = []

    def complete() -> None:
        request = Request(prompt="x", max_tokens=3)
        completions.append(_event_loop.run(engine_of(in_process).complete(request)))

    frozen, frozen_time = time.monotonic(), time.time()
    monkeypatch.setattr(time, "monotonic", lambda: frozen)
    monkeypatch.setattr(time, "time", lambda: frozen_time)
    # A thread that can be left behind: waiting for it needs no clock of Python's.
    thread = threading.Thread(target=complete, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert [completion.completion_tokens for completion in completions] == [3]


@pytest.mark.usefixtures("in_process")
def test_a_folder_whose_files_changed_is_not_the_model_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, folder)
    first = load(folder)
    before = children()
    same = load(folder)
    assert children() == before
    assert same.fingerprint == first.fingerprint
    # Retrained into something that can't even be loaded, which takes no minute to find out.
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="can't load"):
        load(folder)
    for engine in (first, same):
        _event_loop.run(engine.aclose())


def test_other_arguments_load_a_second_copy_that_is_collected_with_its_object(
    in_process: Rank1, caplog: pytest.LogCaptureFixture
) -> None:
    before = children()
    with caplog.at_level(logging.WARNING, "rank1_integrations"):
        second = Rank1.from_vllm(
            str(DEMO_MODEL), engine_args={**ENGINE_ARGS, "max_model_len": 1024}
        )
    assert "in memory already, with other engine_args" in caplog.text
    assert children() > before
    assert second.judge(QUERY, PASSAGES[:1])[0].relevant
    del second
    gc.collect()
    wait_until(lambda: children() <= before)
    assert in_process.judge(QUERY, PASSAGES[:1])[0].relevant


@pytest.mark.usefixtures("in_process")
def test_a_model_that_dies_is_an_error_that_says_what_to_do() -> None:
    before = children()
    args = {**ENGINE_ARGS, "max_model_len": 1536}
    with Rank1.from_vllm(str(DEMO_MODEL), engine_args=args, max_concurrency=4) as rank1:
        with ThreadPoolExecutor() as threads:
            call = threads.submit(rank1.judge, QUERY, PASSAGES * 50)
            wait_until(lambda: unfinished(rank1) > 0)
            for pid in children() - before:
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGKILL)
            with pytest.raises(EngineError, match=r"has died.*Make a new Rank1 object"):
                call.result(PATIENCE)
        with pytest.raises(EngineError, match="has died"):
            rank1.judge(QUERY, PASSAGES)
    wait_until(lambda: children() <= before)


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ({"max_model_length": 2048}, "knows no 'max_model_length' .there is max_model_len"),
        ({"model": "x"}, "model= names it"),
        ({"hf_token": "hf_secret"}, "set HF_TOKEN"),
        ({"logprobs_mode": "processed_logits"}, "must stay 'raw_logprobs'"),
        ({"dtype": "float3"}, "can't load"),
        ({"max_model_len": -5}, "can't load"),
    ],
)
def test_engine_args_that_can_not_work_are_refused(
    engine_args: dict[str, Any], message: str
) -> None:
    before = children()
    with pytest.raises(ConfigurationError, match=message) as refused:
        Rank1.from_vllm(str(DEMO_MODEL), engine_args=engine_args)
    assert "hf_secret" not in str(refused.value)
    assert children() <= before


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't load"):
        Rank1.from_vllm(str(tmp_path / "nothing"))


def test_an_older_vllm_gives_the_most_likely_tokens(
    in_process: Rank1, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = in_process.judge(QUERY, PASSAGES)
    monkeypatch.setattr("rank1_integrations.engines.vllm.engine._SELECTS_LOGPROBS", False)
    for judgment, exact in zip(in_process.judge(QUERY, PASSAGES), expected, strict=True):
        assert judgment.log_odds_is_bound or judgment.log_odds == pytest.approx(
            exact.log_odds, abs=1e-3
        )


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "damage",
    [
        *("truncated weights", "truncated config", "config of nothing"),
        *("tokenizer of nothing", "no vocabulary", "no files"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_what_to_do(damage: str, tmp_path: Path) -> None:
    before = children()
    write_damaged_checkpoint(tmp_path / "model", DAMAGES[damage])
    with pytest.raises(
        ConfigurationError, match=r"(?s)can't load .*delete it and download it again"
    ):
        load(tmp_path / "model")
    assert children() <= before


@pytest.mark.parametrize("stop", ["</think>", " yes; list", "no; so"])
def test_generation_continues_exactly_behind_a_stop_text(in_process: Rank1, stop: str) -> None:
    engine = engine_of(in_process)
    prompt = (
        "Determine if the following passage is relevant to the query. Answer only with 'true' or "
        f"'false'.\nQuery: {QUERY}\nPassage: sort list\n<think>"
    )

    def generate(prompt: Any, stop: str | None = None) -> Completion:
        request = Request(prompt=prompt, max_tokens=48, stop=stop)
        return _event_loop.run(engine.complete(request))

    whole, first = generate(prompt), generate(prompt, stop)
    assert first.prompt_ids is not None
    assert first.prompt_tokens == len(first.prompt_ids)
    assert first.cached_tokens is not None
    assert first.token_ids is not None
    assert first.completion_tokens == len(first.token_ids)
    if stop in whole.text:
        assert (first.ended, first.text) == ("stop", whole.text.partition(stop)[0])
        rest = generate(first.prompt_ids + first.token_ids)
        assert (first.text + stop + rest.text).startswith(whole.text)
    else:
        assert (first.ended, first.text) == (whole.ended, whole.text)


def test_labels_that_are_not_one_token_are_refused(in_process: Rank1) -> None:
    request = Request(prompt="x", max_tokens=1, labels=("true or false",))
    with pytest.raises(EngineError, match="is not one token of"):
        _event_loop.run(engine_of(in_process).complete(request))


def test_a_prompt_longer_than_the_context_is_an_error(in_process: Rank1) -> None:
    request = Request(prompt="word " * 5000, max_tokens=1)
    # vLLM's own error, whose type differs between versions: the scorer makes an EngineError of it.
    with pytest.raises(Exception, match="longer than the maximum model length of 2048"):
        _event_loop.run(engine_of(in_process).complete(request))


def test_an_engine_for_a_forked_child_is_refused(in_process: Rank1) -> None:
    with pytest.raises(EngineError, match="before this process was forked: make a new Rank1"):
        engine_of(in_process).after_fork()


def test_a_forked_child_is_told_to_load_its_own(in_process: Rank1) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            in_process.judge(QUERY, PASSAGES)
        except EngineError as error:
            os._exit(0 if "before this process was forked" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert in_process.judge(QUERY, PASSAGES[:1])[0].relevant


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("adapter", [Rank1Compressor, Rank1Postprocessor])
def test_adapters_take_it_as_a_backend(adapter: Any) -> None:
    made = adapter(backend="vllm", model=str(DEMO_MODEL), engine_args=ENGINE_ARGS, top_n=1)
    if adapter is Rank1Compressor:
        from langchain_core.documents import Document

        documents = [Document(page_content=text) for text in PASSAGES]
        (kept,) = made.compress_documents(documents, QUERY)
        assert kept.page_content == PASSAGES[0]
    else:
        from llama_index.core.schema import NodeWithScore, TextNode

        nodes = [NodeWithScore(node=TextNode(text=text)) for text in PASSAGES]
        (node,) = made.postprocess_nodes(nodes, query_str=QUERY)
        assert node.text == PASSAGES[0]
    made.close()


@contextmanager
def script(then: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a user's script in a session of its own; yield it and the file of what it prints."""
    output = tmp_path / "output"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.vllm_script", then],
            stdout=written,
            stderr=subprocess.STDOUT,
            env={**os.environ, **VLLM_ENVIRONMENT},
            start_new_session=True,
            # As in a terminal: a process started in the background ignores SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield process, output
        wait_until(lambda: not session(process.pid))
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """Return the processes of the script, itself included, that still run."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def test_ctrl_c_ends_the_call_and_not_the_model_which_ends_with_the_script(tmp_path: Path) -> None:
    with script("judge", tmp_path) as (process, output):
        wait_until(lambda: b"judging" in output.read_bytes() or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE)
    printed = output.read_text()
    assert "\ninterrupted\n" in printed, printed
    assert "\njudged True False\n" in printed, printed
    assert process.returncode == 0, printed


@pytest.mark.parametrize("processes", [1, 3], ids=["before its processes", "with them"])
def test_ctrl_c_while_loading_leaves_no_process(processes: int, tmp_path: Path) -> None:
    with script("judge", tmp_path) as (process, output):
        # vLLM says something when it is about to start its own.
        wait_until(
            lambda: (
                (b"(MainProcess" in output.read_bytes() and len(session(process.pid)) >= processes)
                or process.poll() is not None
            )
        )
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE)
    printed = output.read_text()
    assert "KeyboardInterrupt" in printed
    assert "\nloaded\n" not in printed


def test_a_script_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with script("judge", tmp_path) as (process, output):
        wait_until(lambda: b"judging" in output.read_bytes() or process.poll() is not None)
        started = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL, output.read_text()
        wait_until(lambda: not any(child.is_running() for child in started))


def test_a_forked_child_that_closes_and_exits_leaves_the_parents_model(tmp_path: Path) -> None:
    with script("fork", tmp_path) as (process, output):
        process.wait(PATIENCE)
    assert "\nchild ends\n" in output.read_text()
    assert "\njudged True False\n" in output.read_text()
    assert process.returncode == 0


def test_an_exception_in_the_middle_leaves_no_process(tmp_path: Path) -> None:
    with script("raise", tmp_path) as (process, output):
        process.wait(PATIENCE)
    assert "\nloaded\n" in output.read_text()
    assert "ValueError: in the middle" in output.read_text()
    assert process.returncode == 1
