"""Policies: named sets of `Rank1` options, written `NAME:option=value,...`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rank1_integrations.config import Adaptive, Options, explain
from rank1_integrations.exceptions import ConfigurationError

FIXED = ("on_error", "on_judgments", "cache", "cache_namespace")
"""Options that the evaluation sets itself."""

_ADAPTIVE = tuple(field.name for field in fields(Adaptive))
_NAME = re.compile(r"\w[\w.-]*")
_NEXT_OPTION = re.compile(r",\s*(?=\w+\s*=)")


@dataclass(frozen=True)
class Policy:
    """A named set of options.

    Attributes:
        name: For tables, plots and file names.
        settings: Names and values as they were written: fields of `Options`, and those of
            `Adaptive` beside thinking=adaptive.
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments for `Rank1`, not checked."""
        options: dict[str, Any] = {
            name: value for name, value in self.settings.items() if name not in _ADAPTIVE
        }
        adaptive = {name: value for name, value in self.settings.items() if name in _ADAPTIVE}
        if adaptive:
            if options.get("thinking") != "adaptive":
                raise ConfigurationError(f"{', '.join(adaptive)}: only with thinking=adaptive")
            options["thinking"] = _adaptive(adaptive)
        return options

    def check(self) -> None:
        """Raise a ConfigurationError if the settings can't work."""
        if wrong := [name for name in self.settings if name in FIXED]:
            raise ConfigurationError(f"policy {self}: {wrong[0]} can't be part of a policy")
        try:
            Options(**self.options)
        except ValidationError as error:
            known = sorted({*Options.model_fields, *_ADAPTIVE} - {*FIXED})
            raise ConfigurationError(f"policy {self}: {explain(error, known=known)}") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"policy {self}: {error}") from None

    def __str__(self) -> str:
        return f"{self.name}:" + ",".join(f"{name}={text}" for name, text in self.settings.items())


def _adaptive(settings: dict[str, str]) -> Adaptive:
    try:
        return TypeAdapter(Adaptive).validate_python(settings)
    except ValidationError as error:
        raise ConfigurationError(explain(error, known=_ADAPTIVE)) from None


DEFAULTS = (
    Policy("full", {"thinking": "full"}),
    Policy("adaptive", {"thinking": "adaptive"}),
    Policy("adaptive-wide", {"thinking": "adaptive", "max_share": "0.67"}),
    Policy("adaptive-careful", {"thinking": "adaptive", "confidence": "0.99"}),
    Policy("brief", {"thinking": "full", "max_reasoning_tokens": "128"}),
    Policy("none", {"thinking": "none"}),
)
"""The policies if none is named. The first is the baseline."""


def parse_policies(texts: Iterable[str]) -> list[Policy]:
    """Return the policies of a command line; the defaults if it has none.

    Args:
        texts: Each the name of a default policy, or `NAME:option=value,...`. A value may hold
            commas, as long as no `word=` follows one.

    Raises:
        ConfigurationError: A policy is malformed or unknown, or two have the same name.
    """
    policies = [parse_policy(text) for text in texts] or list(DEFAULTS)
    names = [policy.name for policy in policies]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two policies are named {name!r}: give each its own name")
    return policies


def parse_policy(text: str) -> Policy:
    """Return one policy, written as for `parse_policies`."""
    name, colon, settings = text.partition(":")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"policy {text!r}: expected NAME:option=value,... with a name of letters, digits, "
            "'_', '.' and '-'"
        )
    if not colon:
        return _default(name)
    policy = Policy(name, _parse_settings(text, settings))
    policy.check()
    return policy


def _parse_settings(text: str, settings: str) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for part in _NEXT_OPTION.split(settings):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigurationError(f"policy {text!r}: {part!r} is not of the form option=value")
        if option in parsed:
            raise ConfigurationError(f"policy {text!r}: {option} is repeated")
        parsed[option] = value
    return parsed


def _default(name: str) -> Policy:
    for policy in DEFAULTS:
        if policy.name == name:
            return policy
    known = ", ".join(policy.name for policy in DEFAULTS)
    raise ConfigurationError(
        f"there is no policy {name!r} (there are: {known}); another one is written "
        f"{name}:option=value,..."
    )
