"""`Rank1`: the public interface, and what one process's event loop holds for it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from rank1_integrations import _event_loop
from rank1_integrations._event_loop import Emit, PerProcess, SharedTask, WorkerPool
from rank1_integrations.config import Options, RankOptions
from rank1_integrations.engines.base import Engine
from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment
from rank1_integrations.query_job import QueryJob
from rank1_integrations.relevance import add_instruction
from rank1_integrations.scoring.deadline import Deadline, RecentDurations
from rank1_integrations.scoring.prompt import define_relevance
from rank1_integrations.scoring.scorer import PairScorer
from rank1_integrations.scoring.usage import Usage
from rank1_integrations.selection import RankResult, Selection

if TYPE_CHECKING:
    from os import PathLike

    from openai import AsyncOpenAI
    from pydantic import SecretStr

logger = logging.getLogger(__name__)


class Rank1:
    """The Rank1 reranker on one engine, to be shared by any number of chains, threads and tasks.

    Make one with `from_server`, `from_vllm`, `from_transformers` or `demo`. Every method has an
    async version with the prefix `a`. Both run the same code on one background event loop, so the
    synchronous one works inside a running loop too.
    """

    def __init__(self, engine: Engine, **options: Unpack[RankOptions]) -> None:
        """Wrap an engine.

        Args:
            engine: The engine; closed with this object.
            **options: The fields of `Options`.

        Raises:
            ConfigurationError: An option can't work.
        """
        self._options = _check_options(options)
        self._usage = Usage()
        self._verdict_durations = RecentDurations()
        self._delivery_durations = RecentDurations()
        self._runtime = PerProcess(self._new_runtime(engine), self._runtime_after_fork())
        self._is_closed = False
        self._finalizer = weakref.finalize(self, _close_unreferenced, self._runtime)
        self._finalizer.atexit = False

    @classmethod
    def from_server(
        cls,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | SecretStr | Callable[[], str] | None = None,
        default_headers: Mapping[str, str] | None = None,
        client: AsyncOpenAI | None = None,
        context_length: int | None = None,
        tokenizer: str | PathLike[str] | None = None,
        timeout: float | None = 600.0,
        max_retries: int = 2,
        **options: Unpack[RankOptions],
    ) -> Self:
        """Use Rank1 behind an OpenAI-compatible server with log-probabilities, such as vLLM.

        Args:
            base_url: For instance "http://localhost:8000/v1"; "/v1" is added to a bare host.
            model: The name it is served under; None for the only one that the server has.
            api_key: Sent as a bearer token; a function is called for each request. None for the
                environment variable `RANK1_API_KEY`, "" for no key.
            default_headers: Sent with every request, and as secret as the key.
            client: An `openai.AsyncOpenAI` to use instead of one made here. It is never closed.
            context_length: Tokens that the model reads, for servers that do not tell.
            tokenizer: The model's name on the hub, a folder that holds its tokenizer.json, or the
                path of that file, for servers without /tokenize; used instead of it if given.
            timeout: Seconds for the answer to one request; None for no limit. Connecting takes
                10 seconds at most.
            max_retries: Repeats of a request that was dropped, refused as too many (429), or
                failed on the server (5xx).
            **options: The fields of `Options`.

        Raises:
            ConfigurationError: An argument can't work. Whether the server answers shows with the
                first call.
            MissingExtraError: tokenizers is not installed, and `tokenizer` is given.
        """
        from rank1_integrations.engines.openai_server.engine import OpenAIServerEngine

        _check_options(options)
        engine = OpenAIServerEngine(
            base_url,
            model=model,
            api_key=api_key,
            default_headers=default_headers,
            client=client,
            context_length=context_length,
            tokenizer=tokenizer,
            timeout=timeout,
            max_retries=max_retries,
        )
        return cls(engine, **options)

    @classmethod
    def from_vllm(
        cls,
        model: str,
        *,
        engine_args: Mapping[str, Any] | None = None,
        **options: Unpack[RankOptions],
    ) -> Self:
        """Use Rank1 on vLLM, which this process starts, shares among its objects and ends.

        Objects with the same model and `engine_args` share one copy of it in memory. It is freed
        when the last of them is closed or collected, or at the interpreter's exit.

        Args:
            model: A checkpoint's name on the hub, or its folder.
            engine_args: Fields of vLLM's `AsyncEngineArgs`, for instance
                `{"max_model_len": 16000, "tensor_parallel_size": 2}`; None for vLLM's defaults.
            **options: The fields of `Options`.

        Raises:
            ConfigurationError: An argument can't work, or vLLM can't load the checkpoint.
            MissingExtraError: vllm is not installed.
        """
        from rank1_integrations.engines.vllm.engine import VllmEngine

        _check_options(options)
        return cls(VllmEngine(model, engine_args=engine_args), **options)

    @classmethod
    def from_transformers(
        cls,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 16,
        **options: Unpack[RankOptions],
    ) -> Self:
        """Use Rank1 in this process, on CPU or GPU, through Hugging Face transformers.

        Args:
            model: A checkpoint's name on the hub, or its folder.
            device: As torch names it ("cpu", "cuda:0"); None for a GPU if there is one.
            dtype: As torch names it ("bfloat16"); None for the checkpoint's own.
            batch_size: The most prompts that run through the model together.
            **options: The fields of `Options`.

        Raises:
            ConfigurationError: An argument can't work, or the checkpoint can't be loaded.
            MissingExtraError: transformers or torch is not installed.
        """
        from rank1_integrations.engines.transformers import TransformersEngine

        _check_options(options)
        engine = TransformersEngine(model, device=device, dtype=dtype, batch_size=batch_size)
        return cls(engine, **options)

    @classmethod
    def demo(cls, **options: Unpack[RankOptions]) -> Self:
        """Use the demonstration model of this package. It is made to try things, not to rank.

        Args:
            **options: The fields of `Options`; `max_reasoning_tokens` is 256 if not given.
        """
        from rank1_integrations.demo_model import DEMO_MODEL

        options.setdefault("max_reasoning_tokens", 256)
        return cls.from_transformers(str(DEMO_MODEL), device="cpu", dtype="float32", **options)

    @property
    def model(self) -> str:
        """The model's name; if a server was given without one, known after the first call."""
        return self._runtime.latest.engine.model

    @property
    def server_info(self) -> dict[str, Any]:
        """What is known about the server, as plain data; empty for a model in this process."""
        return self._runtime.latest.engine.info

    @property
    def options(self) -> Options:
        """The options of this object."""
        return self._options

    @property
    def usage(self) -> Usage:
        """What this object's queries have cost so far, as a copy."""
        return replace(self._usage)

    def rank(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> RankResult:
        """Judge every passage and return the best.

        Args:
            query: The query; surrounding white space is dropped.
            passages: Texts, as the retriever returned them.
            top_n: The most passages to keep; None for all.
            score_threshold: Keep passages with score >= threshold, before `top_n`; None for all.

        Returns:
            The kept judgments, best first; iterating the result iterates them. `dropped` has the
            others. Passages without a score (skipped at the deadline, or failed and `on_error` is
            "keep") are kept behind the others, unless `on_error` is "drop".

        Raises:
            ConfigurationError: The query is empty or does not fit the model's context, a passage
                is not a str, or `top_n` or `score_threshold` can't work.
            EngineError: The engine failed, and `on_error` is "raise".
            Rank1Error: This object is closed.
        """
        call = self._call(query, passages, self._selection(top_n, score_threshold))
        return self._ranked(call, _event_loop.run(self._collect(call)))

    async def arank(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> RankResult:
        """Async version of `rank`."""
        call = self._call(query, passages, self._selection(top_n, score_threshold))
        return self._ranked(call, await _event_loop.arun(self._collect(call)))

    def judge(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[Judgment]:
        """Judge every passage; nothing is left out.

        Args:
            query: As for `rank`.
            passages: As for `rank`.
            top_n: The most passages that the caller will keep: adaptive reasoning uses it.
            score_threshold: The lowest score that the caller will keep: adaptive reasoning and
                `enough` use it.

        Returns:
            One judgment for each passage, in the passages' order.

        Raises:
            ConfigurationError: As for `rank`.
            EngineError: As for `rank`.
            Rank1Error: As for `rank`.
        """
        call = self._call(query, passages, self._selection(top_n, score_threshold))
        return self._report(call, _event_loop.run(self._collect(call)))

    async def ajudge(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[Judgment]:
        """Async version of `judge`."""
        call = self._call(query, passages, self._selection(top_n, score_threshold))
        return self._report(call, await _event_loop.arun(self._collect(call)))

    async def astream(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> AsyncGenerator[Judgment, None]:
        """Judge every passage and yield the judgments as they become final.

        Leaving the loop early cancels what still runs.

        Args:
            query: As for `rank`.
            passages: As for `rank`.
            top_n: As for `judge`.
            score_threshold: As for `judge`.

        Yields:
            One judgment for each passage; `index` is the passage's position.

        Raises:
            ConfigurationError: As for `rank`.
            EngineError: As for `rank`.
            Rank1Error: As for `rank`.
        """
        call = self._call(query, passages, self._selection(top_n, score_threshold))
        judgments: list[Judgment] = []
        work = partial(self._run, call)
        async with aclosing(_event_loop.stream(work)) as stream:
            async for judgment in stream:
                judgments.append(judgment)
                yield judgment
        self._report(call, judgments)

    def close(self) -> None:
        """Free the engine's connections or memory. Calls that run fail, further ones too."""
        _event_loop.run(self._close())

    async def aclose(self) -> None:
        """Async version of `close`."""
        await _event_loop.arun(self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Frameworks copy what they hold; a model or a connection is shared instead.
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Rank1 object holds connections or a model and can't be pickled: pickle the "
            "settings it was made from, or an adapter made from settings instead of rank1="
        )

    def __repr__(self) -> str:
        return f"Rank1({self._runtime.latest.engine!r}, {self._options!r})"

    def _selection(self, top_n: int | None, score_threshold: float | None) -> Selection:
        return Selection(top_n, score_threshold, keep_unscored=self._options.on_error != "drop")

    def _call(self, query: str, passages: Iterable[str], selection: Selection) -> _Call:
        """Check a call's arguments and start its time, in the caller's thread."""
        deadline = Deadline(
            self._options.deadline,
            verdict_seconds=self._verdict_durations.longest,
            delivery_seconds=self._delivery_durations.longest,
        )
        text, texts = _check_query(query), _check_passages(passages)
        instructed = add_instruction(text, self._options.instruction)
        defined = define_relevance(instructed, self._options.relevance)
        job = QueryJob(defined, texts, selection, self._options, deadline)
        return _Call(query, texts, selection, deadline, job)

    async def _run(self, call: _Call, emit: Emit[Judgment]) -> None:
        """Run a call on the background loop."""
        if self._is_closed:
            raise _event_loop.closed_error()
        runtime = self._runtime.get()
        await call.job.run(runtime.scorer, runtime.start, runtime.workers, emit)

    async def _collect(self, call: _Call) -> list[Judgment]:
        judgments: list[Judgment] = []
        await self._run(call, judgments.append)
        return judgments

    def _report(self, call: _Call, judgments: list[Judgment]) -> list[Judgment]:
        """Sort the judgments and tell `on_judgments`, in the caller's thread and context."""
        self._delivery_durations.record_since(call.deadline.end)
        judgments.sort(key=lambda judgment: judgment.index)
        if self._options.on_judgments is not None:
            try:
                self._options.on_judgments(call.query, call.passages, judgments)
            except Exception:
                # An observer must not cost the caller the judgments.
                logger.exception("on_judgments failed")
        return judgments

    def _ranked(self, call: _Call, judgments: list[Judgment]) -> RankResult:
        kept, dropped = call.selection.split(self._report(call, judgments))
        return RankResult(kept, dropped, replace(call.job.usage))

    async def _close(self) -> None:
        self._finalizer.detach()
        is_open, self._is_closed = not self._is_closed, True
        if is_open and self._runtime.is_current:
            await self._runtime.latest.aclose()

    def _new_runtime(self, engine: Engine) -> _Runtime:
        scorer = PairScorer(engine, self._options, self._usage, self._verdict_durations)
        workers = WorkerPool(self._options.max_concurrency)
        return _Runtime(engine, scorer, SharedTask(scorer.start), workers)

    def _runtime_after_fork(self) -> Callable[[_Runtime], _Runtime]:
        # Not a bound method: the object must be collected as soon as its last user drops it.
        this = weakref.ref(self)

        def rebuild(runtime: _Runtime) -> _Runtime:
            rank1 = this()
            assert rank1 is not None
            return rank1._new_runtime(runtime.engine.after_fork())

        return rebuild


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a public method."""

    query: str
    passages: list[str]
    selection: Selection
    deadline: Deadline
    job: QueryJob


@dataclass(frozen=True, slots=True)
class _Runtime:
    """Everything that is bound to one process's event loop."""

    engine: Engine
    scorer: PairScorer
    start: SharedTask
    workers: WorkerPool

    async def aclose(self) -> None:
        """End all calls and free the engine."""
        self.workers.close()
        self.start.cancel()
        self.scorer.close()
        await self.engine.aclose()


def _close_unreferenced(runtime: PerProcess[_Runtime]) -> None:
    """Close what a dropped object held, on the loop that it belongs to."""
    if runtime.is_current:
        _event_loop.spawn(runtime.latest.aclose)


def _check_options(options: RankOptions) -> Options:
    """Return the options, checked before a model is loaded for them."""
    _event_loop.check_threads()
    return Options.check(options)


def _check_query(query: str) -> str:
    if not isinstance(query, str):
        raise ConfigurationError(f"the query must be a str, not {type(query).__name__}")
    query = query.strip()
    if not query:
        raise ConfigurationError("the query is empty: pass what the user asked")
    return query


def _check_passages(passages: Iterable[str]) -> list[str]:
    if isinstance(passages, str):
        raise ConfigurationError("passages must be a list of str; for one text pass [text]")
    texts = list(passages)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigurationError(f"passage {index} must be a str, not {type(text).__name__}")
    return texts
