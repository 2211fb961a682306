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

# Turns of the event loop in which callers that were just answered can ask for their next step.
_TURNS_BETWEEN_BATCHES = 8


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Request
    prompt_ids: TokenIds
    answer: asyncio.Future[Completion]

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be the same for all requests of a batch: reasoning or verdicts."""
        return self.request.stop, self.request.labels


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
        self._fingerprint = checkpoint_fingerprint(model)
        self._batch_size = batch_size
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer, self._network = _load(model, dtype, self._device)
        self._hf_tokenizer = tokenizer
        self._tokenizer = HfTokenizer(tokenizer)
        self._end_ids = _end_ids(self._network, tokenizer)
        self._pad_id = next(
            (token for token in (tokenizer.pad_token_id, *self._end_ids) if token is not None), 0
        )
        self.context_length = getattr(
            self._network.config.get_text_config(), "max_position_embeddings", None
        )
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._closed = threading.Event()

    @property
    def fingerprint(self) -> str:
        """The model's name and the state of its folder."""
        return self._fingerprint

    async def start(self) -> None:
        """Do nothing: the model was loaded when the engine was made."""

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt, in a batch with those that wait at the same time."""
        if self._closed.is_set():
            raise self._closed_error()
        prompt = request.prompt
        ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        waiting = _Waiting(request, ids, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.answer

    async def count_tokens(self, text: str) -> int:
        """Count tokens by the model's own tokenizer."""
        return len(self._tokenizer.encode(text))

    async def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text`, cut by the model's own tokenizer."""
        return self._tokenizer.first_tokens(text, count)

    async def decode(self, token_ids: TokenIds) -> str:
        """Return the text of token ids."""
        return self._tokenizer.decode(token_ids)

    async def aclose(self) -> None:
        """Fail what waits and runs, and free the model.

        A batch that runs ends at its next token, on its own thread, and keeps the model until then.
        """
        self._closed.set()
        self._network = None
        for waiting in self._waiting:
            if not waiting.answer.done():
                waiting.answer.set_exception(self._closed_error())
        self._waiting.clear()

    def __repr__(self) -> str:
        return f"TransformersEngine({self.model!r}, device={self._device!r})"

    def _closed_error(self) -> EngineError:
        return EngineError(f"{self.model}: closed; make a new Rank1 object")

    async def _work(self) -> None:
        """Run batch after batch until nothing waits."""
        while self._waiting:
            for _ in range(_TURNS_BETWEEN_BATCHES):
                await asyncio.sleep(0)
            batch = self._next_batch()
            if batch:
                await self._answer(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Return those of one kind that waited longest."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        if not self._waiting:
            return []
        kind = self._waiting[0].kind
        batch = [one for one in self._waiting if one.kind == kind][: self._batch_size]
        self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        network = self._network
        try:
            completions = await asyncio.to_thread(self._run, network, batch)
        except EngineError as error:
            _fail(batch, error)
            return
        except Exception as error:  # torch raises many kinds
            if len(batch) > 1:
                # One prompt that fails, or that was too much beside the others, fails alone.
                for one in batch:
                    await self._answer([one])
                return
            _fail(batch, EngineError(f"{self.model}: {error}"))
            return
        if self._closed.is_set():
            _fail(batch, self._closed_error())
            return
        for one, completion in zip(batch, completions, strict=True):
            if not one.answer.done():
                one.answer.set_result(completion)

    def _run(self, network: Any, batch: list[_Waiting]) -> list[Completion]:
        """Run one batch through the model, on a thread."""
        kind = batch[0].request
        stop_id = self._tokenizer.single_id(kind.stop) if kind.stop else None
        width = max(len(one.prompt_ids) for one in batch)
        padding = [width - len(one.prompt_ids) for one in batch]
        prompts = [
            [self._pad_id] * n + [*one.prompt_ids] for n, one in zip(padding, batch, strict=True)
        ]
        mask = [[0] * n + [1] * (width - n) for n in padding]
        criteria = transformers.StoppingCriteriaList([_Ended(batch, width, self._closed)])
        with torch.inference_mode():
            generated = network.generate(
                input_ids=torch.tensor(prompts, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                generation_config=self._generation_config(batch, stop_id),
                stopping_criteria=criteria,
                tokenizer=self._hf_tokenizer,
            )
        rows = generated.sequences[:, width:].tolist()
        logprobs = generated.logits[0].float().log_softmax(-1) if kind.labels else None
        return [
            self._read(one, rows[place], stop_id, None if logprobs is None else logprobs[place])
            for place, one in enumerate(batch)
        ]

    def _generation_config(
        self, batch: list[_Waiting], stop_id: int | None
    ) -> transformers.GenerationConfig:
        """Return the batch's configuration, without what a checkpoint's own may add."""
        request = batch[0].request
        return transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=max(one.request.max_tokens for one in batch),
            eos_token_id=self._end_ids if stop_id is None else [*self._end_ids, stop_id],
            pad_token_id=self._pad_id,
            stop_strings=request.stop if stop_id is None else None,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=bool(request.labels),
        )

    def _read(
        self, one: _Waiting, row: list[int], stop_id: int | None, logprobs: Any
    ) -> Completion:
        """Return the completion in a row of token ids, which other rows may have padded."""
        stop, ends = one.request.stop, {*self._end_ids, stop_id}
        ids = _until(row[: one.request.max_tokens], ends)
        is_eos = bool(ids) and ids[-1] in self._end_ids
        text = self._tokenizer.decode(ids[:-1] if is_eos else ids)
        is_stopped = stop is not None and stop in text
        # A stop text of several tokens can end inside the last of them.
        is_exact = not is_stopped or ids[-1] == stop_id
        return Completion(
            text=text.partition(stop)[0] if stop else text,
            ended="stop" if is_stopped else "eos" if is_eos else "length",
            prompt_ids=one.prompt_ids,
            token_ids=tuple(ids) if is_exact else None,
            prompt_tokens=len(one.prompt_ids),
            completion_tokens=len(ids),
            label_logprobs=self._label_logprobs(one.request.labels, logprobs),
        )

    def _label_logprobs(self, labels: tuple[str, ...], logprobs: Any) -> dict[str, float]:
        ids = self._tokenizer.label_ids(labels, model=self.model)
        return {label: float(logprobs[token]) for label, token in ids.items()}


class _Ended(transformers.StoppingCriteria):
    """Ends a row at its own token limit, and when its caller or the engine has gone."""

    def __init__(self, batch: list[_Waiting], width: int, closed: threading.Event) -> None:
        self._batch, self._width, self._closed = batch, width, closed

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        tokens = input_ids.shape[1] - self._width
        ended = [
            self._closed.is_set() or one.answer.done() or tokens >= one.request.max_tokens
            for one in self._batch
        ]
        return torch.tensor(ended, device=input_ids.device)


def _fail(batch: list[_Waiting], error: EngineError) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)


def _until(ids: list[int], ends: set[int | None]) -> list[int]:
    """Return the ids up to the first of `ends`, included."""
    return ids[: next((n + 1 for n, token in enumerate(ids) if token in ends), len(ids))]


def _load(model: str, dtype: str | None, device: str) -> tuple[Any, Any]:
    """Return tokenizer and network of a checkpoint, loaded without a progress bar."""
    logging: Any = transformers.utils.logging
    has_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        network, found = load(model, dtype=dtype or "auto", output_loading_info=True)
        if missing := sorted(found["missing_keys"]):
            # transformers would go on with random numbers in their place.
            raise ValueError(f"it lacks the weights {', '.join(missing[:3])}")
        network = network.to(device).eval()
    except Exception as error:
        # Loaders raise what their file formats raise; an ImportError names the library that a
        # quantized checkpoint needs.
        raise load_error(model, "transformers", error) from error
    finally:
        if has_bar:
            logging.enable_progress_bar()
    return tokenizer, network


def _end_ids(network: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a sequence, by the checkpoint and by its tokenizer."""
    known = network.generation_config.eos_token_id
    ids: Sequence[int | None] = known if isinstance(known, list) else [known]
    return list(dict.fromkeys(t for t in [*ids, tokenizer.eos_token_id] if t is not None))
