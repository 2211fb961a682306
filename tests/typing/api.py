"""The public interface as users write it. Checked by mypy and pyright, never run.

Mistakes are marked with the error that a checker must report. Both checkers fail if a mark is
not needed, so an argument that is no longer checked shows here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, assert_type

from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore
from openai import AsyncOpenAI
from pydantic import SecretStr

from rank1_integrations import (
    Adaptive,
    ConfigurationError,
    EngineError,
    Judgment,
    Rank1,
    Rank1Error,
    RankResult,
    Usage,
)
from rank1_integrations.langchain import (
    Rank1Compressor,
    Rank1FilterMiddleware,
    grade_documents,
)
from rank1_integrations.llama_index import Rank1Postprocessor
from rank1_integrations.testing import ScriptedEngine


def make_from_server(client: AsyncOpenAI) -> Iterator[Rank1]:
    yield assert_type(Rank1.from_server("http://localhost:8000/v1"), Rank1)
    yield Rank1.from_server("http://localhost:8000/v1", model="rank1-7b", api_key="key")
    yield Rank1.from_server("http://localhost:8000/v1", api_key=SecretStr("key"))
    yield Rank1.from_server("http://localhost:8000/v1", api_key=lambda: "key")
    yield Rank1.from_server("http://localhost:8000/v1", client=client, context_length=4096)
    yield Rank1.from_server("http://localhost:8000/v1", tokenizer="jhu-clsp/rank1-7b")
    yield Rank1.from_server("http://localhost:8000/v1", tokenizer=Path("rank1-7b"))
    yield Rank1.from_server(
        "http://localhost:8000/v1",
        default_headers={"X-Tenant": "a"},
        timeout=None,
        max_retries=0,
        max_concurrency=8,
    )
    yield Rank1.from_server()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    yield Rank1.from_server(
        "http://localhost:8000/v1",
        batch_size=4,  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    )


def make_in_this_process() -> Iterator[Rank1]:
    yield assert_type(Rank1.from_vllm("jhu-clsp/rank1-7b"), Rank1)
    yield Rank1.from_vllm("jhu-clsp/rank1-7b", engine_args={"max_model_len": 16000})
    yield Rank1.from_vllm(
        "jhu-clsp/rank1-7b",
        api_key="key",  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    )
    yield assert_type(Rank1.from_transformers("jhu-clsp/rank1-0.5b"), Rank1)
    yield Rank1.from_transformers(
        "jhu-clsp/rank1-0.5b", device="cpu", dtype="float32", batch_size=4
    )
    yield Rank1.from_transformers(
        "jhu-clsp/rank1-0.5b",
        max_retries=2,  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    )
    yield assert_type(Rank1.demo(), Rank1)
    yield Rank1(ScriptedEngine(lambda passage: float(len(passage))))


def make_with_options(cache: dict[str, str]) -> Iterator[Rank1]:
    yield Rank1.demo(thinking="none")
    yield Rank1.demo(thinking=Adaptive(max_share=0.3, confidence=0.95, probe_every=48))
    yield Rank1.demo(
        thinking="adaptive",
        max_reasoning_tokens=512,
        relevance="A passage is relevant if it gives evidence for: {query}",
        instruction="Only peer-reviewed sources count.",
        deadline=2.0,
        enough=3,
        straggler="auto",
        max_concurrency=16,
        on_error="keep",
        cache=cache,
        cache_namespace="2026-11",
        on_judgments=report,
    )


def report(query: str, passages: list[str], judgments: list[Judgment]) -> None:
    assert_type(judgments[0].score, float | None)


def mistaken_options() -> Iterator[Rank1]:
    yield Rank1.demo(
        thinking="quick",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    yield Rank1.demo(
        on_error="ignore",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    yield Rank1.demo(
        deadline="2 s",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    yield Rank1.demo(
        cache=["judgments"],  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    yield Rank1.demo(
        on_judgments=print_one,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    yield Rank1.demo(
        samples=3,  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    )
    yield Rank1.demo(
        step_tokens=48,  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    )
    Adaptive(share=0.3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def print_one(judgment: Judgment) -> None: ...


def rank(rank1: Rank1, passages: list[str]) -> RankResult:
    with rank1:
        result = rank1.rank("Do honeybees see red?", passages, top_n=3, score_threshold=0.5)
    for judgment in result:
        assert_type(judgment, Judgment)
        assert_type(judgment.reasoning, str)
    assert_type(result[0], Judgment)
    assert_type(result[:2], list[Judgment])
    assert_type(result.kept, list[Judgment])
    assert_type(result.dropped, list[Judgment])
    assert_type(result.usage, Usage)
    assert_type(rank1.usage, Usage)
    assert_type(rank1.server_info, dict[str, Any])
    return result


def judge(rank1: Rank1, passages: list[str]) -> None:
    assert_type(rank1.judge("query", (text for text in passages)), list[Judgment])
    rank1.rank(
        "query",
        passages,
        3,  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    )
    rank1.rank(
        "query",
        passages,
        top_n="3",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    rank1.judge(
        "query",
        passages,
        limit=3,  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    )
    try:
        rank1.judge(
            ["query"],  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            passages,
        )
    except (ConfigurationError, EngineError) as error:
        assert_type(error, ConfigurationError | EngineError)
        base: Rank1Error = error
        raise base from None


async def rank_async(rank1: Rank1, passages: list[str]) -> AsyncGenerator[float | None, None]:
    async with rank1:
        assert_type(await rank1.arank("query", passages), RankResult)
        assert_type(await rank1.ajudge("query", passages), list[Judgment])
        async for judgment in rank1.astream("query", passages, top_n=3):
            yield assert_type(judgment, Judgment).score


def use_in_langchain(rank1: Rank1, documents: list[Document]) -> None:
    shared = Rank1Compressor(rank1=rank1, top_n=3, score_threshold=0.5)
    assert_type(shared.compress_documents(documents, "query"), list[Document])
    Rank1Compressor(backend="server", base_url="http://localhost:8000/v1", api_key="key")
    Rank1Compressor(backend="transformers", model="jhu-clsp/rank1-0.5b", batch_size=4)
    Rank1Compressor(backend="demo", thinking=Adaptive(), on_error="drop", deadline=2.0)
    Rank1Compressor(backend="gpu")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Rank1Compressor(samples=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Rank1FilterMiddleware(shared)
    grade_documents(shared)


def use_in_llama_index(rank1: Rank1, nodes: list[NodeWithScore]) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1, top_n=3)
    assert_type(postprocessor.postprocess_nodes(nodes, query_str="query"), list[NodeWithScore])
    Rank1Postprocessor(backend="vllm", model="jhu-clsp/rank1-7b", engine_args={"seed": 0})
    Rank1Postprocessor(backend="demo", thinking="none", enough=2, score_threshold=0.5)
    Rank1Postprocessor(
        on_error="ignore",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    Rank1Postprocessor(step_tokens=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
