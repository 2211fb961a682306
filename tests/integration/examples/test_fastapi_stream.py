"""The search service over HTTP sends judgments one by one and stops with its client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from examples.fastapi_stream import RETRIEVED, app, index
from tests.support.tampering_proxy import Answer, Call, TamperingProxy

QUERY = "How do I copy a file with its permissions?"
ANOTHER_QUERY = "How do I unpack an archive?"


@contextmanager
def service(judge_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the application on a port of its own and yield its address."""
    monkeypatch.setenv("RANK1_BASE_URL", judge_url)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def searching(address: str, query: str = QUERY) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield the events of one search; leaving the block disconnects the client."""
    with httpx.stream("GET", f"{address}/search", params={"query": query}, timeout=300) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield (
            json.loads(line.removeprefix("data:"))
            for line in response.iter_lines()
            if line.startswith("data:")
        )


def search(address: str, query: str) -> list[dict[str, Any]]:
    """Return all events of one search."""
    with searching(address, query) as events:
        return list(events)


def best_passage() -> str:
    return index().search(QUERY, 1)[0][0].text


def hold(proxy: TamperingProxy, which: Callable[[str], bool], until: threading.Event) -> None:
    """Delay the judge's answers to some prompts."""

    def refuse(call: Call) -> Answer | None:
        if call.path == "/tokenize":
            # Without it, prompts are sent as texts, in which a test recognizes a passage.
            return Answer(404, {"detail": "Not Found"})
        if which(str(call.body.get("prompt"))):
            until.wait(timeout=120)
        return None

    proxy.refuse = refuse


def test_every_passage_is_judged_and_sent_once(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(server_url, monkeypatch) as address:
        events = search(address, QUERY)
    expected = [passage for passage, _ in index().search(QUERY, RETRIEVED)]
    assert sorted(event["passage"] for event in events) == sorted(
        passage.text for passage in expected
    )
    assert {event["finish_reason"] for event in events} == {"concluded"}
    assert {event["score"] >= 0.5 for event in events} == {True, False}
    assert all(event["reasoning"] for event in events)


def test_a_judgment_is_sent_while_another_passage_is_judged(
    proxy: TamperingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, others_have_come = best_passage(), threading.Event()
    hold(proxy, lambda prompt: first in prompt, until=others_have_come)
    with service(proxy.url, monkeypatch) as address, searching(address) as events:
        others = [next(events) for _ in range(RETRIEVED - 1)]
        others_have_come.set()
        (last,) = events
    assert first not in [event["passage"] for event in others]
    assert last["passage"] == first


def test_when_a_client_disconnects_its_work_is_cancelled(
    proxy: TamperingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, disconnected = best_passage(), threading.Event()
    hold(proxy, lambda prompt: QUERY in prompt and first not in prompt, until=disconnected)
    with service(proxy.url, monkeypatch) as address:
        with searching(address) as events:
            assert next(events)["passage"] == first
        # After another search the service has noticed that the first client is gone.
        assert len(search(address, ANOTHER_QUERY)) == RETRIEVED
        disconnected.set()
        # Meanwhile, reasoning that still ran would be followed by requests for verdicts.
        assert len(search(address, ANOTHER_QUERY)) == RETRIEVED
    completions = [call for call in proxy.calls if call.path == "/v1/completions"]
    about_query = [call for call in completions if QUERY in str(call.body["prompt"])]
    # Reasoning about each passage, and a verdict for the one that was received.
    assert len(about_query) == RETRIEVED + 1


def test_a_search_without_a_query_is_refused(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(server_url, monkeypatch) as address:
        assert httpx.get(f"{address}/search", params={"query": ""}).status_code == 422
