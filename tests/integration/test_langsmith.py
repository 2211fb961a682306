"""The runs that LangSmith's own client sends of a rerank, recorded by a local server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import LangChainTracer
from langsmith import Client

from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor
from tests.support.sample_corpus import BEST, GOOD, POOR, QUERY, WORST, sample_retriever


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
async def test_langsmith_sees_one_run_with_everything_inside_the_retrievers(
    form: str, server: Rank1
) -> None:
    retriever = ContextualCompressionRetriever(
        base_compressor=Rank1Compressor(rank1=server, top_n=1), base_retriever=sample_retriever()
    )
    with langsmith() as (address, runs):
        client = Client(api_url=address, api_key="none", auto_batch_tracing=False)
        config: RunnableConfig = {"callbacks": [LangChainTracer(client=client)]}
        if form == "invoke":
            retriever.invoke(QUERY, config)
        else:
            await retriever.ainvoke(QUERY, config)
    (root,) = (run for run in runs.values() if run["name"] == "ContextualCompressionRetriever")
    (rerank,) = (run for run in runs.values() if run["name"] == "Rank1Compressor")
    assert rerank["run_type"] == "chain"
    assert rerank["parent_run_id"] == root["id"]
    assert rerank["inputs"]["query"] == QUERY
    assert texts(rerank["inputs"]["documents"]) == {BEST, GOOD, POOR, WORST}
    outputs = rerank["outputs"]
    assert texts(outputs["documents"]) == {BEST}
    assert texts(outputs["dropped"]) == {GOOD, POOR, WORST}
    for document in outputs["documents"] + outputs["dropped"]:
        metadata = fields(document)["metadata"]
        assert 0 <= metadata["relevance_score"] <= 1
        assert "the query asks for" in metadata["relevance_reasoning"]
    assert outputs["usage"]["prompt_tokens"] > outputs["usage"]["reasoning_tokens"] > 0


@contextmanager
def langsmith() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield an address that accepts runs, and the runs by their ids."""
    runs: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            run_id = body.get("id") or self.path.rpartition("/")[2]
            values = {name: value for name, value in body.items() if value is not None}
            runs.setdefault(run_id, {}).update(values)
            self.send_response(202)
            self.end_headers()
            self.wfile.write(b"{}")

        def do_PATCH(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", runs
        server.shutdown()


def fields(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document's fields, in either form that the client writes."""
    inner: dict[str, Any] = document.get("kwargs", document)
    return inner


def texts(documents: list[dict[str, Any]]) -> set[str]:
    return {fields(document)["page_content"] for document in documents}
