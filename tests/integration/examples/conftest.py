"""The models that the examples run on: the demonstration model, and a small real chat model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from examples.models import judge
from rank1_integrations import Judgment, Rank1
from tests.integration.examples import chat_model
from tests.support.tampering_proxy import Call, Json, TamperingProxy
from tests.support.vllm_server import vllm_server

MAX_TOKENS = 24
"""The longest answer, in tokens: a test needs to see that there is one."""


@dataclass
class Witness:
    """Records queries, passages and judgments, one entry for each query."""

    queries: list[str] = field(default_factory=list)
    passages: list[list[str]] = field(default_factory=list)
    judgments: list[list[Judgment]] = field(default_factory=list)

    def see(self, query: str, passages: list[str], judgments: list[Judgment]) -> None:
        """Record one query, as `on_judgments`."""
        self.queries.append(query)
        self.passages.append(passages)
        self.judgments.append(judgments)

    def relevant(self) -> list[str]:
        """Return the last query's passages at or above the examples' threshold, best first."""
        relevant = [judgment for judgment in self.judgments[-1] if (judgment.score or 0.0) >= 0.5]
        relevant.sort(key=lambda judgment: judgment.log_odds or 0.0, reverse=True)
        return [self.passages[-1][judgment.index] for judgment in relevant]


@dataclass
class ChatProxy(TamperingProxy):
    """Records the requests to a chat model and its answers.

    Attributes:
        replies: The texts of its answers, one for each of `calls`.
    """

    replies: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.change_answer = self._note

    def _note(self, _: Call, answer: Json) -> Json:
        self.replies.append(answer["choices"][0]["message"]["content"])
        return answer

    def prompts(self) -> list[str]:
        """Return the texts of all messages to the chat model, one text for each of `calls`."""
        return [
            "\n".join(message["content"] or "" for message in call.body["messages"])
            for call in self.calls
        ]

    def system_prompts(self) -> str:
        """Return the texts of all system messages to the chat model."""
        return "\n".join(
            message["content"]
            for call in self.calls
            for message in call.body["messages"]
            if message["role"] == "system"
        )


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a vLLM server that has the chat model loaded.

    While tests are written, CHAT_TEST_SERVER may name one that runs already.
    """
    if running := os.environ.get("CHAT_TEST_SERVER"):
        yield running
        return
    pytest.importorskip("vllm", reason="vLLM is not installed: `make test` installs it")
    log = tmp_path_factory.mktemp("chat") / "server.log"
    # pytest would keep the last runs' weights.
    with TemporaryDirectory() as folder:
        model = chat_model.unpack(Path(folder))
        with vllm_server(model, log, name=chat_model.NAME, **chat_model.SERVER_OPTIONS) as address:
            yield address


@pytest.fixture
def chat(chat_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatProxy]:
    """The chat model at the address in CHAT_BASE_URL, recorded."""
    with ChatProxy(chat_server.removesuffix("/v1")) as proxy:
        monkeypatch.setenv("CHAT_BASE_URL", proxy.url)
        monkeypatch.setenv("CHAT_MODEL", chat_model.NAME)
        monkeypatch.setenv("CHAT_MAX_TOKENS", str(MAX_TOKENS))
        monkeypatch.delenv("RANK1_BASE_URL", raising=False)
        yield proxy


@pytest.fixture
def witness() -> Witness:
    """A record of the judge's queries."""
    return Witness()


@pytest.fixture
def rank1(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rank1]:
    """The judge of the examples, recorded by `witness`."""
    monkeypatch.delenv("RANK1_BASE_URL", raising=False)
    with judge(on_judgments=witness.see) as rank1:
        yield rank1
