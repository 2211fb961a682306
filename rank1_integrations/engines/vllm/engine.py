"""A model in this process on vLLM, which batches all callers' requests continuously."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Mapping
from typing import Any

from rank1_integrations.engines.base import Completion, Engine, Request, TokenIds
from rank1_integrations.engines.checkpoint import load_error
from rank1_integrations.engines.tokenizer import HfTokenizer
from rank1_integrations.engines.vllm import pool
from rank1_integrations.exceptions import EngineError, MissingExtraError

try:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
except ImportError as error:
    raise MissingExtraError("vllm", "vllm") from error

# Older versions of vLLM give the most likely tokens' log-probabilities only.
_SELECTS_LOGPROBS = hasattr(SamplingParams, "logprob_token_ids")
_MAX_LOGPROBS = 20

_numbers = itertools.count()


class VllmEngine(Engine):
    """A causal language model that vLLM runs in child processes."""

    def __init__(self, model: str, *, engine_args: Mapping[str, Any] | None = None) -> None:
        """Load the model, or share one that is loaded with the same arguments.

        Args:
            model: A checkpoint's name on the hub, or its folder.
            engine_args: Fields of vLLM's `AsyncEngineArgs`.

        Raises:
            ConfigurationError: The checkpoint or an argument can't be used.
        """
        self.model = model
        self._loaded = pool.acquire(model, engine_args or {})
        self._finalizer = weakref.finalize(self, pool.release_soon, self._loaded)
        self._finalizer.atexit = False
        self._llm = self._loaded.llm
        try:
            self._tokenizer = HfTokenizer(self._llm.get_tokenizer())
        except ValueError as error:
            # The model is released when this object is collected.
            raise load_error(model, "vLLM", error) from error
        self.context_length = self._llm.model_config.max_model_len
        self._running: set[asyncio.Timeout] = set()
        self._is_closed = False

    @property
    def fingerprint(self) -> str:
        """The model's name, the state of its folder, and the arguments that change its scores."""
        return self._loaded.fingerprint

    async def start(self) -> None:
        """Check that the model still runs."""
        if self._is_closed:
            raise self._closed_error()
        if self._llm.errored:
            raise self._dead_error()

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt. Cancelling the call ends it in vLLM too."""
        await self.start()
        prompt = request.prompt
        ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        stop_id = self._tokenizer.single_id(request.stop) if request.stop else None
        label_ids = self._tokenizer.label_ids(request.labels, model=self.model)
        answer = await self._generate(ids, _parameters(request, stop_id, label_ids))
        output = answer.outputs[0]
        generated = self._tokenizer.read(
            tuple(output.token_ids),
            stop=request.stop,
            hit_end=output.finish_reason == "stop" and output.stop_reason != request.stop,
        )
        logprobs = self._logprobs(output) if request.labels else {}
        return Completion(
            text=generated.text,
            ended=generated.ended,
            prompt_ids=ids,
            token_ids=generated.token_ids,
            prompt_tokens=len(ids),
            completion_tokens=generated.tokens,
            cached_tokens=answer.num_cached_tokens,
            label_logprobs={
                label: logprobs[token_id]
                for label, token_id in label_ids.items()
                if token_id in logprobs
            },
            label_bound=min(logprobs.values(), default=None),
        )

    async def count_tokens(self, text: str) -> int:
        """Count tokens by the model's own tokenizer."""
        return self._tokenizer.count(text)

    async def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text`, cut by the model's own tokenizer."""
        return self._tokenizer.first_tokens(text, count)

    async def decode(self, token_ids: TokenIds) -> str:
        """Return the text of token ids."""
        return self._tokenizer.decode(token_ids)

    async def aclose(self) -> None:
        """Fail this object's requests at once, and end the model if no other object uses it.

        Waits for the end of vLLM's processes, which takes up to five seconds: until then they hold
        the memory that the caller may want for the next model.
        """
        self._is_closed = True
        for limit in self._running:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
        if self._finalizer.detach():
            await asyncio.to_thread(pool.release, self._loaded)

    def __repr__(self) -> str:
        return f"VllmEngine({self.model!r})"

    async def _generate(self, ids: TokenIds, parameters: SamplingParams) -> RequestOutput:
        # Marked as ready for the engine: vLLM would process a bare prompt once more.
        prompt: Any = {"type": "token", "prompt_token_ids": list(ids)}
        outputs = self._llm.generate(prompt, parameters, f"rank1-{next(_numbers)}")
        try:
            # No time limit: `aclose` ends the request through it.
            async with asyncio.timeout(None) as limit:
                self._running.add(limit)
                try:
                    answer = [output async for output in outputs][-1]
                finally:
                    self._running.discard(limit)
        except Exception as error:
            explained = self._explained(error)
            if explained is error:
                raise
            raise explained from error
        reason = answer.outputs[0].finish_reason
        if reason not in ("stop", "length"):
            # As when another party aborts it. No verdict must be read from half of a reasoning.
            raise EngineError(f"{self.model}: vLLM gave a request up ({reason}): repeat the call")
        return answer

    def _logprobs(self, output: CompletionOutput) -> dict[int, float]:
        """Return the log-probabilities at the first position, by token id."""
        if not output.logprobs:
            raise EngineError(f"{self.model}: vLLM returned no log-probabilities")
        return {token: entry.logprob for token, entry in output.logprobs[0].items()}

    def _explained(self, error: Exception) -> Exception:
        """Return the error with its cause and remedy, or as it is if they are not known."""
        if self._is_closed:
            return self._closed_error()
        if isinstance(error, EngineDeadError):
            return self._dead_error()
        if isinstance(error, EngineGenerateError):  # has no text of its own
            return EngineError(f"{self.model}: vLLM failed on a request: {error.__cause__!r}")
        return error

    def _closed_error(self) -> EngineError:
        return EngineError(f"{self.model} is closed: make a new Rank1 object")

    def _dead_error(self) -> EngineError:
        return EngineError(
            f"{self.model}: vLLM's process has died; its log above says why. Make a new Rank1 "
            "object, which loads the model again"
        )


def _parameters(
    request: Request, stop_id: int | None, label_ids: Mapping[str, int]
) -> SamplingParams:
    """Return the request's parameters, without what a checkpoint's configuration may add."""
    chosen: dict[str, Any] = {}
    if request.stop is None or stop_id is not None:
        # Text is made once, of the whole completion; vLLM would make it token by token.
        chosen["detokenize"] = False
        chosen["stop_token_ids"] = [] if stop_id is None else [stop_id]
    else:
        chosen["stop"] = [request.stop]
    if label_ids and _SELECTS_LOGPROBS:
        chosen["logprob_token_ids"] = [*label_ids.values()]
        chosen["logprobs"] = len(label_ids)
    elif label_ids:
        chosen["logprobs"] = _MAX_LOGPROBS
    return SamplingParams(
        temperature=0.0,
        max_tokens=request.max_tokens,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **chosen,
    )
