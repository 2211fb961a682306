"""What both framework adapters share: the settings of a reranker, and the reranker itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypedDict

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from rank1_integrations.config import Options, explain
from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.reranker import Rank1
from rank1_integrations.selection import Selection

_ARGUMENTS = {
    "server": (
        "base_url",
        "model",
        "api_key",
        "default_headers",
        "context_length",
        "tokenizer",
        "timeout",
        "max_retries",
    ),
    "vllm": ("model", "engine_args"),
    "transformers": ("model", "device", "dtype", "batch_size"),
    "demo": (),
}
"""The arguments of each backend's constructor, besides the options."""

_ALL_ARGUMENTS = frozenset(name for names in _ARGUMENTS.values() for name in names)
_DEFINING = frozenset({"rank1", "backend", *_ALL_ARGUMENTS, *Options.model_fields})
"""The settings that a reranker is made from. Another value needs another reranker."""


class SelectionArguments(TypedDict):
    """The arguments of `Rank1.rank` that say which passages to keep."""

    top_n: int | None
    score_threshold: float | None


Key = SecretStr | str | Callable[[], str]


def _as_secret(key: Key | None) -> Key | None:
    return SecretStr(key) if isinstance(key, str) else key


class Rank1Settings(Options):
    """Where the model runs, how passages are judged, and which of them are kept.

    Give either `rank1` or the other settings. `top_n` and `score_threshold` go with both.

    Arguments of a backend that are not given have the default of its constructor:
    `Rank1.from_server`, `Rank1.from_vllm` or `Rank1.from_transformers`.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_assignment=True,
    )

    rank1: Rank1 | None = Field(default=None, exclude=True, repr=False)
    """A reranker to share with other chains. Its owner closes it."""

    backend: Literal["server", "vllm", "transformers", "demo"] = "server"
    """Where the model runs: behind an OpenAI-compatible server, in this process on vLLM or
    transformers, or in this process as the small demonstration model."""

    base_url: str | None = None
    """server: its address, for instance "http://localhost:8000/v1"."""

    model: str | None = None
    """server: the name that the model is served under; None for the only one. vllm and
    transformers: a checkpoint's name on the hub, or its folder."""

    api_key: Annotated[Key | None, AfterValidator(_as_secret)] = Field(
        default=None, exclude=True, repr=False
    )
    """server: the key, or a function that is called for each request; None for `RANK1_API_KEY` of
    the environment, "" for no key. Never part of a serialized or pickled form."""

    default_headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)
    """server: HTTP headers of every request. Never part of a serialized or pickled form, as a
    header may hold a key."""

    context_length: int | None = None
    """server: tokens that the model reads, for a server that does not tell."""

    tokenizer: str | Path | None = None
    """server: the model's name on the hub, a folder that holds its tokenizer.json, or the path of
    that file, for a server without /tokenize."""

    timeout: float | None = 600.0
    """server: seconds for the answer to one request; None for no limit."""

    max_retries: int | None = None
    """server: how often a refused or dropped request is repeated."""

    engine_args: dict[str, Any] | None = None
    """vllm: fields of vLLM's `AsyncEngineArgs`, such as {"max_model_len": 16000}."""

    device: str | None = None
    """transformers: as torch names it ("cpu", "cuda:0")."""

    dtype: str | None = None
    """transformers: as torch names it ("bfloat16")."""

    batch_size: int | None = None
    """transformers: the most prompts that run through the model together."""

    top_n: int | None = None
    """The most passages to keep; None for all."""

    score_threshold: float | None = None
    """Keep passages with score >= threshold, before `top_n`; None for all."""

    _rank1: Rank1 = PrivateAttr()
    _owns_rank1: bool = PrivateAttr()

    # Type checkers take the signature from the fields.
    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            with _configuration_errors(type(self)):
                super().__init__(**settings)

    @classmethod
    def model_validate(cls, *args: Any, **kwargs: Any) -> Self:
        """Return the adapter that a mapping of settings describes.

        Raises:
            ConfigurationError: A setting can't work.
        """
        with _configuration_errors(cls):
            return super().model_validate(*args, **kwargs)

    @classmethod
    def model_validate_json(cls, *args: Any, **kwargs: Any) -> Self:
        """Return the adapter that a JSON text of settings describes.

        Raises:
            ConfigurationError: A setting can't work.
        """
        with _configuration_errors(cls):
            return super().model_validate_json(*args, **kwargs)

    @field_validator("top_n", "score_threshold")
    @classmethod
    def _check_selection(cls, value: Any, info: ValidationInfo) -> Any:
        Selection(**{str(info.field_name): value})
        return value

    def model_post_init(self, context: Any, /) -> None:
        """Make the reranker, so that a mistake shows here and not at the first query."""
        super().model_post_init(context)
        self._check_arguments()
        self._owns_rank1 = self.rank1 is None
        self._rank1 = self.rank1 or self._make_rank1()
        # Show the options that are used: a shared reranker's, or the demonstration model's own.
        for name in Options.model_fields.keys() - self.model_fields_set:
            object.__setattr__(self, name, getattr(self._rank1.options, name))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other settings.

        Args:
            update: The other settings. With one that defines the reranker, such as `thinking` or
                `base_url`, the copy makes and owns a reranker of its own. With others alone, such
                as `top_n`, it shares this object's reranker, and closing the copy does not close
                it.
            deep: Whether settings that are shared otherwise are copied too. Reranker, cache and
                callback are always shared.

        Raises:
            ConfigurationError: A setting can't work.
        """
        update = update or {}
        if not _DEFINING.isdisjoint(update):
            others = _DEFINING if "rank1" in update else frozenset()
            kept = {name: value for name, value in self._settings().items() if name not in others}
            return type(self)(**{**kept, **update})
        copy = super().model_copy(deep=deep)
        for name, value in update.items():
            setattr(copy, name, value)
        return copy

    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._owns_rank1 = False
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        # A cache or the object behind a function may hold files or locks.
        shared = (self.cache, self.on_judgments, self.api_key)
        memo |= {id(value): value for value in shared}
        copy = super().__deepcopy__(memo)
        copy._owns_rank1 = False
        return copy

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _DEFINING:
            raise ConfigurationError(
                f"{name} can't be changed after construction: make another object with "
                f"model_copy(update={{{name!r}: ...}})"
            )
        if name not in type(self).model_fields and not name.startswith("_"):
            raise ConfigurationError(
                f"{type(self).__name__} has no setting {name!r} (there are: "
                f"{', '.join(sorted(type(self).model_fields))})"
            )
        with _configuration_errors(type(self)):
            super().__setattr__(name, value)

    def __reduce__(self) -> Any:
        # LlamaIndex's own pickling leaves out whatever can't be pickled.
        if self.rank1 is not None:
            self.rank1.__reduce__()
        fields = type(self).model_fields
        settings = {
            name: value for name, value in self._settings().items() if not fields[name].exclude
        }
        return _remake, (type(self), settings)

    def close(self) -> None:
        """Free what the reranker holds, unless it is shared."""
        if self._owns_rank1:
            self._rank1.close()

    async def aclose(self) -> None:
        """Async version of `close`."""
        if self._owns_rank1:
            await self._rank1.aclose()

    def _selection(self) -> SelectionArguments:
        return {"top_n": self.top_n, "score_threshold": self.score_threshold}

    def _settings(self) -> dict[str, Any]:
        """Return the settings that were given, not those that have defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def _check_arguments(self) -> None:
        if self.rank1 is not None:
            if others := sorted(self.model_fields_set & (_DEFINING - {"rank1"})):
                raise ConfigurationError(
                    f"rank1= already decides {', '.join(others)}: give either rank1= or settings"
                )
            return
        for name in sorted(self.model_fields_set & _ALL_ARGUMENTS - {*_ARGUMENTS[self.backend]}):
            # Serialized settings hold the defaults of all arguments.
            if getattr(self, name) != type(self).model_fields[name].default:
                backends = [repr(backend) for backend, names in _ARGUMENTS.items() if name in names]
                raise ConfigurationError(
                    f"{name} has no effect with backend={self.backend!r}: leave it out, or use "
                    f"backend={' or '.join(backends)}"
                )
        if self.backend == "server" and self.base_url is None:
            raise ConfigurationError(
                "say where the model runs: base_url='http://localhost:8000/v1' for a server, "
                "backend='vllm' or 'transformers' with model=, or backend='demo'"
            )
        if self.backend in ("vllm", "transformers") and self.model is None:
            raise ConfigurationError(
                f"backend={self.backend!r} needs model=, for instance 'jhu-clsp/rank1-0.5b'"
            )

    def _make_rank1(self) -> Rank1:
        # Only what was given, so that a constructor's defaults stay its own.
        arguments = {
            name: value
            for name, value in self._settings().items()
            if name in Options.model_fields
            or (name in _ARGUMENTS[self.backend] and value != type(self).model_fields[name].default)
        }
        match self.backend:
            case "server":
                return Rank1.from_server(**arguments)
            case "vllm":
                return Rank1.from_vllm(**arguments)
            case "transformers":
                return Rank1.from_transformers(**arguments)
            case "demo":
                return Rank1.demo(**arguments)


def flat_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as vector stores take it that allow no nested values, such as Chroma.

    `rank1` becomes a JSON text, and a score that is None is left out. Everything else stays.

    Args:
        metadata: Of a document or node that was kept or dropped.
    """
    flat = dict(metadata)
    if "rank1" in flat:
        flat["rank1"] = json.dumps(flat["rank1"])
    for name in ("relevance_score", "retrieval_score"):
        if name in flat and flat[name] is None:
            del flat[name]
    return flat


@contextmanager
def _configuration_errors(settings: type[BaseModel]) -> Iterator[None]:
    """Raise a ConfigurationError for what pydantic finds wrong."""
    try:
        yield
    except ValidationError as error:
        known = sorted(settings.model_fields)
        raise ConfigurationError(explain(error, known=known)) from None


def _remake(settings_class: type[Rank1Settings], settings: dict[str, Any]) -> Rank1Settings:
    return settings_class(**settings)
