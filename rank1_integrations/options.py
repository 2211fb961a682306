"""The options of a `Rank1` object, the same wherever they are given, checked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rank1_integrations.errors import ConfigurationError
from rank1_integrations.judgment import Judgment
from rank1_integrations.procedure import Thinking
from rank1_integrations.prompt import check_relevance

OnJudgments = Callable[[str, list[str], list[Judgment]], None]


def _checked_relevance(relevance: str | None) -> str | None:
    check_relevance(relevance)
    return relevance


class Options(BaseModel):
    """How passages are judged, and what a failure means."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    thinking: Thinking = "full"
    """"full": the model thinks, then answers. "none": it answers at once, in one token."""

    max_reasoning_tokens: int = Field(default=8192, ge=1)
    """The longest thought, in tokens; where it ends unfinished, the verdict is forced."""

    relevance: Annotated[str | None, AfterValidator(_checked_relevance)] = None
    """What counts as relevant: a text with `{query}` in it that is asked instead of the query."""

    max_concurrency: int = Field(default=64, ge=1)
    """How many passages are judged at the same time, over all callers of the object."""

    timeout: float | None = Field(default=600.0, gt=0)
    """Seconds that one request to the engine may take; None for no limit."""

    max_retries: int = Field(default=2, ge=0)
    """How often a request that a server failed, refused as too many, or dropped is repeated."""

    on_error: Literal["raise", "keep", "drop"] = "raise"
    """A passage that could not be judged: raise the error; keep the passage, unscored, behind
    the judged ones; or drop it."""

    on_judgments: OnJudgments | None = Field(default=None, exclude=True, repr=False)
    """Called with query, passages and all judgments in the passages' order, the dropped ones'
    too, each time passages were judged; in the caller's own thread. Never serialized."""

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
