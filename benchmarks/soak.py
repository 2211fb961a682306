"""Twenty thousand judgments on a server whose every tenth answer is at fault.

32 threads share one `Rank1` object. The server is `tests.support.raw_server` in a process of its
own, and its content follows from each passage, so a judgment that belongs to another passage
shows. `--fork` forks amid it, and the children judge with the parent's object; `--cancel` cancels
other callers of the object all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import statistics
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rank1_integrations import Judgment, Rank1
from tests.support.raw_server import RawServerProcess, log_odds_of, reasoning_about

THREADS = 32
PASSAGES = 20
FAULT_RATE = 0.1
FORKS = 3
CHILD_SECONDS = 120.0
SAMPLE_SECONDS = 0.25
# Between the first quarter of the run and the last.
MOST_CONNECTIONS_GAINED = 16
MOST_MEMORY_GAINED = 8.0  # MB


@dataclass(slots=True)
class Tally:
    """What came back, and what was wrong with it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    judgments: int = 0
    calls: int = 0
    cancelled: int = 0
    children: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, passages: Sequence[str], judgments: Sequence[Judgment]) -> None:
        """Count the judgments of one call that came back."""
        problems = [*problems_of(passages, judgments)]
        with self.lock:
            self.calls += 1
            self.judgments += len(judgments)
            self.finish_reasons.update(judgment.finish_reason for judgment in judgments)
            self.errors.update(_kind(judgment.error) for judgment in judgments if judgment.error)
            self.problems += problems

    def complain(self, problem: str) -> None:
        """Count a problem that is not in a judgment."""
        with self.lock:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of both processes at one moment."""

    server_connections: int
    own_sockets: int
    memory: float


def main() -> None:
    """Run, print what came back, and exit with status 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--judgments", type=int, default=20_000)
    parser.add_argument("--fault-rate", type=float, default=FAULT_RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="fork amid it")
    parser.add_argument("--cancel", action="store_true", help="cancel callers amid it")
    options = parser.parse_args()
    with (
        RawServerProcess(options.fault_rate, seed=options.seed) as server,
        Rank1.from_server(server.base_url, on_error="keep") as rank1,
    ):
        soak = Soak(rank1, server, calls=options.judgments // PASSAGES)
        beside = [soak.fork] * options.fork + [soak.cancel] * options.cancel
        seconds = soak.run(beside)
    sys.exit(report(soak, seconds))


class Soak:
    """One run."""

    def __init__(self, rank1: Rank1, server: RawServerProcess, *, calls: int) -> None:
        self.tally, self.samples = Tally(), list[Sample]()
        self.calls = calls
        self._rank1, self._server = rank1, server
        # Never the same passage twice.
        self._numbers = itertools.count()
        self._has_child = False
        self._is_over = threading.Event()

    def run(self, beside: Sequence[Callable[[], None]]) -> float:
        """Judge on many threads, with other functions beside; return the seconds it took."""
        others = [threading.Thread(target=work) for work in (self._sample, *beside)]
        begun = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            for thread in others:
                thread.start()
            calls = [threads.submit(self._judge) for _ in range(self.calls)]
            for call in calls:
                call.result()
        seconds = time.perf_counter() - begun
        self._is_over.set()
        for thread in others:
            thread.join()
        return seconds

    def fork(self) -> None:
        """Fork a few times; each child judges on the parent's object and exits."""
        for number in range(1, FORKS + 1):
            while self._share < number / (FORKS + 1) and not self._is_over.is_set():
                time.sleep(0.01)
            self._has_child = True
            child = os.fork()
            if child == 0:
                os._exit(self._judge_in_child())
            self._await_child(child)
            self._has_child = False

    def cancel(self) -> None:
        """Call and cancel, or leave a stream early, until the run is over."""
        asyncio.run(self._cancel_callers())

    @property
    def _share(self) -> float:
        return self.tally.calls / self.calls

    def _passages(self, count: int = PASSAGES) -> list[str]:
        return [f"Passage {next(self._numbers)} of a long list." for _ in range(count)]

    def _judge(self) -> None:
        passages = self._passages()
        try:
            judgments = self._rank1.judge("Which number?", passages)
        except Exception as error:
            self.tally.complain(f"a call raised {type(error).__name__}: {error}")
        else:
            self.tally.add(passages, judgments)

    def _judge_in_child(self) -> int:
        try:
            passages = self._passages(2 * PASSAGES)
            problems = [*problems_of(passages, self._rank1.judge("Which number?", passages))]
            print(*problems, sep="\n", end="", file=sys.stderr, flush=True)
        except BaseException:
            traceback.print_exc()
            return 2
        return 1 if problems else 0

    def _await_child(self, child: int) -> None:
        latest = time.monotonic() + CHILD_SECONDS
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > latest:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                self.tally.complain(f"a child had not judged after {CHILD_SECONDS:.0f} s")
                return
            time.sleep(0.05)
        self.tally.children += 1
        if status := os.waitstatus_to_exitcode(ended[1]):
            self.tally.complain(f"a child ended with status {status}")

    async def _cancel_callers(self) -> None:
        dice = random.Random(0)
        while not self._is_over.is_set():
            passages = self._passages()
            calls = (self._call(passages), self._leave_stream(passages, dice.randrange(PASSAGES)))
            try:
                await asyncio.wait_for(dice.choice(calls), dice.uniform(0, 0.5))
            except TimeoutError:
                self.tally.cancelled += 1
            except Exception as error:
                self.tally.complain(f"a cancelled call raised {type(error).__name__}: {error}")
            for call in calls:
                call.close()

    async def _call(self, passages: list[str]) -> None:
        judgments = await self._rank1.ajudge("Which number?", passages)
        self.tally.problems += problems_of(passages, judgments)

    async def _leave_stream(self, passages: list[str], count: int) -> None:
        async with contextlib.aclosing(self._rank1.astream("Which number?", passages)) as stream:
            async for judgment in stream:
                self.tally.problems += problem_with(judgment, passages[judgment.index])
                if (count := count - 1) < 0:
                    self.tally.cancelled += 1
                    return

    def _sample(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            connections = self._server.stats()["open_connections"]
            # A child has connections of its own, which the server counts too.
            if not self._has_child:
                self.samples.append(Sample(connections, own_sockets(), memory()))


def problems_of(passages: Sequence[str], judgments: Sequence[Judgment]) -> Iterator[str]:
    """Yield what is wrong with the judgments of one call."""
    if [judgment.index for judgment in judgments] != [*range(len(passages))]:
        yield f"indices {[judgment.index for judgment in judgments]}"
    for judgment in judgments:
        yield from problem_with(judgment, passages[judgment.index])


def problem_with(judgment: Judgment, passage: str) -> Iterator[str]:
    """Yield what is wrong with one judgment."""
    if judgment.finish_reason == "failed":
        if judgment.score is not None or not judgment.error:
            yield f"{passage!r} failed, with a score or without an error: {judgment}"
    elif judgment.finish_reason != "concluded":
        yield f"{passage!r} ended {judgment.finish_reason}: {judgment}"
    elif judgment.log_odds is None or abs(judgment.log_odds - log_odds_of(passage)) > 1e-6:
        yield f"{passage!r} has log-odds {judgment.log_odds}, not {log_odds_of(passage)}"
    elif judgment.reasoning != reasoning_about(passage):
        yield f"{passage!r} has the reasoning {judgment.reasoning!r}"


def own_sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for descriptor in os.scandir("/proc/self/fd"):
        # It may have been closed meanwhile. pathlib would intern each name for ever.
        with contextlib.suppress(OSError):
            count += os.readlink(descriptor.path).startswith("socket:")  # noqa: PTH115
    return count


def memory() -> float:
    """Return the memory that this process has resident, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE")) / 1e6


def report(soak: Soak, seconds: float) -> int:
    """Print what came back and return the exit status."""
    tally = soak.tally
    print(
        f"{tally.judgments} judgments in {seconds:.1f} s: {tally.judgments / seconds:.0f}/s, "
        f"{tally.cancelled} calls cancelled, {tally.children} forked children"
    )
    print("finished:", ", ".join(f"{n} {reason}" for reason, n in tally.finish_reasons.items()))
    for error, count in tally.errors.most_common(12):
        print(f"  {count:6} {error}")
    if tally.calls != soak.calls:
        tally.complain(f"{soak.calls - tally.calls} of {soak.calls} calls did not come back")
    flat = {
        "server's open connections": ("server_connections", MOST_CONNECTIONS_GAINED),
        "own open sockets": ("own_sockets", MOST_CONNECTIONS_GAINED),
        "memory (MB)": ("memory", MOST_MEMORY_GAINED),
    }
    for name, (attribute, limit) in flat.items():
        values = [getattr(sample, attribute) for sample in soak.samples]
        quarter = max(1, len(values) // 4)
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        print(f"{name}: first quarter {first:.1f}, last {last:.1f}, highest {max(values):.1f}")
        if last - first > limit:
            tally.complain(f"{name} grew by {last - first:.1f}")
    for problem in tally.problems[:20]:
        print("PROBLEM:", problem)
    print(f"{len(tally.problems)} problems")
    return 1 if tally.problems else 0


def _kind(error: str) -> str:
    """Return an error's beginning, without what differs between errors of one kind."""
    return (error.partition("/v1")[2] or error)[:110]


if __name__ == "__main__":
    main()
