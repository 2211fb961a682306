"""Record the spans and events of LlamaIndex's instrumentation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.span.simple import SimpleSpan
from pydantic import Field


class Recording(BaseEventHandler):
    """The spans, the events, and the threads that the events came from."""

    spans: SimpleSpanHandler
    events: list[BaseEvent] = Field(default_factory=list)
    threads: set[int] = Field(default_factory=set)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    def rerank_events(self) -> list[BaseEvent]:
        return [event for event in self.events if event.class_name().startswith("ReRank")]

    def rerank_spans(self) -> list[SimpleSpan]:
        """Return the finished ones, then those that ended in an error."""
        spans = [*self.spans.completed_spans, *self.spans.dropped_spans]
        return [span for span in spans if span.id_.startswith("Rank1Postprocessor")]


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record all spans and events within the block."""
    root, spans = get_dispatcher(), SimpleSpanHandler()
    recording = Recording(spans=spans)
    root.add_event_handler(recording)
    root.add_span_handler(spans)
    try:
        yield recording
    finally:
        root.event_handlers.remove(recording)
        root.span_handlers.remove(spans)
