"""The vLLM engine: its callers, its processes, and what can't be used."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rank1_integrations import ConfigurationError, EngineError, Rank1, Rank1Error, _event_loop
from rank1_integrations.demo_model import DEMO_MODEL
from rank1_integrations.engines.base import Request
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.llama_index import Rank1Postprocessor
from tests.integration.conftest import ENGINE_ARGS
from tests.support.vllm_server import VLLM_ENVIRONMENT

psutil = pytest.importorskip("psutil", reason="comes with vLLM")

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "x",
    "A tuple can't be changed once it is made. " * 20,
    "Sockets connect to other machines.",
]
PATIENCE = 300


def another(**options: Any) -> Rank1:
    """An object that shares the session's engine."""
    return Rank1.from_vllm(str(DEMO_MODEL), engine_args=ENGINE_ARGS, **options)


def unfinished(rank1: Rank1) -> int:
    """Requests that vLLM is at work on."""
    count: int = rank1._engine._llm.get_num_unfinished_requests()  # type: ignore[attr-defined]
    return count


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


async def test_a_request_that_vllm_gives_up_is_an_error_and_no_unfinished_thought(
    in_process: Rank1,
) -> None:
    llm = in_process._engine._llm  # type: ignore[attr-defined]
    call = asyncio.create_task(in_process.ajudge(QUERY, PASSAGES * 50))
    while not unfinished(in_process):
        await asyncio.sleep(0.001)
    await _event_loop.arun(llm.abort([*llm.output_processor.request_states], internal=True))
    with pytest.raises(EngineError, match="gave a request up"):
        await call


@pytest.mark.usefixtures("in_process")
def test_a_request_that_takes_too_long_is_an_error_that_says_what_to_do() -> None:
    with another(timeout=0.001) as rank1, pytest.raises(EngineError, match="raise timeout="):
        rank1.judge(QUERY, PASSAGES)


def test_objects_with_the_same_arguments_share_one_model(in_process: Rank1) -> None:
    before = children()
    second = another(thinking="none")
    assert children() == before
    assert second.judge(QUERY, PASSAGES[:1])[0].finish == "direct"
    second.close()
    with pytest.raises(Rank1Error, match="this Rank1 object is closed"):
        second.judge(QUERY, PASSAGES)
    assert children() == before
    assert in_process.judge(QUERY, PASSAGES[:1])[0].finish == "concluded"


@pytest.mark.usefixtures("in_process")
async def test_closing_ends_the_calls_that_still_run() -> None:
    rank1 = another()
    call = asyncio.create_task(rank1.ajudge(QUERY, PASSAGES * 50))
    while not unfinished(rank1):
        await asyncio.sleep(0.001)
    await rank1.aclose()
    with pytest.raises(EngineError, match="closed while it was at work"):
        await call


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
            with pytest.raises(EngineError, match=r"has died.*make a new Rank1 object"):
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


def test_where_vllm_can_not_name_tokens_the_likeliest_serve(
    in_process: Rank1, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = in_process.judge(QUERY, PASSAGES)
    monkeypatch.setattr("rank1_integrations.engines.vllm.engine._CHOOSES_LOGPROBS", False)
    for judgment, exact in zip(in_process.judge(QUERY, PASSAGES), expected, strict=True):
        assert judgment.bounded or judgment.log_odds == pytest.approx(exact.log_odds, abs=1e-3)


@pytest.mark.parametrize("stop", ["</think>", " yes; list", "no; so"])
def test_generation_goes_on_exactly_behind_a_stop_text(in_process: Rank1, stop: str) -> None:
    engine = in_process._engine
    prompt = (
        "Determine if the following passage is relevant to the query. Answer only with 'true' or "
        f"'false'.\nQuery: {QUERY}\nPassage: sort list\n<think>"
    )

    async def generate(prompt: Any, stop: str | None = None) -> Any:
        return await engine.complete(Request(prompt=prompt, max_tokens=48, stop=stop))

    whole = _event_loop.run(generate(prompt))
    first = _event_loop.run(generate(prompt, stop))
    if first.stopped:
        rest = _event_loop.run(generate(first.continuation))
        assert (first.text + stop + rest.text).startswith(whole.text)
    else:
        assert first.text == whole.text


def test_labels_that_are_not_one_token_are_refused(in_process: Rank1) -> None:
    request = Request(prompt="x", max_tokens=1, labels=("true or false",))
    with pytest.raises(EngineError, match="is not one token of"):
        _event_loop.run(in_process._engine.complete(request))


def test_a_prompt_longer_than_the_context_is_an_error(in_process: Rank1) -> None:
    request = Request(prompt="word " * 5000, max_tokens=1)
    with pytest.raises(EngineError, match="2048"):
        _event_loop.run(in_process._engine.complete(request))


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
    """A user's script in a session of its own, and what it prints."""
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
    """Processes that the script has started, itself included, and that still run."""
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
    said = output.read_text()
    assert "\ninterrupted\n" in said, said
    assert "\njudged True False\n" in said, said
    assert process.returncode == 0, said


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
    said = output.read_text()
    assert "KeyboardInterrupt" in said
    assert "\nloaded\n" not in said


def test_a_script_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with script("judge", tmp_path) as (process, output):
        wait_until(lambda: b"judging" in output.read_bytes() or process.poll() is not None)
        started = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL, output.read_text()
        wait_until(lambda: not any(child.is_running() for child in started))


def test_an_exception_in_the_middle_leaves_no_process(tmp_path: Path) -> None:
    with script("raise", tmp_path) as (process, output):
        process.wait(PATIENCE)
    assert "\nloaded\n" in output.read_text()
    assert "ValueError: in the middle" in output.read_text()
    assert process.returncode == 1
