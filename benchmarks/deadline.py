"""How many of 200 calls under load come back within their deadline, on a real server."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.setting import apart, found_passages
from rank1_integrations import Rank1
from tests.integration.conftest import demo_server

CALLS, AT_ONCE, PASSAGES = 200, 8, 20
SECONDS, GRACE = 2.0, 0.2
QUESTIONS = (
    "How do I sort a list in place?",
    "How can I split a string on white space?",
    "What happens when an exception is raised in a finally clause?",
    "How do I copy a file with its permissions?",
)


def main() -> None:
    """Print the share of calls in time, and what became of their passages."""
    with (
        tempfile.TemporaryDirectory() as folder,
        apart(demo_server(Path(folder) / "server.log")) as url,
    ):
        asyncio.run(_measure(url))


async def _measure(url: str) -> None:
    found = dict(zip(QUESTIONS, found_passages(QUESTIONS, PASSAGES), strict=True))
    finishes: Counter[str] = Counter()
    late: list[float] = []
    places = asyncio.Semaphore(AT_ONCE)
    async with Rank1.from_server(
        url, max_reasoning_tokens=256, deadline=SECONDS, on_error="keep"
    ) as rank1:

        async def call(number: int) -> None:
            question = QUESTIONS[number % len(QUESTIONS)]
            async with places:
                begun = time.perf_counter()
                judgments = await rank1.ajudge(question, found[question])
                late.append(time.perf_counter() - begun - SECONDS)
            finishes.update(judgment.finish for judgment in judgments)

        await asyncio.gather(*(call(number) for number in range(CALLS)))
    in_time = sum(seconds <= GRACE for seconds in late)
    print(
        f"{CALLS} calls of {PASSAGES} passages, {AT_ONCE} at once, deadline {SECONDS} s: "
        f"{in_time / CALLS:.1%} within {GRACE} s of it, "
        f"median {statistics.median(late):+.3f} s, latest {max(late):+.3f} s"
    )
    print("passages:", ", ".join(f"{count} {finish}" for finish, count in finishes.most_common()))


if __name__ == "__main__":
    main()
