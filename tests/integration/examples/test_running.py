"""Every example runs from the command line, and names the variables that are not set."""

from __future__ import annotations

import importlib
import io
import sys

import pytest

from tests.integration.examples.conftest import ChatProxy

TYPED = {
    "langchain_rag": "",
    "langchain_agent": "",
    "langgraph_corrective_rag": "",
    "llama_index_rag": "",
    "chatbot": "How do I copy a file?\n\n",
}
"""The examples that use a chat model, and the text typed into each."""


@pytest.mark.parametrize("name", TYPED)
def test_an_example_shows_the_answer(
    name: str,
    chat: ChatProxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(TYPED[name]))
    monkeypatch.setenv("CHAT_MAX_TOKENS", "64" if name == "langchain_agent" else "16")
    importlib.import_module(f"examples.{name}").main()
    assert chat.replies[-1].strip() in capsys.readouterr().out


@pytest.mark.parametrize("name", TYPED)
def test_without_a_chat_model_an_example_names_the_variables_to_set(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHAT_BASE_URL", raising=False)
    with pytest.raises(SystemExit, match="set CHAT_BASE_URL and CHAT_MODEL"):
        importlib.import_module(f"examples.{name}").main()
