"""Policies: nothing but named sets of `Rank1` options, written `NAME:option=value,...`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from rank1_integrations.config import Options
from rank1_integrations.exceptions import ConfigurationError

# They decide how the engine is called, or how this experiment counts, so no policy has its own.
COMMON = ("timeout", "max_retries")
FIXED = ("on_error", "on_judgments", "cache")

_NAME = re.compile(r"\w[\w.-]*")
_NEXT_OPTION = re.compile(r",\s*(?=\w+\s*=)")


@dataclass(frozen=True)
class Policy:
    """A way to judge.

    Attributes:
        name: For tables, plots and file names.
        options: Names and values of `Options`, as they were written.
    """

    name: str
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}:" + ",".join(f"{name}={text}" for name, text in self.options.items())


DEFAULTS = (
    Policy("full", {"thinking": "full"}),
    Policy("adaptive", {"thinking": "adaptive"}),
    Policy("adaptive-wide", {"thinking": "adaptive", "adaptive_share": "0.67"}),
    Policy("adaptive-careful", {"thinking": "adaptive", "adaptive_sure": "0.99"}),
    Policy("brief", {"thinking": "full", "max_reasoning_tokens": "128"}),
    Policy("none", {"thinking": "none"}),
)
"""What is tried when no policy is named; the first is what the others are compared with."""


def parse_policies(texts: Iterable[str]) -> list[Policy]:
    """Policies from the command line; the defaults if there are none.

    Args:
        texts: Each the name of a default policy, or `NAME:option=value,...`. A value may hold
            commas, as long as no `word=` follows one.

    Raises:
        ConfigurationError: A policy is malformed, unknown or named twice.
    """
    policies = [parse_policy(text) for text in texts] or list(DEFAULTS)
    names = [policy.name for policy in policies]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two policies are named {name!r}: give each its own name")
    return policies


def parse_policy(text: str) -> Policy:
    """One policy, as `parse_policies` reads it."""
    name, colon, written = text.partition(":")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"policy {text!r}: expected NAME:option=value,... with a name of letters, digits, "
            "'_', '.' and '-'"
        )
    if not colon:
        return _default(name)
    options: dict[str, str] = {}
    for part in _NEXT_OPTION.split(written):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigurationError(f"policy {text!r}: {part!r} is not of the form option=value")
        if option in options:
            raise ConfigurationError(f"policy {text!r}: {option} is given twice")
        options[option] = value
    _check(text, options)
    return Policy(name, options)


def _default(name: str) -> Policy:
    for policy in DEFAULTS:
        if policy.name == name:
            return policy
    known = ", ".join(policy.name for policy in DEFAULTS)
    raise ConfigurationError(
        f"there is no policy {name!r} (there are: {known}); one of your own is written "
        f"{name}:option=value,..."
    )


def _check(text: str, options: dict[str, str]) -> None:
    for option in options:
        if option in COMMON:
            argument = f"--{option.replace('_', '-')}"
            raise ConfigurationError(f"policy {text!r}: {option} is for all policies: {argument}")
        if option in FIXED:
            raise ConfigurationError(f"policy {text!r}: {option} can't be part of a policy")
    try:
        Options.check(options)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy {text!r}: {error}") from None
