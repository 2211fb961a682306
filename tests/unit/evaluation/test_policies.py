"""Policies are named sets of options, read from one line and checked as options are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import ConfigurationError
from rank1_integrations.config import Options
from rank1_integrations.evaluation.policies import DEFAULTS, Policy, parse_policies, parse_policy


def test_a_policy_is_a_name_and_options() -> None:
    assert parse_policy("short: thinking=full, max_reasoning_tokens=64") == Policy(
        "short", {"thinking": "full", "max_reasoning_tokens": "64"}
    )


def test_a_value_may_hold_commas_and_colons() -> None:
    policy = parse_policy("strict:relevance=Proof, not opinion, for: {query},thinking=none")
    assert policy.options == {
        "relevance": "Proof, not opinion, for: {query}",
        "thinking": "none",
    }


@given(
    tokens=st.integers(1, 10**6),
    thinking=st.sampled_from(["full", "none"]),
    name=st.from_regex(r"\A[a-z0-9][a-z0-9_.-]{0,20}\Z"),
)
def test_a_policy_survives_being_written_and_read(tokens: int, thinking: str, name: str) -> None:
    policy = Policy(name, {"max_reasoning_tokens": str(tokens), "thinking": thinking})
    assert parse_policy(str(policy)) == policy


def test_without_policies_the_defaults_are_tried_and_full_is_the_baseline() -> None:
    assert parse_policies([]) == list(DEFAULTS)
    assert DEFAULTS[0].name == "full"
    assert Options.check(DEFAULTS[0].options).thinking == "full"


@pytest.mark.parametrize("policy", DEFAULTS, ids=lambda policy: policy.name)
def test_every_default_is_valid_and_may_be_given_by_name(policy: Policy) -> None:
    Options.check(policy.options)
    assert parse_policy(policy.name) == policy
    assert parse_policy(str(policy)) == policy


def test_a_name_may_be_given_other_options() -> None:
    assert parse_policies(["full", "none:max_reasoning_tokens=3"])[1].options == {
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
        ("quick:thinking=none,thinking=full", "thinking is given twice"),
        ("quick:thinking=fast", "policy 'quick:thinking=fast': thinking: Input should be"),
        ("quick:think=none", "unknown option 'think'"),
        ("quick:max_reasoning_tokens=0", "max_reasoning_tokens: .*greater than or equal to 1"),
        ("quick:relevance=facts", "relevance: "),
        ("quick:timeout=3", "timeout is for all policies: --timeout"),
        ("quick:max_retries=3", "max_retries is for all policies: --max-retries"),
        ("quick:on_error=raise", "on_error can't be part of a policy"),
        ("quick:on_judgments=print", "on_judgments can't be part of a policy"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_to_do(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_policy(text)


def test_two_policies_have_two_names() -> None:
    with pytest.raises(ConfigurationError, match="two policies are named 'none'"):
        parse_policies(["full", "none", "none:thinking=none"])
