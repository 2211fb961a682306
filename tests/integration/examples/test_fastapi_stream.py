"""The search service over real HTTP: judgments come as they are made, and stop with the client."""

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
    """The application on a port of its own; yields its address."""
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
    """A client that reads the events of one search; leaving the block, it hangs up."""
    with httpx.stream("GET", f"{address}/search", params={"query": query}, timeout=300) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield (
            json.loads(line.removeprefix("data:"))
            for line in response.iter_lines()
            if line.startswith("data:")
        )


def search(address: str, query: str) -> list[dict[str, Any]]:
    """All events of one search."""
    with searching(address, query) as events:
        return list(events)


def best_passage() -> str:
    return index().search(QUERY, 1)[0][0].text


def hold(proxy: TamperingProxy, which: Callable[[str], bool], until: threading.Event) -> None:
    """Let the judge wait for its answers to some prompts."""

    def refuse(call: Call) -> Answer | None:
        if call.path == "/tokenize":
            # Without it, prompts are sent as texts, in which a passage can be recognised.
            return Answer(404, {"detail": "Not Found"})
        if which(str(call.body.get("prompt"))):
            until.wait(timeout=120)
        return None

    proxy.refuse = refuse


def test_every_passage_is_judged_and_sent_once(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(server_url, monkeypatch) as address:
        found = search(address, QUERY)
    expected = [passage for passage, _ in index().search(QUERY, RETRIEVED)]
    assert sorted(event["passage"] for event in found) == sorted(one.text for one in expected)
    assert {event["finish"] for event in found} == {"concluded"}
    assert {event["score"] >= 0.5 for event in found} == {True, False}
    assert all(event["reasoning"] for event in found)


def test_a_judgment_is_sent_while_another_passage_is_still_read(
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


def test_a_client_that_hangs_up_costs_no_more(
    proxy: TamperingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, hung_up = best_passage(), threading.Event()
    hold(proxy, lambda prompt: QUERY in prompt and first not in prompt, until=hung_up)
    with service(proxy.url, monkeypatch) as address:
        with searching(address) as events:
            assert next(events)["passage"] == first
        # When another client has been served, the service has heard of the end of the first.
        assert len(search(address, ANOTHER_QUERY)) == RETRIEVED
        hung_up.set()
        # Meanwhile, thoughts that live on would ask for their verdicts.
        assert len(search(address, ANOTHER_QUERY)) == RETRIEVED
    completions = [call for call in proxy.calls if call.path == "/v1/completions"]
    asked = [call for call in completions if QUERY in str(call.body["prompt"])]
    # A thought for each passage, and a verdict for the one that was read.
    assert len(asked) == RETRIEVED + 1


def test_a_search_without_a_query_is_refused(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(server_url, monkeypatch) as address:
        assert httpx.get(f"{address}/search", params={"query": ""}).status_code == 422
