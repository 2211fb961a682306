"""Ready-made definitions of relevance have a place for the query; instructions follow it."""

from __future__ import annotations

import pytest

from rank1_integrations import relevance
from rank1_integrations.relevance import add_instruction
from rank1_integrations.scoring.prompt import check_relevance, define_relevance, sanitize

DEFINITIONS = [
    value for name, value in vars(relevance).items() if name.isupper() and isinstance(value, str)
]


def test_there_is_a_definition_for_every_common_need() -> None:
    assert len(DEFINITIONS) == 6


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_definition_holds_the_query_once_and_nothing_that_is_sanitized(definition: str) -> None:
    check_relevance(definition)
    asked = define_relevance("{query} stays", definition)
    assert asked.count("{query} stays") == 1
    assert sanitize(asked) == asked


def test_an_instruction_follows_the_query() -> None:
    assert add_instruction(" cats ", " Only recent ones. ") == "cats Only recent ones."


@pytest.mark.parametrize("instruction", [None, "", "  ", "cats", " cats "])
def test_an_instruction_that_says_nothing_new_adds_nothing(instruction: str | None) -> None:
    assert add_instruction("cats", instruction) == "cats"
