"""Options that can't work are refused when the object is made, with all mistakes named."""

from __future__ import annotations

import functools
import math
from typing import Any, get_args

import pytest

from rank1_integrations import Adaptive, ConfigurationError
from rank1_integrations.config import Options, RankOptions

BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"thinkin": "full"}, r"unknown option 'thinkin' \(there are: .*thinking"),
    ({"samples": 3}, "unknown option 'samples'"),
    ({"timeout": 3}, "unknown option 'timeout'"),
    ({"thinking": "deep"}, "thinking: Input should be 'full', 'none' or 'adaptive'"),
    ({"max_reasoning_tokens": 0}, "max_reasoning_tokens: .*greater than or equal to 1"),
    ({"max_reasoning_tokens": 1.5}, "max_reasoning_tokens: .*valid integer"),
    ({"max_concurrency": -1}, "max_concurrency: .*greater than or equal to 1"),
    ({"on_error": "ignore"}, "on_error: Input should be 'raise', 'keep' or 'drop'"),
    ({"relevance": "cats"}, "relevance must hold"),
    ({"relevance": 3}, "relevance: .*valid string"),
    ({"instruction": 3}, "instruction: .*valid string"),
    ({"deadline": 0}, "deadline: .*greater than 0"),
    ({"deadline": math.inf}, "deadline: .*finite number"),
    ({"deadline": math.nan}, "deadline: .*finite number"),
    ({"enough": 0}, "enough: .*greater than or equal to 1"),
    ({"straggler": 0.5}, "straggler: .*greater than or equal to 1"),
    ({"straggler": math.inf}, "straggler: .*finite number"),
    ({"straggler": math.nan}, "straggler: .*finite number"),
    ({"straggler": "never"}, "straggler: .*'auto'"),
    ({"cache": "a folder"}, "cache must be a writable mapping .* it is str"),
    ({"cache_namespace": None}, "cache_namespace: .*valid string"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_an_option_that_can_not_work_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Options.check(options)


def test_all_mistakes_are_named_together() -> None:
    wrong: Any = {"enough": 0, "deadline": -1, "on_eror": "keep"}
    with pytest.raises(ConfigurationError) as error:
        Options.check(wrong)
    for name in wrong:
        assert name in str(error.value)


def test_a_refusal_does_not_repeat_the_value() -> None:
    """It could be a secret that was passed under a wrong name."""
    with pytest.raises(ConfigurationError) as error:
        Options.check({"api_key": "sk-secret", "enough": "sk-secret"})  # type: ignore[typeddict-unknown-key,typeddict-item]
    assert "sk-secret" not in str(error.value)


def test_the_typed_keyword_arguments_are_the_options() -> None:
    assert RankOptions.__annotations__.keys() == Options.model_fields.keys()
    for name, field in Options.model_fields.items():
        assert not field.is_required(), name


# Adaptive


def test_adaptive_alone_has_default_settings() -> None:
    assert Options(thinking="adaptive").adaptive == Adaptive()
    assert Options(thinking=Adaptive(max_share=0.5)).adaptive == Adaptive(max_share=0.5)
    assert Options(thinking="full").adaptive is None
    assert Options(thinking="none").adaptive is None


@pytest.mark.parametrize("max_share", [0, -0.1, 1.1, math.nan, math.inf, "0.3", None])
def test_a_share_of_adaptive_outside_its_range_is_refused(max_share: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"max_share must be in \(0, 1\]"):
        Adaptive(max_share=max_share)


@pytest.mark.parametrize("confidence", [0.5, 1, 0, math.nan, "0.9", None])
def test_a_confidence_of_adaptive_outside_its_range_is_refused(confidence: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"confidence must be in \(0.5, 1\)"):
        Adaptive(confidence=confidence)


@pytest.mark.parametrize("probe_every", [0, -1, 1.5, math.nan, math.inf, "48", None])
def test_a_probe_interval_of_adaptive_that_is_no_positive_integer_is_refused(
    probe_every: Any,
) -> None:
    with pytest.raises(ConfigurationError, match="probe_every must be an integer of at least 1"):
        Adaptive(probe_every=probe_every)


def test_the_margin_is_the_confidence_in_log_odds() -> None:
    assert Adaptive(confidence=0.9).margin == pytest.approx(math.log(9))


# The straggler limit


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, None),
        ({"thinking": "none"}, None),
        ({"thinking": "adaptive"}, 4.0),
        ({"thinking": Adaptive()}, 4.0),
        ({"deadline": 5}, 4.0),
        ({"deadline": 5, "straggler": None}, None),
        ({"straggler": 2}, 2.0),
        ({"thinking": "adaptive", "straggler": 8.5}, 8.5),
    ],
)
def test_stragglers_are_limited_under_adaptive_and_deadline_alone(
    options: Any, factor: float | None
) -> None:
    assert Options.check(options).straggler_factor == factor


# on_judgments


async def observe(*_: Any) -> None:
    """Stand for a coroutine function."""


class AsyncObserver:
    async def __call__(self, *_: Any) -> None:
        """Stand for an object whose call is a coroutine function."""

    async def method(self, *_: Any) -> None:
        """Stand for a method that is a coroutine function."""


class Observer:
    def __call__(self, *_: Any) -> None:
        """Stand for an object that can be called."""


@pytest.mark.parametrize(
    "callback",
    [
        observe,
        functools.partial(observe, 1),
        functools.partial(functools.partial(observe, 1), 2),
        AsyncObserver(),
        AsyncObserver().method,
        functools.partial(AsyncObserver(), 1),
    ],
)
def test_an_asynchronous_observer_is_refused_in_every_form(callback: Any) -> None:
    """It would never run: synchronous callers have nothing that awaits it."""
    with pytest.raises(ConfigurationError, match="must not be an async function"):
        Options.check({"on_judgments": callback})


@pytest.mark.parametrize("callback", [print, Observer(), functools.partial(print, 1), None])
def test_a_synchronous_observer_is_taken(callback: Any) -> None:
    assert Options.check({"on_judgments": callback}).on_judgments is callback


@pytest.mark.parametrize("callback", ["print", 3])
def test_an_observer_that_can_not_be_called_is_refused(callback: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_judgments must be a function"):
        Options.check({"on_judgments": callback})


# Serializing


def test_cache_and_observer_are_neither_shown_nor_serialized() -> None:
    options = Options(cache={"a secret": "x"}, on_judgments=print)
    assert "a secret" not in repr(options)
    assert not {"cache", "on_judgments"} & options.model_dump().keys()


def test_the_users_mapping_itself_is_the_cache() -> None:
    cache: dict[str, str] = {}
    assert Options(cache=cache).cache is cache


def test_the_modes_are_those_of_the_documentation() -> None:
    modes, adaptive = get_args(Options.model_fields["thinking"].annotation)
    assert {*get_args(modes)} == {"full", "none", "adaptive"}
    assert adaptive is Adaptive
