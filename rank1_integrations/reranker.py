"""Many passages of one query: what runs at once, and what a failure means."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from rank1_integrations import _event_loop
from rank1_integrations.config import Options, check_cut
from rank1_integrations.engines.base import Engine
from rank1_integrations.exceptions import ConfigurationError, Rank1Error
from rank1_integrations.judgment import Judgment, rank
from rank1_integrations.query_job import Judging
from rank1_integrations.scoring.deadline import Deadline, RecentTimes
from rank1_integrations.scoring.prompt import define_relevance
from rank1_integrations.scoring.scorer import PassageJudge
from rank1_integrations.scoring.usage import Usage

logger = logging.getLogger(__name__)


class Rank1:
    """The Rank1 reranker on one engine, to be shared by any number of chains, threads and tasks.

    Make one with `from_server`, `from_vllm`, `from_transformers` or `demo`. Every method has an
    asynchronous twin with an `a` in front; both run the same code on one background loop, so the
    synchronous form also works inside a running loop.
    """

    def __init__(self, engine: Engine, **options: Any) -> None:
        """Wrap an engine; `options` are the fields of `Options`."""
        self._engine = engine
        self._options = Options.check(options)
        self._passage_judge = PassageJudge(engine, self._options)
        self._answer_delays = RecentTimes()
        self._closed = False

    @classmethod
    def from_server(
        cls, base_url: str, *, model: str | None = None, api_key: str | None = None, **options: Any
    ) -> Self:
        """Rank1 behind an OpenAI-compatible server with logprobs, such as `vllm serve`.

        Args:
            base_url: For instance "http://localhost:8000/v1"; "/v1" is added to a bare host.
            model: The name it is served under; None for the only one that the server has.
            api_key: Sent as a bearer token; None for the environment's `RANK1_API_KEY` or else
                `OPENAI_API_KEY`, or no key where neither is set.
            **options: The fields of `Options`.

        Raises:
            ConfigurationError: An argument can't work. Whether the server answers is found out
                by the first call.
        """
        from rank1_integrations.engines.openai_server.engine import ServerEngine

        checked = Options.check(options)
        engine = ServerEngine(
            base_url,
            model=model,
            api_key=api_key or os.environ.get("RANK1_API_KEY") or os.environ.get("OPENAI_API_KEY"),
            timeout=checked.timeout,
            max_retries=checked.max_retries,
        )
        return cls(engine, **options)

    @classmethod
    def from_vllm(
        cls, model: str, *, engine_args: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Rank1 on vLLM, which this process starts, shares among its objects and ends.

        Objects with the same model and `engine_args` share one copy of it in memory, which is
        freed when the last of them is closed or collected, or at the interpreter's exit.

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

        checked = Options.check(options)
        engine = VllmEngine(model, engine_args=engine_args, timeout=checked.timeout)
        return cls(engine, **options)

    @classmethod
    def from_transformers(
        cls,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 16,
        **options: Any,
    ) -> Self:
        """Rank1 in this process, on CPU or GPU, through Hugging Face transformers.

        Args:
            model: A checkpoint's name on the hub, or its folder.
            device: As torch names it ("cpu", "cuda:0"); None for a GPU if there is one.
            dtype: As torch names it ("bfloat16"); None for the checkpoint's own.
            batch_size: How many prompts run through the model together at most.
            **options: The fields of `Options`.

        Raises:
            ConfigurationError: An argument can't work, or the checkpoint can't be loaded.
            MissingExtraError: transformers or torch is not installed.
        """
        from rank1_integrations.engines.transformers import TransformersEngine

        checked = Options.check(options)
        engine = TransformersEngine(
            model, device=device, dtype=dtype, batch_size=batch_size, timeout=checked.timeout
        )
        return cls(engine, **options)

    @classmethod
    def demo(cls, **options: Any) -> Self:
        """The demonstration model in this package: it shows the form, and is no good reranker."""
        from rank1_integrations.demo_model import DEMO_MODEL

        options = {"max_reasoning_tokens": 256, **options}
        return cls.from_transformers(str(DEMO_MODEL), device="cpu", dtype="float32", **options)

    @property
    def model(self) -> str:
        """The model's name; for a server without one given, known after the first call."""
        return self._engine.model

    @property
    def options(self) -> Options:
        """What this object was made with."""
        return self._options

    @property
    def usage(self) -> Usage:
        """What this object's judgments have cost so far, as a copy."""
        return replace(self._passage_judge.usage)

    def judge(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[Judgment]:
        """Judge every passage.

        Args:
            query: What is asked; white space around it is dropped.
            passages: Texts, as the retriever had them.
            top_n: How many the caller will keep at most; None for all. Nothing is left out here.
            score_threshold: The score from which on the caller will keep a passage; None for all.

        Returns:
            One judgment for each passage, in the passages' order.

        Raises:
            ConfigurationError: The query is empty or does not fit the model's context, the
                passages are no texts, or `top_n` or `score_threshold` can't work.
            EngineError: The engine failed, and `on_error` is "raise".
            Rank1Error: This object is closed.
        """
        texts, deadline = _check_passages(passages), self._deadline()
        judgments = self._judgments(query, texts, deadline, top_n, score_threshold)
        answer = _event_loop.run(_in_order(judgments))
        self._answer_delays.since(deadline.end)
        return self._report(query, texts, answer)

    async def ajudge(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[Judgment]:
        """`judge`, awaited."""
        texts, deadline = _check_passages(passages), self._deadline()
        judgments = self._judgments(query, texts, deadline, top_n, score_threshold)
        answer = await _event_loop.arun(_in_order(judgments))
        self._answer_delays.since(deadline.end)
        return self._report(query, texts, answer)

    async def astream(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> AsyncGenerator[Judgment, None]:
        """Judge every passage; the judgments come as they are made.

        Leaving the loop early cancels what still runs.

        Args:
            query: As for `judge`.
            passages: As for `judge`.
            top_n: As for `judge`.
            score_threshold: As for `judge`.

        Yields:
            One judgment for each passage, in the order in which they are made; `index` is the
            passage's place.

        Raises:
            ConfigurationError: As for `judge`.
            EngineError: As for `judge`.
            Rank1Error: As for `judge`.
        """
        texts = _check_passages(passages)
        judgments = self._judgments(query, texts, self._deadline(), top_n, score_threshold)
        made = []
        async with aclosing(_event_loop.iterate(judgments)) as stream:
            async for judgment in stream:
                made.append(judgment)
                yield judgment
        self._report(query, texts, sorted(made, key=lambda one: one.index))

    def rank(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[Judgment]:
        """Judge every passage and return the best.

        Args:
            query: What is asked; white space around it is dropped.
            passages: Texts, as the retriever had them.
            top_n: How many to return at most; None for all.
            score_threshold: Keep score >= threshold, before `top_n`; None for all.

        Returns:
            Judgments best first; `index` is the passage's place. What could not be judged comes
            last, in the retriever's order, or is left out if `on_error` is "drop".

        Raises:
            ConfigurationError: As for `judge`, or `top_n` or `score_threshold` can't work.
            EngineError: The engine failed, and `on_error` is "raise".
            Rank1Error: This object is closed.
        """
        judgments = self.judge(query, passages, top_n=top_n, score_threshold=score_threshold)
        return self.cut(judgments, top_n=top_n, score_threshold=score_threshold)

    async def arank(
        self,
        query: str,
        passages: Iterable[str],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[Judgment]:
        """`rank`, awaited."""
        judgments = await self.ajudge(query, passages, top_n=top_n, score_threshold=score_threshold)
        return self.cut(judgments, top_n=top_n, score_threshold=score_threshold)

    def cut(
        self,
        judgments: list[Judgment],
        *,
        top_n: int | None = None,
        score_threshold: float | None = None,
    ) -> list[Judgment]:
        """What `rank` makes of `judge`'s answer, for callers that also show what was left out.

        Args:
            judgments: All of them, in the passages' order.
            top_n: How many to return at most; None for all.
            score_threshold: Keep score >= threshold, before `top_n`; None for all.

        Returns:
            Judgments best first, as `rank` returns them.

        Raises:
            ConfigurationError: `top_n` or `score_threshold` can't work.
        """
        check_cut(top_n, score_threshold)
        wanted = [one for one in judgments if one.score is not None or self._keeps_unjudged(one)]
        return rank(wanted, top_n=top_n, score_threshold=score_threshold)

    def _keeps_unjudged(self, judgment: Judgment) -> bool:
        """Failures as `on_error` says; what was skipped because enough was found is left out."""
        return self._options.on_error != "drop" and judgment.error is not None

    def close(self) -> None:
        """Free the engine's connections or memory. Further calls are refused."""
        _event_loop.run(self._close())

    async def aclose(self) -> None:
        """`close`, awaited."""
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
        return f"Rank1({self._engine!r}, {self._options!r})"

    def _report(self, query: str, texts: list[str], judgments: list[Judgment]) -> list[Judgment]:
        """Tell `on_judgments`, in the caller's own thread and context."""
        if self._options.on_judgments is not None:
            try:
                self._options.on_judgments(query, texts, judgments)
            except Exception:
                # Someone looking on must not cost the caller the judgments.
                logger.exception("on_judgments failed")
        return judgments

    def _deadline(self) -> Deadline:
        """The time for one query, which runs from now."""
        return Deadline(
            self._options.deadline,
            reserve=self._passage_judge.verdict_times.longest,
            delay=self._answer_delays.longest,
        )

    def _judgments(
        self,
        query: str,
        texts: list[str],
        deadline: Deadline,
        top_n: int | None,
        score_threshold: float | None,
    ) -> AsyncGenerator[Judgment, None]:
        """The judgments as they are made, to be run on the background loop."""
        check_cut(top_n, score_threshold)
        query = _check_query(query)
        if self._closed:
            raise Rank1Error("this Rank1 object is closed: make a new one")
        return Judging(
            self._passage_judge,
            self._options,
            define_relevance(query, self._options.relevance),
            texts,
            deadline,
            top_n=top_n,
            score_threshold=score_threshold,
        ).judgments()

    async def _close(self) -> None:
        self._closed = True
        await self._engine.aclose()


async def _in_order(judgments: AsyncGenerator[Judgment, None]) -> list[Judgment]:
    async with aclosing(judgments):
        return sorted([one async for one in judgments], key=lambda one: one.index)


def _check_query(query: str) -> str:
    if not isinstance(query, str):
        raise ConfigurationError(f"the query must be a text, not {type(query).__name__}")
    query = query.strip()
    if not query:
        raise ConfigurationError("the query is empty: pass what the user asked")
    return query


def _check_passages(passages: Iterable[str]) -> list[str]:
    if isinstance(passages, str):
        raise ConfigurationError("passages must be a list of texts; for one text pass [text]")
    texts = list(passages)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigurationError(f"passage {place} must be a text, not {type(text).__name__}")
    return texts
