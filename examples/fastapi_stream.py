"""A search service that sends each judgment as soon as it is final, as server-sent events.

    python -m uvicorn examples.fastapi_stream:app
    curl -N "http://localhost:8000/search?query=How+do+I+copy+a+file"

In a browser: `new EventSource("/search?query=...").onmessage = event => JSON.parse(event.data)`.
When a client disconnects, the work for it is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from examples.bm25 import Bm25Index
from examples.models import judge
from examples.standard_library import passages
from rank1_integrations import Rank1

RETRIEVED = 12


class JudgedPassage(BaseModel):
    """A retrieved passage with its judgment."""

    source: str
    passage: str
    score: float | None
    reasoning: str
    finish_reason: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Share one judge between all requests."""
    async with judge() as rank1:
        app.state.rank1 = rank1
        yield


app = FastAPI(title="Search with Rank1", lifespan=lifespan)


@cache
def index() -> Bm25Index:
    """Return the index of Python's documentation."""
    return Bm25Index(passages())


def rank1_of(request: Request) -> Rank1:
    """Return the judge that `lifespan` made."""
    rank1: Rank1 = request.app.state.rank1
    return rank1


@app.get("/search", response_class=EventSourceResponse)
async def search(
    query: Annotated[str, Query(min_length=1)], rank1: Annotated[Rank1, Depends(rank1_of)]
) -> AsyncIterator[JudgedPassage]:
    """Send the passages that BM25 finds, in the order in which their judgments become final."""
    candidates = [passage for passage, _ in index().search(query, RETRIEVED)]
    async with aclosing(
        rank1.astream(query, [passage.text for passage in candidates])
    ) as judgments:
        async for judgment in judgments:
            passage = candidates[judgment.index]
            yield JudgedPassage(
                source=passage.source,
                passage=passage.text,
                score=judgment.score,
                reasoning=judgment.reasoning,
                finish_reason=judgment.finish_reason,
            )
