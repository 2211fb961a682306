"""Policies are named sets of options, parsed from one line and validated like options."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank1_integrations import ConfigurationError
from rank1_integrations.config import Adaptive, Options
from rank1_integrations.evaluation.policies import DEFAULTS, Policy, parse_policies, parse_policy


def test_a_policy_is_a_name_and_options() -> None:
    assert parse_policy("short: thinking=full, max_reasoning_tokens=64") == Policy(
        "short", {"thinking": "full", "max_reasoning_tokens": "64"}
    )


def test_settings_of_adaptive_reasoning_are_options_of_a_policy() -> None:
    policy = parse_policy("quick:thinking=adaptive,max_share=0.2,probe_every=16,deadline=3")
    options = Options.check(policy.options)  # type: ignore[arg-type]
    assert options.thinking == Adaptive(max_share=0.2, probe_every=16)
    assert options.deadline == 3


def test_a_value_can_hold_commas_and_colons() -> None:
    policy = parse_policy("strict:relevance=Proof, not opinion, for: {query},thinking=none")
    assert policy.settings == {
        "relevance": "Proof, not opinion, for: {query}",
        "thinking": "none",
    }


@settings(deadline=None)
@given(
    tokens=st.integers(1, 10**6),
    thinking=st.sampled_from(["full", "none"]),
    name=st.from_regex(r"\A[a-z0-9][a-z0-9_.-]{0,20}\Z"),
)
def test_a_written_policy_is_parsed_back(tokens: int, thinking: str, name: str) -> None:
    policy = Policy(name, {"max_reasoning_tokens": str(tokens), "thinking": thinking})
    assert parse_policy(str(policy)) == policy


def test_without_policies_the_defaults_are_used_and_full_is_the_baseline() -> None:
    assert parse_policies([]) == list(DEFAULTS)
    assert DEFAULTS[0].name == "full"
    assert DEFAULTS[0].settings["thinking"] == "full"


@pytest.mark.parametrize("policy", DEFAULTS, ids=lambda policy: policy.name)
def test_every_default_is_valid_and_may_be_given_by_name(policy: Policy) -> None:
    policy.check()
    assert parse_policy(policy.name) == policy
    assert parse_policy(str(policy)) == policy


def test_a_default_name_can_have_other_options() -> None:
    assert parse_policies(["full", "none:max_reasoning_tokens=3"])[1].settings == {
        "max_reasoning_tokens": "3"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected NAME:option=value"),
        (":thinking=none", "expected NAME:option=value"),
        ("../x:thinking=none", "expected NAME:option=value"),
        ("quick", r"no policy 'quick' \(there are: full, .*written quick:option=value"),
        ("quick:", "not of the form option=value"),
        ("quick:none", "not of the form option=value"),
        ("quick:thinking=none,thinking=full", "thinking is repeated"),
        ("quick:thinking=fast", "policy quick:thinking=fast: thinking: Input should be"),
        ("quick:think=none", "unknown option 'think'"),
        ("quick:max_reasoning_tokens=0", "max_reasoning_tokens: .*greater than or equal to 1"),
        ("quick:relevance=facts", "relevance: "),
        ("quick:timeout=3", "unknown option 'timeout'"),
        ("quick:thinking=adaptive,max_share=2", r"max_share must be in \(0, 1\]; it is 2.0"),
        ("quick:thinking=adaptive,probe_every=few", "probe_every: Input should be a valid integer"),
        ("quick:max_share=0.2", "max_share: only with thinking=adaptive"),
        ("quick:thinking=full,confidence=0.9", "confidence: only with thinking=adaptive"),
        ("quick:on_error=raise", "on_error can't be part of a policy"),
        ("quick:on_judgments=print", "on_judgments can't be part of a policy"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_policy(text)


def test_two_policies_with_the_same_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two policies are named 'none'"):
        parse_policies(["full", "none", "none:thinking=none"])
