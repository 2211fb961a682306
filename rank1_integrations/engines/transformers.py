"""A model in this process, on CPU or GPU, through Hugging Face transformers.

For trying things out and for machines without vLLM: prompts that wait at the same time run as
one batch, but a batch ends with its longest thought.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

from rank1_integrations.engines.base import Completion, Engine, Request, TokenIds
from rank1_integrations.engines.tokenizer import beginning
from rank1_integrations.exceptions import ConfigurationError, EngineError, MissingExtraError

try:
    import torch
    import transformers
except ImportError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from None


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Request
    prompt_ids: TokenIds
    answer: asyncio.Future[Completion]


class TransformersEngine(Engine):
    """A causal language model, loaded by transformers, that completes prompts in batches."""

    def __init__(
        self,
        model: str,
        *,
        device: str | None,
        dtype: str | None,
        batch_size: int,
        timeout: float | None,
    ) -> None:
        """Load the model.

        Args:
            model: A checkpoint's name on the hub, or its folder.
            device: As torch names it; None for a GPU if there is one.
            dtype: As torch names it; None for the checkpoint's own.
            batch_size: How many prompts run together at most.
            timeout: Seconds that one request may wait and run; None for no limit.

        Raises:
            ConfigurationError: The checkpoint, device or dtype can't be used.
        """
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1; it is {batch_size}")
        self.model = model
        self._batch_size = batch_size
        self._timeout = timeout
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer, self._network = _load(model, dtype, self._device)
        self._end_ids = _end_ids(self._network, self._tokenizer)
        self.context_length = getattr(
            self._network.config.get_text_config(), "max_position_embeddings", None
        )
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._closed = threading.Event()

    async def start(self) -> None:
        """Nothing is left to do: the model was loaded when the engine was made."""

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt, in a batch with those that wait at the same time."""
        ids = self._encode(request.prompt) if isinstance(request.prompt, str) else request.prompt
        waiting = _Waiting(request, ids, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            async with asyncio.timeout(self._timeout):
                return await waiting.answer
        except TimeoutError:
            raise EngineError(
                f"{self.model}: no answer within {self._timeout} s: raise timeout=, or lower "
                "max_concurrency= or max_reasoning_tokens="
            ) from None

    async def count_tokens(self, text: str) -> int:
        """Tokens by the model's own tokenizer."""
        return len(self._encode(text))

    async def first_tokens(self, text: str, count: int) -> str:
        """The beginning of `text`, to where its token number `count` ends."""
        return beginning(self._tokenizer, text, count)

    async def aclose(self) -> None:
        """Stop what runs at its next token and free the model."""
        self._closed.set()
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)
        self._network = None

    def __repr__(self) -> str:
        return f"TransformersEngine({self.model!r}, device={self._device!r})"

    def _encode(self, text: str) -> TokenIds:
        return tuple(self._tokenizer(text, verbose=False)["input_ids"])

    def _single_id(self, text: str) -> int | None:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[0] if len(ids) == 1 else None

    async def _work(self) -> None:
        """Run batch after batch until nothing waits."""
        while self._waiting:
            # Callers that were just answered get to ask for their next step first.
            await asyncio.sleep(0.001)
            batch = self._next_batch()
            if batch:
                await self._answer(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Those that waited longest, of one kind: thoughts or verdicts, greedy or sampled."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        if not self._waiting:
            return []
        first = _kind(self._waiting[0].request)
        batch = [one for one in self._waiting if _kind(one.request) == first][: self._batch_size]
        self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            completions = await asyncio.to_thread(self._run, batch)
        except Exception as error:  # torch raises many kinds
            if len(batch) > 1:
                # One prompt that fails, or that was too much beside the others, fails alone.
                for one in batch:
                    await self._answer([one])
                return
            if not batch[0].answer.done():
                batch[0].answer.set_exception(EngineError(f"{self.model}: {error}"))
            return
        for one, completion in zip(batch, completions, strict=True):
            if not one.answer.done():
                one.answer.set_result(completion)

    def _run(self, batch: list[_Waiting]) -> list[Completion]:
        """One batch through the model, on a thread of its own."""
        kind = batch[0].request
        stop_id = self._single_id(kind.stop) if kind.stop else None
        width = max(len(one.prompt_ids) for one in batch)
        pad_id = self._pad_id()
        prompts = [[pad_id] * (width - len(one.prompt_ids)) + [*one.prompt_ids] for one in batch]
        mask = [[0] * (width - len(one.prompt_ids)) + [1] * len(one.prompt_ids) for one in batch]
        criteria = transformers.StoppingCriteriaList([_Ended(batch, width, self._closed)])
        if kind.temperature:
            torch.manual_seed(kind.seed or 0)
        with torch.inference_mode():
            generated = self._network.generate(
                input_ids=torch.tensor(prompts, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                generation_config=self._generation_config(batch, stop_id),
                stopping_criteria=criteria,
                tokenizer=self._tokenizer,
            )
        rows = generated.sequences[:, width:].tolist()
        logprobs = generated.logits[0].float().log_softmax(-1) if kind.labels else None
        return [
            self._read(one, rows[place], stop_id, None if logprobs is None else logprobs[place])
            for place, one in enumerate(batch)
        ]

    def _pad_id(self) -> int:
        known = [self._tokenizer.pad_token_id, *self._end_ids]
        return next((token for token in known if token is not None), 0)

    def _generation_config(
        self, batch: list[_Waiting], stop_id: int | None
    ) -> transformers.GenerationConfig:
        """The request's own, without what a checkpoint's own configuration may add to it."""
        kind = batch[0].request
        is_sampled = kind.temperature > 0
        return transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            # Of the whole distribution; transformers warns of these where nothing is sampled.
            **({"temperature": kind.temperature, "top_k": 0, "top_p": 1.0} if is_sampled else {}),
            do_sample=is_sampled,
            max_new_tokens=max(one.request.max_tokens for one in batch),
            eos_token_id=self._end_ids if stop_id is None else [*self._end_ids, stop_id],
            pad_token_id=self._pad_id(),
            stop_strings=kind.stop if stop_id is None else None,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=bool(kind.labels),
        )

    def _read(
        self, one: _Waiting, row: list[int], stop_id: int | None, logprobs: Any
    ) -> Completion:
        """The completion in a row of token ids, which other rows of the batch may have padded."""
        request = one.request
        ids, ends = row[: request.max_tokens], {*self._end_ids, stop_id}
        last = next((n for n, token in enumerate(ids) if token in ends), None)
        if last is not None:
            ids = ids[: last + 1]
        visible = ids[:-1] if ids and ids[-1] in self._end_ids else ids
        text: str = self._tokenizer.decode(
            visible, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        stopped = request.stop is not None and request.stop in text
        exact = not stopped or ids[-1] == stop_id
        text = text.partition(request.stop)[0] if request.stop else text
        asked = request.prompt if isinstance(request.prompt, str) else ""
        return Completion(
            text=text,
            stopped=stopped,
            unfinished=not stopped and last is None,
            continuation=(*one.prompt_ids, *ids) if exact else f"{asked}{text}{request.stop or ''}",
            tokens=len(ids),
            prompt_tokens=len(one.prompt_ids),
            label_logprobs=self._label_logprobs(request.labels, logprobs),
        )

    def _label_logprobs(self, labels: tuple[str, ...], logprobs: Any) -> dict[str, float]:
        found = {}
        for label in labels:
            token = self._single_id(label)
            if token is None:
                raise EngineError(
                    f"{label!r} is not one token of {self.model}: is this a Rank1 model?"
                )
            found[label] = float(logprobs[token])
        return found


def _kind(request: Request) -> tuple[object, ...]:
    """What must be the same for all requests of a batch."""
    return request.stop, request.labels, request.temperature, request.seed


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


def _load(model: str, dtype: str | None, device: str) -> tuple[Any, Any]:
    """Tokenizer and network of a checkpoint, without a progress bar."""
    logging: Any = transformers.utils.logging
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        network = load(model, dtype=dtype or "auto").to(device).eval()
    except (OSError, ValueError, RuntimeError, AttributeError, ImportError) as error:
        # ImportError names the library that a quantized checkpoint needs.
        raise ConfigurationError(f"can't load {model!r}: {error}") from error
    finally:
        if bar:
            logging.enable_progress_bar()
    return tokenizer, network


def _end_ids(network: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a sequence, as the checkpoint and its tokenizer have it."""
    known = network.generation_config.eos_token_id
    ids = known if isinstance(known, list) else [known]
    return list(dict.fromkeys(t for t in [*ids, tokenizer.eos_token_id] if t is not None))
