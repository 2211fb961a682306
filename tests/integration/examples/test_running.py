"""Every example runs as a reader would run it, and says what to set where it can't."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys

import pytest

from tests.integration.tampering_proxy import TamperingProxy

EXAMPLES = {
    "langchain_rag": "",
    "langchain_agent": "",
    "langgraph_corrective_rag": "",
    "llama_index_rag": "",
    "chatbot": "How do I copy a file?\nAnd with its permissions?\n\n",
}
"""What is typed into each."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_shows_an_answer_and_why_each_passage_was_kept(
    name: str,
    chat: TamperingProxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(EXAMPLES[name]))
    answers: list[str] = []

    def listen(_: object, body: dict) -> dict:
        answers.append(body["choices"][0]["message"]["content"])
        return body

    chat.change_answer = listen
    importlib.import_module(f"examples.{name}").main()
    shown = capsys.readouterr().out
    assert answers[-1].strip() in shown
