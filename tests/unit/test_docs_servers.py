"""docs/servers.md knows every server that the code names, and cites tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rank1_integrations.engines.openai_server import capabilities, engine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "servers.md").read_text("utf-8")


def rows() -> list[list[str]]:
    """Return the cells of the page's table, without its head."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def servers_named_by(hint: str) -> set[str]:
    """Return the server that a hint is about, and those that it recommends."""
    about = re.match(r"(.+?) (?:accepts|returns) ", hint)
    assert about is not None
    recommended = re.search(r"serve the model with (.+)$", hint)
    assert recommended is not None
    return {about[1], *recommended[1].split(" or ")}


def servers_named_by_the_code() -> set[str]:
    named: set[str] = set()
    for hint in capabilities._WITHOUT_LOGPROBS.values():
        named |= servers_named_by(hint)
    shown = re.search(r"shows them \((.+?)\)", engine._NOT_TOLD)
    assert shown is not None
    return named | {*shown[1].split(", ")}


def test_each_server_that_the_code_names_is_in_the_table() -> None:
    named = servers_named_by_the_code()
    assert {"Ollama", "LM Studio", "LMDeploy", "vLLM", "SGLang", "llama.cpp's server"} <= named
    listed = {row[0] for row in rows()}
    assert named <= listed


def test_a_server_that_the_code_refuses_is_refused_in_the_table() -> None:
    refused = {row[0] for row in rows() if row[2].startswith("refused")}
    by_code = {hint.split(" accepts")[0].split(" returns")[0] for hint in HINTS}
    assert by_code <= refused


HINTS = [*capabilities._WITHOUT_LOGPROBS.values()]


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row[0]))
def test_each_row_says_how_it_was_verified(row: list[str]) -> None:
    assert len(row) == 6
    verified = row[5]
    assert re.match(r"real |recorded |read in ", verified)
    assert verified.startswith("read in") or "`tests/" in verified


def test_each_test_file_that_the_page_cites_exists() -> None:
    cited = set(re.findall(r"tests/[\w/]+\.py", PAGE))
    assert len(cited) > 5
    assert [path for path in sorted(cited) if not (ROOT / path).is_file()] == []
