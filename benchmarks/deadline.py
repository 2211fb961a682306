"""How many of 200 calls under load come back within their deadline, on a real server."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.setting import on_own_cores, retrieve
from rank1_integrations import Rank1
from tests.integration.conftest import demo_server

CALLS, AT_ONCE, PASSAGES = 200, 8, 20
SECONDS, GRACE = 2.0, 0.2
QUERIES = (
    "How do I sort a list in place?",
    "How can I split a string on white space?",
    "What happens when an exception is raised in a finally clause?",
    "How do I copy a file with its permissions?",
)


def main() -> None:
    """Print the share of calls in time, and how their passages' judgments finished."""
    with (
        tempfile.TemporaryDirectory() as folder,
        on_own_cores(demo_server(Path(folder) / "server.log")) as url,
    ):
        asyncio.run(_measure(url))


async def _measure(url: str) -> None:
    passages = dict(zip(QUERIES, retrieve(QUERIES, PASSAGES), strict=True))
    finish_reasons: Counter[str] = Counter()
    late: list[float] = []
    turns = asyncio.Semaphore(AT_ONCE)
    async with Rank1.from_server(
        url, max_reasoning_tokens=256, deadline=SECONDS, on_error="keep"
    ) as rank1:

        async def call(number: int) -> None:
            query = QUERIES[number % len(QUERIES)]
            async with turns:
                begun = time.perf_counter()
                judgments = await rank1.ajudge(query, passages[query])
                late.append(time.perf_counter() - begun - SECONDS)
            finish_reasons.update(judgment.finish_reason for judgment in judgments)

        await asyncio.gather(*(call(number) for number in range(CALLS)))
    in_time = sum(seconds <= GRACE for seconds in late)
    print(
        f"{CALLS} calls of {PASSAGES} passages, {AT_ONCE} at once, deadline {SECONDS} s: "
        f"{in_time / CALLS:.1%} within {GRACE} s of it, "
        f"median {statistics.median(late):+.3f} s, latest {max(late):+.3f} s"
    )
    print(
        "passages:",
        ", ".join(f"{count} {reason}" for reason, count in finish_reasons.most_common()),
    )


if __name__ == "__main__":
    main()
