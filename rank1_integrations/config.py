"""The options of a `Rank1` object, the same wherever they are given, checked once."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    model_validator,
)

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.prompt import check_relevance

Cache = MutableMapping[str, str]
OnJudgments = Callable[[str, list[str], list[Judgment]], None]


def _checked_cache(cache: Any) -> Any:
    if cache is not None and not (hasattr(cache, "__getitem__") and hasattr(cache, "__setitem__")):
        raise ConfigurationError(
            "cache must be a mapping from texts to texts that can be written to, such as a dict; "
            f"it is {type(cache).__name__}"
        )
    return cache


def _checked_relevance(relevance: str | None) -> str | None:
    check_relevance(relevance)
    return relevance


class Options(BaseModel):
    """How passages are judged, and what a failure means."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    thinking: Literal["full", "none", "adaptive"] = "full"
    """"full": the model thinks, then answers. "none": it answers at once, in one token.
    "adaptive": it answers at once, and thinks where that leaves open what will be kept, until
    the answer is plain."""

    max_reasoning_tokens: int = Field(default=8192, ge=1)
    """The longest thought, in tokens; where it ends unfinished, the verdict is forced."""

    relevance: Annotated[str | None, AfterValidator(_checked_relevance)] = None
    """What counts as relevant: a text with `{query}` in it that is asked instead of the query."""

    samples: int = Field(default=1, ge=1)
    """How many thoughts are sampled for a passage, to take the mean of their log-odds; 1 for the
    likeliest thought alone. For quality, at so many times the cost."""

    step_tokens: int = Field(default=48, ge=1)
    """Tokens of thought between two moments at which it may be cut; for "adaptive", between two
    looks at where the answer stands, and for `deadline` also what a cut may lose."""

    adaptive_share: float = Field(default=0.3, gt=0, le=1)
    """For "adaptive": at most this share of a query's passages, and one at least, is thought
    about: the best ones by direct verdict and retriever together; where only a threshold decides,
    those nearest to it."""

    adaptive_sure: float = Field(default=0.95, gt=0.5, lt=1)
    """For "adaptive": a passage is plain when it lies as far from what decides (the threshold, the
    last place kept) as this score lies from 0.5, measured in log-odds."""

    deadline: float | None = Field(default=None, gt=0)
    """Seconds for a whole query; None for no limit. Every passage gets a direct verdict first, then
    thoughts. When time is nearly over, these are cut and their verdicts asked for; what then still
    has no verdict is "skipped", and treated as `on_error` says."""

    enough: int | None = Field(default=None, ge=1)
    """Stop when so many passages have reached `score_threshold` (0.5 if none is given). Passages
    are judged in the retriever's order; the rest is "skipped", and not returned by `rank`."""

    max_concurrency: int = Field(default=64, ge=1)
    """How many passages are thought about at the same time, over all callers of the object; and
    how many direct verdicts are asked for beside them."""

    timeout: float | None = Field(default=600.0, gt=0)
    """Seconds that one request to the engine may take; None for no limit."""

    max_retries: int = Field(default=2, ge=0)
    """How often a request that a server failed, refused as too many, or dropped is repeated."""

    on_error: Literal["raise", "keep", "drop"] = "raise"
    """A passage that could not be judged: raise the error; keep the passage, unscored, behind
    the judged ones; or drop it."""

    cache: Annotated[SkipValidation[Cache | None], AfterValidator(_checked_cache)] = Field(
        default=None, exclude=True, repr=False
    )
    """Where judgments are remembered: a dict, or any mapping from text to text, such as a
    persistent one. Used on one thread, that of the background loop. Never serialized."""

    on_judgments: OnJudgments | None = Field(default=None, exclude=True, repr=False)
    """Called with query, passages and all judgments in the passages' order, the dropped ones'
    too, each time passages were judged; in the caller's own thread. Never serialized."""

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.samples > 1 and self.thinking != "full":
            raise ConfigurationError(
                "samples above 1 are thoughts heard to their end: they need thinking='full'"
            )
        return self

    @classmethod
    def check(cls, options: dict[str, Any]) -> Self:
        """Options from keyword arguments.

        Raises:
            ConfigurationError: A name is unknown or a value can't work; all of them are named.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise ConfigurationError(_explain(error, known=sorted(cls.model_fields))) from None


def check_cut(top_n: int | None, score_threshold: float | None) -> None:
    """Refuse a cut that would keep nothing or everything by mistake.

    Raises:
        ConfigurationError: `top_n` is below 1, or `score_threshold` outside [0, 1].
    """
    if top_n is not None and top_n < 1:
        raise ConfigurationError(f"top_n must be at least 1, or None to keep all; it is {top_n}")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ConfigurationError(
            f"score_threshold must be between 0 and 1, or None; it is {score_threshold}"
        )


def _explain(error: ValidationError, *, known: list[str]) -> str:
    problems = []
    for detail in error.errors():
        name = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            problems.append(f"unknown option {name!r} (there are: {', '.join(known)})")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {message}" if name else message)
    return "; ".join(problems)
