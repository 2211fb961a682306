"""The options of a `Rank1` object: typed for editors, checked once, the same everywhere."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
)

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.prompt import check_relevance

Cache = MutableMapping[str, str]
OnJudgments = Callable[[str, list[str], list[Judgment]], None]


@dataclass(frozen=True, slots=True)
class Adaptive:
    """`thinking="adaptive"` with other settings than the default ones.

    Attributes:
        max_share: The largest share of a query's passages that get reasoning, in (0, 1]; one
            passage at least.
        confidence: A verdict is clear when it is as far from what decides (the threshold, the last
            place kept) as this score is from 0.5, in log-odds. If only a threshold decides: when
            reasoning would leave it on its side with this probability, by the spread of what
            reasoning changed on the query. In (0.5, 1).
        probe_every: Tokens of reasoning between two probes of the verdict.

    Raises:
        ConfigurationError: A value is outside its range.
    """

    max_share: float = 0.3
    confidence: float = 0.95
    probe_every: int = 48

    def __post_init__(self) -> None:
        if not (_is_number(self.max_share) and 0 < self.max_share <= 1):
            raise ConfigurationError(f"max_share must be in (0, 1]; it is {self.max_share!r}")
        if not (_is_number(self.confidence) and 0.5 < self.confidence < 1):
            raise ConfigurationError(f"confidence must be in (0.5, 1); it is {self.confidence!r}")
        if not (isinstance(self.probe_every, int) and self.probe_every >= 1):
            raise ConfigurationError(
                f"probe_every must be an integer of at least 1; it is {self.probe_every!r}"
            )

    @property
    def margin(self) -> float:
        """`confidence` in log-odds."""
        return math.log(self.confidence / (1 - self.confidence))


class RankOptions(TypedDict, total=False):
    """The keyword arguments of every `Rank1` constructor; `Options` describes them."""

    thinking: Literal["full", "none", "adaptive"] | Adaptive
    max_reasoning_tokens: int
    relevance: str | None
    instruction: str | None
    deadline: float | None
    enough: int | None
    straggler: float | Literal["auto"] | None
    max_concurrency: int
    on_error: Literal["raise", "keep", "drop"]
    cache: Cache | None
    cache_namespace: str
    on_judgments: OnJudgments | None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _checked_cache(cache: Any) -> Any:
    if cache is not None and not (hasattr(cache, "__getitem__") and hasattr(cache, "__setitem__")):
        raise ConfigurationError(
            "cache must be a writable mapping from str to str, such as a dict; "
            f"it is {type(cache).__name__}"
        )
    return cache


def _checked_relevance(relevance: str | None) -> str | None:
    check_relevance(relevance)
    return relevance


def _checked_callback(callback: Any) -> Any:
    if callback is not None and not callable(callback):
        raise ConfigurationError(
            f"on_judgments must be a function; it is {type(callback).__name__}"
        )
    function = callback
    while isinstance(function, functools.partial):
        function = function.func
    if any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None)))):  # noqa: B004
        raise ConfigurationError(
            "on_judgments must not be an async function: it is called from synchronous code too. "
            "Pass a function that schedules the work, for instance with loop.create_task"
        )
    return callback


class Options(BaseModel):
    """How passages are judged, and what a failure means."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    thinking: Literal["full", "none", "adaptive"] | Adaptive = "full"
    """"full": the model reasons, then answers. "none": it answers at once, with one token.
    "adaptive": it answers at once, then reasons about the passages whose verdict can change what
    is kept, until the verdict is clear. `Adaptive(...)` changes the settings of "adaptive"."""

    max_reasoning_tokens: int = Field(default=8192, ge=1)
    """Longest reasoning about one passage, in tokens. Longer reasoning is cut and the verdict
    forced."""

    relevance: Annotated[str | None, AfterValidator(_checked_relevance)] = None
    """Definition of relevance: a text with `{query}` in it that replaces the query in the
    prompt."""

    instruction: str | None = None
    """Further condition for every query, appended to it, as mteb appends instructions."""

    deadline: float | None = Field(default=None, gt=0)
    """Seconds for a whole query; None for no limit. All passages get a direct verdict first, then
    reasoning. Just before the deadline, reasoning is cut and its verdicts forced. A passage
    without any verdict by then is "skipped": unscored, behind the others, or dropped if `on_error`
    is "drop"."""

    enough: int | None = Field(default=None, ge=1)
    """Stop when this many passages have reached `score_threshold` (0.5 if none is given), and
    return no more than these. Passages are judged in the retriever's order. The rest is "skipped"
    and not kept."""

    straggler: Annotated[float, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Reasoning about one passage may be at most this many times as long as the median of the
    query's finished ones, then the verdict is forced. "auto": 4 with "adaptive" or `deadline`, no
    limit otherwise. None for no limit."""

    max_concurrency: int = Field(default=64, ge=1)
    """Most passages in work at the same time, over all callers of the object."""

    on_error: Literal["raise", "keep", "drop"] = "raise"
    """For a passage that the engine failed to judge: raise the error; keep the passage, unscored,
    behind the others; or drop it."""

    cache: Annotated[SkipValidation[Cache | None], AfterValidator(_checked_cache)] = Field(
        default=None, exclude=True, repr=False
    )
    """Where judgments are cached: a dict, or any mapping from str to str, such as a persistent
    one. Used on one thread of its own. Never serialized."""

    cache_namespace: str = ""
    """Part of every cache key. Change it when another checkpoint is served under the same
    name."""

    on_judgments: Annotated[
        SkipValidation[OnJudgments | None], AfterValidator(_checked_callback)
    ] = Field(default=None, exclude=True, repr=False)
    """Called after each query with query, passages and all judgments in the passages' order, in
    the caller's thread. Never serialized."""

    @classmethod
    def check(cls, options: RankOptions) -> Self:
        """Return the options that keyword arguments describe.

        Raises:
            ConfigurationError: A name is unknown or a value can't work. The message names all.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise ConfigurationError(explain(error, known=sorted(cls.model_fields))) from None

    @property
    def adaptive(self) -> Adaptive | None:
        """The settings of adaptive reasoning; None for another mode."""
        if self.thinking == "adaptive":
            return Adaptive()
        return self.thinking if isinstance(self.thinking, Adaptive) else None

    @property
    def straggler_factor(self) -> float | None:
        """`straggler` as a number; None for no limit."""
        if self.straggler != "auto":
            return self.straggler
        return 4.0 if self.adaptive or self.deadline is not None else None


def explain(error: ValidationError, *, known: Sequence[str]) -> str:
    """Return what pydantic found wrong, as one sentence for each argument.

    Args:
        error: Of a model's validation.
        known: The names of all arguments.
    """
    problems = []
    for detail in error.errors():
        # What follows the name is pydantic's own: the branches of a union.
        name = str(detail["loc"][0]) if detail["loc"] else ""
        if detail["type"] == "extra_forbidden":
            problems.append(f"unknown option {name!r} (there are: {', '.join(known)})")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {message}" if name else message)
    return "; ".join(problems)
