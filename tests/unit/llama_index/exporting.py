"""The spans that OpenInference exports of LlamaIndex, as Phoenix and others receive them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Exported(InMemorySpanExporter):
    """The spans that have ended."""

    def rerankers(self) -> list[ReadableSpan]:
        return [
            span
            for span in self.get_finished_spans()
            if attributes(span)["openinference.span.kind"] == "RERANKER"
        ]

    def parent_of(self, span: ReadableSpan) -> ReadableSpan:
        """Return the parent of a span.

        Raises:
            ValueError: The span has none.
        """
        ids = [span.context.span_id for span in self.get_finished_spans() if span.context]
        return self.get_finished_spans()[ids.index(span.parent.span_id if span.parent else 0)]


@contextmanager
def exported() -> Iterator[Exported]:
    """Export every span of LlamaIndex within the block."""
    spans, provider = Exported(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor = LlamaIndexInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield spans
    finally:
        instrumentor.uninstrument()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def documents(span: ReadableSpan, which: str) -> list[dict[str, Any]]:
    """Return the "input" or "output" documents of a reranker span: id, content, score, metadata."""
    by_index: dict[int, dict[str, Any]] = {}
    for name, value in attributes(span).items():
        if name.startswith(f"reranker.{which}_documents."):
            index, _, key = name.removeprefix(f"reranker.{which}_documents.").partition(
                ".document."
            )
            by_index.setdefault(int(index), {})[key] = (
                json.loads(value) if key == "metadata" else value
            )
    return [by_index[index] for index in sorted(by_index)]
