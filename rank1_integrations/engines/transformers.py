"""A model in this process, on CPU or GPU, through Hugging Face transformers.

For trying things out and for machines without vLLM: prompts that wait at the same time run as one
batch, but a batch ends with its longest reasoning.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rank1_integrations.engines.base import Completion, Engine, Request, TokenIds
from rank1_integrations.engines.checkpoint import checkpoint_fingerprint, load_error
from rank1_integrations.engines.tokenizer import HfTokenizer
from rank1_integrations.exceptions import ConfigurationError, EngineError, MissingExtraError

try:
    import torch
    import transformers
except ImportError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from None

# A batch starts when no request came in so many turns of the event loop. Measured: 48 passages in
# batches of 16 take 6 batches with 2 turns or more, 7 after 8 turns in all or a sleep of 1 ms.
# Turns are counted, not time, which stands still if a user's test freezes the clock.
_QUIET_TURNS = 4


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that waits or runs."""

    request: Request
    prompt_ids: TokenIds
    label_ids: dict[str, int]
    completion: asyncio.Future[Completion]

    @property
    def kind(self) -> tuple[object, ...]:
        """What all requests of a batch have in common."""
        return self.request.stop, self.request.labels

    def fail(self, error: Exception) -> None:
        if not self.completion.done():
            self.completion.set_exception(error)


class TransformersEngine(Engine):
    """A causal language model, loaded by transformers, that completes prompts in batches."""

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 16,
    ) -> None:
        """Load the model.

        Args:
            model: A checkpoint's name on the hub, or its folder.
            device: As torch names it; None for a GPU if there is one.
            dtype: As torch names it; None for the checkpoint's own.
            batch_size: The most prompts that run together.

        Raises:
            ConfigurationError: The checkpoint, device or dtype can't be used.
        """
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1; it is {batch_size}")
        self.model = model
        # Before loading: files that change meanwhile are another checkpoint's.
        self._fingerprint = f"{checkpoint_fingerprint(model)} {dtype or ''}".strip()
        self._batch_size = batch_size
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _check_names(self._device, dtype)
        tokenizer, self._tokenizer, self._network = _load(model, dtype, self._device)
        self._hf_tokenizer = tokenizer
        self._end_ids = _end_ids(self._network, tokenizer)
        self._pad_id = next(
            (token for token in (tokenizer.pad_token_id, *self._end_ids) if token is not None), 0
        )
        self.context_length = getattr(
            self._network.config.get_text_config(), "max_position_embeddings", None
        )
        self._waiting: list[_Pending] = []
        self._running: list[_Pending] = []
        self._worker: asyncio.Task[None] | None = None
        self._closed = threading.Event()

    @property
    def fingerprint(self) -> str:
        """The model's name, the state of its folder, and the dtype if one was chosen."""
        return self._fingerprint

    async def start(self) -> None:
        """Check that the engine is open: the model was loaded when it was made."""
        if self._closed.is_set():
            raise self._closed_error()

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt, in a batch with others of the same time."""
        await self.start()
        prompt = request.prompt
        pending = _Pending(
            request,
            self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt,
            self._tokenizer.label_ids(request.labels, model=self.model),
            asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(pending)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await pending.completion

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
        """Fail the requests that wait or run, and free the model.

        A batch that runs ends at its next token, on its own thread, and holds the model until then.
        """
        self._closed.set()
        self._network = None
        for pending in (*self._waiting, *self._running):
            pending.fail(self._closed_error())
        self._waiting.clear()

    def __repr__(self) -> str:
        return f"TransformersEngine({self.model!r}, device={self._device!r})"

    def _closed_error(self) -> EngineError:
        return EngineError(f"{self.model} is closed: make a new Rank1 object")

    async def _work(self) -> None:
        """Run batch after batch until no request waits."""
        while self._waiting:
            await self._let_callers_continue()
            self._running = self._next_batch()
            if self._running:
                await self._answer(self._running)
                self._running = []

    async def _let_callers_continue(self) -> None:
        """Let callers that were just answered make their next request, to join the batch."""
        quiet = 0
        while quiet < _QUIET_TURNS:
            waiting = len(self._waiting)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) <= waiting else 0

    def _next_batch(self) -> list[_Pending]:
        """Take those of one kind that waited longest."""
        self._waiting = [pending for pending in self._waiting if not pending.completion.done()]
        same = [pending for pending in self._waiting if pending.kind == self._waiting[0].kind]
        batch = same[: self._batch_size]
        self._waiting = [pending for pending in self._waiting if pending not in batch]
        return batch

    async def _answer(self, batch: list[_Pending]) -> None:
        """Run a batch. If it fails, run its prompts one by one: the others may succeed."""
        try:
            completions = await asyncio.to_thread(self._run, self._network, batch)
        except Exception as error:  # goes to the callers, not further
            left = [pending for pending in batch if not pending.completion.done()]
            if len(batch) == 1:
                batch[0].fail(self._explained(error))
                return
            for pending in left:
                if not self._closed.is_set():
                    await self._answer([pending])
            return
        for pending, completion in zip(batch, completions, strict=True):
            if not pending.completion.done():
                pending.completion.set_result(completion)

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, torch.OutOfMemoryError):
            return EngineError(
                f"{self.model}: one prompt alone needs more memory than {self._device} has: lower "
                f"max_reasoning_tokens= or shorten the passages ({error})"
            )
        return error

    def _run(self, network: Any, batch: list[_Pending]) -> list[Completion]:
        """Run one batch through the model, on a thread."""
        request = batch[0].request
        stop_id = self._tokenizer.single_id(request.stop) if request.stop else None
        width = max(len(pending.prompt_ids) for pending in batch)
        padding = [width - len(pending.prompt_ids) for pending in batch]
        prompts = [
            [self._pad_id] * count + [*pending.prompt_ids]
            for count, pending in zip(padding, batch, strict=True)
        ]
        mask = [[0] * count + [1] * (width - count) for count in padding]
        criteria = transformers.StoppingCriteriaList([_RowEnd(batch, width, self._closed)])
        with torch.inference_mode():
            generated = network.generate(
                input_ids=torch.tensor(prompts, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                generation_config=self._generation_config(batch, stop_id),
                stopping_criteria=criteria,
                tokenizer=self._hf_tokenizer,
            )
        rows = generated.sequences[:, width:].tolist()
        logprobs = generated.logits[0].float().log_softmax(-1) if request.labels else None
        return [
            self._read(pending, rows[index], stop_id, None if logprobs is None else logprobs[index])
            for index, pending in enumerate(batch)
        ]

    def _generation_config(
        self, batch: list[_Pending], stop_id: int | None
    ) -> transformers.GenerationConfig:
        """Return the batch's configuration, without what a checkpoint's own may add."""
        request = batch[0].request
        return transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=max(pending.request.max_tokens for pending in batch),
            eos_token_id=self._end_ids if stop_id is None else [*self._end_ids, stop_id],
            pad_token_id=self._pad_id,
            stop_strings=request.stop if stop_id is None else None,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=bool(request.labels),
        )

    def _read(
        self, pending: _Pending, row: list[int], stop_id: int | None, logprobs: Any
    ) -> Completion:
        """Return the completion in a row of token ids, which is padded to the longest row."""
        request = pending.request
        ids = _until(row[: request.max_tokens], {*self._end_ids, stop_id})
        hit_end = bool(ids) and ids[-1] in self._end_ids
        generated = self._tokenizer.read(ids, stop=request.stop, hit_end=hit_end)
        return Completion(
            text=generated.text,
            ended=generated.ended,
            prompt_ids=pending.prompt_ids,
            token_ids=generated.token_ids,
            prompt_tokens=len(pending.prompt_ids),
            completion_tokens=generated.tokens,
            label_logprobs={
                label: float(logprobs[token_id]) for label, token_id in pending.label_ids.items()
            },
        )


class _RowEnd(transformers.StoppingCriteria):
    """Ends a row at its own token limit, and when its caller or the engine is gone."""

    def __init__(self, batch: list[_Pending], width: int, closed: threading.Event) -> None:
        self._batch, self._width, self._closed = batch, width, closed

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        tokens = input_ids.shape[1] - self._width
        ended = [
            self._closed.is_set()
            or pending.completion.done()
            or tokens >= pending.request.max_tokens
            for pending in self._batch
        ]
        return torch.tensor(ended, device=input_ids.device)


def _until(ids: list[int], ends: set[int | None]) -> TokenIds:
    """Return the ids up to the first of `ends`, included."""
    count = next((n for n, token_id in enumerate(ids, 1) if token_id in ends), len(ids))
    return tuple(ids[:count])


def _check_names(device: str, dtype: str | None) -> None:
    """Refuse a device or dtype that torch does not know.

    Raises:
        ConfigurationError: One of them.
    """
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(f"device={device!r}: {error}") from None
    if dtype not in (None, "auto") and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigurationError(
            f"dtype={dtype!r} is not one of torch's: use float32, float16 or bfloat16"
        )


def _load(model: str, dtype: str | None, device: str) -> tuple[Any, HfTokenizer, Any]:
    """Return tokenizer, the same wrapped, and network, loaded without a progress bar."""
    logging: Any = transformers.utils.logging
    has_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        wrapped = HfTokenizer(tokenizer)
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        network, loading = load(model, dtype=dtype or "auto", output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):
            # transformers would put random numbers in their place.
            raise ValueError(f"it lacks {len(missing)} weights, such as {missing[0]}")
    except Exception as error:
        # A damaged file raises whatever its parser raises: OSError, ValueError, KeyError,
        # SafetensorError, a bare Exception from tokenizers. An ImportError names the library that
        # a quantized checkpoint needs.
        raise load_error(model, "transformers", error) from error
    finally:
        if has_bar:
            logging.enable_progress_bar()
    try:
        return tokenizer, wrapped, network.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise ConfigurationError(f"can't move {model!r} to device={device!r}: {error}") from error


def _end_ids(network: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a sequence, by the checkpoint and by its tokenizer."""
    known = network.generation_config.eos_token_id
    ids: Sequence[int | None] = known if isinstance(known, list) else [known]
    return list(dict.fromkeys(t for t in [*ids, tokenizer.eos_token_id] if t is not None))
