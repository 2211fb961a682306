"""A model in this process's care on vLLM, which batches all callers' requests continuously."""

from __future__ import annotations

import asyncio
import itertools
import os
import weakref
from collections.abc import Mapping
from typing import Any

from rank1_integrations.engines.base import Completion, Engine, Request, TokenIds
from rank1_integrations.engines.tokenizer import beginning
from rank1_integrations.engines.vllm import pool
from rank1_integrations.exceptions import EngineError, MissingExtraError

try:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.exceptions import EngineDeadError
except ImportError as error:
    raise MissingExtraError("vllm", "vllm") from error

# Older versions of vLLM give the likeliest tokens' log-probabilities only.
_CHOOSES_LOGPROBS = hasattr(SamplingParams, "logprob_token_ids")
_MOST_LOGPROBS = 20

_numbers = itertools.count()


class VllmEngine(Engine):
    """A causal language model that vLLM runs in processes of its own."""

    def __init__(
        self, model: str, *, engine_args: Mapping[str, Any] | None, timeout: float | None
    ) -> None:
        """Load the model, or share one that is loaded with the same arguments.

        Args:
            model: A checkpoint's name on the hub, or its folder.
            engine_args: Fields of vLLM's `AsyncEngineArgs`.
            timeout: Seconds that one request may wait and run; None for no limit.

        Raises:
            ConfigurationError: The checkpoint or an argument can't be used.
        """
        self.model = model
        self._timeout = timeout
        self._loaded = pool.acquire(model, engine_args or {})
        self._collected = weakref.finalize(self, pool.release_apart, self._loaded)
        self._collected.atexit = False
        self._llm = self._loaded.llm
        self._tokenizer: Any = self._llm.get_tokenizer()
        if hasattr(self._tokenizer, "clean_up_tokenization_spaces"):
            # Llama 3's configuration asks for spaces to be tidied up; text stays as generated.
            self._tokenizer.clean_up_tokenization_spaces = False
        self.context_length = self._llm.model_config.max_model_len
        self._process = os.getpid()
        self._running: set[asyncio.Timeout] = set()
        self._closed = False

    async def start(self) -> None:
        """Check that the model still runs, and for this process."""
        if os.getpid() != self._process:
            raise EngineError(
                f"{self.model} was loaded before this process was forked: make a new Rank1 "
                "object in it, or use a server"
            )
        if self._closed:
            raise self._closed_error()
        if self._llm.errored:
            raise self._dead_error()

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt; a cancelled call ends it in vLLM too."""
        ids = self._encode(request.prompt) if isinstance(request.prompt, str) else request.prompt
        stop_id = self._single_id(request.stop) if request.stop else None
        answer = await self._generate(ids, self._parameters(request, stop_id))
        output = answer.outputs[0]
        generated = tuple(output.token_ids)
        stopped = output.stop_reason is not None and output.stop_reason in (stop_id, request.stop)
        if request.stop is None or stop_id is not None:
            ended = output.finish_reason == "stop"
            text = self._decode(generated[:-1] if ended else generated)
            exact = True
        else:
            text = output.text
            exact = not stopped or self._decode(generated).endswith(request.stop)
        return Completion(
            text=text,
            stopped=stopped,
            unfinished=output.finish_reason == "length",
            continuation=(*ids, *generated) if exact else f"{request.prompt}{text}{request.stop}",
            tokens=len(generated),
            prompt_tokens=len(ids),
            cached_tokens=answer.num_cached_tokens or 0,
            **self._read_labels(request, output),
        )

    async def count_tokens(self, text: str) -> int:
        """Tokens by the model's own tokenizer."""
        return len(self._encode(text))

    async def first_tokens(self, text: str, count: int) -> str:
        """The beginning of `text`, cut by the model's own tokenizer."""
        return beginning(self._tokenizer, text, count)

    async def aclose(self) -> None:
        """End this object's requests, and the model if no other object uses it."""
        self._closed = True
        for limit in self._running:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
        if self._collected.detach():
            await asyncio.to_thread(pool.release, self._loaded)

    def __repr__(self) -> str:
        return f"VllmEngine({self.model!r})"

    async def _generate(self, ids: TokenIds, parameters: SamplingParams) -> RequestOutput:
        # Marked as ready for the engine: vLLM would process a bare prompt once more.
        prompt: Any = {"type": "token", "prompt_token_ids": list(ids)}
        answers = self._llm.generate(prompt, parameters, f"rank1-{next(_numbers)}")
        try:
            async with asyncio.timeout(self._timeout) as limit:
                self._running.add(limit)
                try:
                    answer = [answer async for answer in answers][-1]
                finally:
                    self._running.discard(limit)
        except Exception as error:  # vLLM raises many kinds
            raise self._explained(error) from error
        reason = answer.outputs[0].finish_reason
        if reason not in ("stop", "length"):
            # As it happens when vLLM's process is told to end: the thought is not one to judge by.
            raise EngineError(f"{self.model}: vLLM gave a request up ({reason})")
        return answer

    def _parameters(self, request: Request, stop_id: int | None) -> SamplingParams:
        """The request's own, without what a checkpoint's generation configuration may add."""
        chosen: dict[str, Any] = {}
        if request.stop is None or stop_id is not None:
            # Text is made once, of the whole completion, where vLLM would make it token by token.
            chosen["detokenize"] = False
            chosen["stop_token_ids"] = [] if stop_id is None else [stop_id]
        else:
            chosen["stop"] = [request.stop]
        if request.labels and _CHOOSES_LOGPROBS:
            chosen["logprob_token_ids"] = [self._label_id(label) for label in request.labels]
            chosen["logprobs"] = len(request.labels)
        elif request.labels:
            chosen["logprobs"] = _MOST_LOGPROBS
        return SamplingParams(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=request.max_tokens,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **chosen,
        )

    def _read_labels(self, request: Request, output: CompletionOutput) -> dict[str, Any]:
        """The fields of a completion that hold label log-probabilities."""
        if not request.labels:
            return {}
        if not output.logprobs:
            raise EngineError(f"{self.model}: vLLM returned no log-probabilities")
        first = {token: entry.logprob for token, entry in output.logprobs[0].items()}
        ids = {label: self._label_id(label) for label in request.labels}
        return {
            "label_logprobs": {label: first[ids[label]] for label in ids if ids[label] in first},
            "label_bound": min(first.values()),
        }

    def _encode(self, text: str) -> TokenIds:
        return tuple(self._tokenizer.encode(text))

    def _decode(self, ids: TokenIds | list[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _single_id(self, text: str) -> int | None:
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return ids[0] if len(ids) == 1 else None

    def _label_id(self, label: str) -> int:
        token = self._single_id(label)
        if token is None:
            raise EngineError(f"{label!r} is not one token of {self.model}: is this a Rank1 model?")
        return token

    def _explained(self, error: Exception) -> EngineError:
        """The error with what to do about it."""
        if self._closed:
            return self._closed_error()
        if isinstance(error, EngineDeadError):
            return self._dead_error()
        if isinstance(error, TimeoutError):
            return EngineError(
                f"{self.model}: no answer within {self._timeout} s: raise timeout=, or lower "
                "max_concurrency= or max_reasoning_tokens="
            )
        return EngineError(f"{self.model}: {error}")

    def _closed_error(self) -> EngineError:
        return EngineError(f"{self.model}: closed while it was at work")

    def _dead_error(self) -> EngineError:
        return EngineError(
            f"{self.model}: vLLM's process has died, its log above says of what: make a new "
            "Rank1 object, which loads the model again"
        )
