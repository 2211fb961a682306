"""A hundred thousand passages in one call: how soon a failure shows, and what the call costs.

Each measurement runs in a process of its own on a scripted engine. Bounds are on CPU time of the
background loop's thread, since wall time also counts what else the machine does; both are printed.
The loop is held for the time between two turns of a heartbeat. A call beside the batch is held up
by no more than what the loop computes during it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rank1_integrations import EngineError, Rank1, _event_loop
from rank1_integrations.config import RankOptions
from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.testing import ScriptedEngine

PASSAGES = 100_000
QUERY = "Which passage holds the number?"

MOST_SECONDS_TO_ERROR = 1.0
MOST_HELD = 50.0  # ms of CPU time
MOST_MEMORY = 60.0  # MB
MOST_ADDED_LATENCY = 50.0  # ms

INTERACTIVE_CALLS = 20
ENGINE_SECONDS = 0.05
HEARTBEAT = 0.001
DEADLINE = 15.0

MODES: dict[str, RankOptions] = {
    "none": {"thinking": "none"},
    "full": {"thinking": "full"},
    "adaptive": {"thinking": "adaptive"},
    "deadline": {"thinking": "full", "deadline": DEADLINE},
}


class LeanEngine(ScriptedEngine):
    """Keeps no requests, so that the memory measured is the package's own."""

    async def complete(self, request: Request) -> Completion:
        """Complete, and forget the request."""
        completion = await super().complete(request)
        self.requests.clear()
        return completion


class Script:
    """Log-odds between -5 and 5; one passage fails, and the direct verdict on it is the best.

    Attributes:
        failed_at: When it failed.
    """

    def __init__(self, failing: str | None) -> None:
        self._failing = failing
        self.failed_at = 0.0

    def __call__(self, passage: str) -> float:
        """Return the log-odds of a passage, or raise."""
        if passage == self._failing:
            self.failed_at = time.perf_counter()
            raise EngineError("this passage can't be judged")
        return (sum(map(ord, passage)) * 7 % 101 - 50) / 10

    def direct(self, passage: str) -> float:
        """Return the log-odds of a direct verdict that comes before reasoning."""
        return 9.0 if passage == self._failing else self(passage)


@dataclass(slots=True)
class Heartbeat:
    """The longest time between two turns of a coroutine on the background loop, in ms.

    Attributes:
        cpu: CPU time of the loop's thread.
        wall: Wall time.
        clock: The clock of the thread's CPU time.
    """

    cpu: float = 0.0
    wall: float = 0.0
    is_over: bool = False
    clock: int = 0

    async def run(self) -> None:
        """Beat until it is over."""
        self.clock = time.pthread_getcpuclockid(threading.get_ident())
        cpu, wall = time.thread_time(), time.perf_counter()
        while not self.is_over:
            await asyncio.sleep(HEARTBEAT)
            now_cpu, now_wall = time.thread_time(), time.perf_counter()
            self.cpu = max(self.cpu, (now_cpu - cpu) * 1e3)
            self.wall = max(self.wall, (now_wall - wall) * 1e3)
            cpu, wall = now_cpu, now_wall


@contextmanager
def heartbeat() -> Iterator[Heartbeat]:
    """Measure how long the background loop is held."""
    beat = Heartbeat()
    # The thread's start is not what is measured.
    _event_loop.run(asyncio.sleep(0))
    _event_loop.spawn(beat.run)
    try:
        yield beat
    finally:
        beat.is_over = True


def passages(count: int) -> list[str]:
    """Return different passages of few words: the engine has a vocabulary too."""
    return [f"The number is {' '.join(str(number))}." for number in range(count)]


def failure(mode: str, count: int) -> dict[str, float]:
    """Measure a call that fails, or that its deadline ends."""
    texts = passages(count)
    with heartbeat() as beat, resident_memory() as gained:
        late, seconds = _fail(mode, texts)
    return {
        "seconds": seconds,
        "late": late,
        "held cpu": beat.cpu,
        "held wall": beat.wall,
        "resident": gained[0],
    }


def traces(mode: str, count: int) -> dict[str, float]:
    """Measure the memory that Python allocates for the same call."""
    texts = passages(count)
    with traced_memory() as gained:
        _fail(mode, texts)
    return {"traced": gained[0]}


def _fail(mode: str, texts: list[str]) -> tuple[float, float]:
    """Return how long after the failure or the deadline a call ended, and how long it took.

    A passage fails after three quarters of the verdicts; with `adaptive` in the reasoning that
    follows them. The deadline passes amid the direct verdicts.
    """
    failing = None if mode == "deadline" else texts[len(texts) * 3 // 4]
    script = Script(failing)
    direct = script.direct if mode == "adaptive" else script
    with Rank1(LeanEngine(script, direct=direct), **MODES[mode]) as rank1:
        rank1.judge(QUERY, ["warm up"])
        begun = time.perf_counter()
        try:
            rank1.judge(QUERY, texts)
        except EngineError:
            expected = script.failed_at
        else:
            expected = begun + DEADLINE
        ended = time.perf_counter()
    return ended - expected, ended - begun


def beside(mode: str, count: int) -> dict[str, float]:
    """Measure calls with one passage beside a batch, above the engine's own time."""
    return asyncio.run(_beside(mode, passages(count)))


async def _beside(mode: str, texts: list[str]) -> dict[str, float]:
    engine = LeanEngine(Script(None), seconds=ENGINE_SECONDS)
    options: RankOptions = {**MODES[mode]}
    if mode == "deadline":
        # It must not pass before the interactive calls are made.
        options["deadline"] = 600.0
    added, held_up = [], []
    async with Rank1(engine, **options) as rank1:
        await rank1.ajudge(QUERY, ["warm up"])
        with heartbeat() as beat:
            batch = asyncio.create_task(rank1.ajudge(QUERY, texts))
            await asyncio.sleep(1.0)
            for number in range(INTERACTIVE_CALLS):
                begun, computed = time.perf_counter(), time.clock_gettime(beat.clock)
                result = await rank1.arank(QUERY, [f"interactive {number}"])
                seconds = time.perf_counter() - begun
                computed = time.clock_gettime(beat.clock) - computed
                added.append((seconds - result.usage.requests * ENGINE_SECONDS) * 1e3)
                held_up.append(min(added[-1], computed * 1e3))
                await asyncio.sleep(0.1)
            assert not batch.done()
            begun = time.perf_counter()
            batch.cancel()
            await asyncio.wait([batch])
            cancelled = time.perf_counter() - begun
    return {
        "added median": statistics.median(added),
        "added most": max(held_up),
        "added wall": max(added),
        "cancel": cancelled,
        "beside held": beat.cpu,
    }


@contextmanager
def resident_memory() -> Iterator[list[float]]:
    """Yield a list that gets the most memory resident above that at the beginning, in MB."""
    gained: list[float] = []
    # Resets the peak: https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    yield gained
    gained.append(_status("VmHWM") - before)


@contextmanager
def traced_memory() -> Iterator[list[float]]:
    """Yield a list that gets the most memory allocated by Python code since, in MB."""
    gained: list[float] = []
    tracemalloc.start()
    yield gained
    gained.append(tracemalloc.get_traced_memory()[1] / 1e6)
    tracemalloc.stop()


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(name)


MEASUREMENTS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "failure": failure,
    "traces": traces,
    "beside": beside,
}
# Name, unit, bound.
COLUMNS: tuple[tuple[str, str, float | None], ...] = (
    ("seconds", "s", None),
    ("late", "s", MOST_SECONDS_TO_ERROR),
    ("held cpu", "ms", MOST_HELD),
    ("held wall", "ms", None),
    ("resident", "MB", MOST_MEMORY),
    ("traced", "MB", MOST_MEMORY),
    ("added median", "ms", MOST_ADDED_LATENCY),
    ("added most", "ms", MOST_ADDED_LATENCY),
    ("added wall", "ms", None),
    ("cancel", "s", MOST_SECONDS_TO_ERROR),
    ("beside held", "ms", MOST_HELD),
)


def main() -> None:
    """Print a table, and exit with status 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--passages", type=int, default=PASSAGES, help="10,000 at least")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[*MODES])
    parser.add_argument("--measure", choices=MEASUREMENTS, help="one alone, as JSON")
    options = parser.parse_args()
    if options.measure:
        figures = MEASUREMENTS[options.measure](options.modes[0], options.passages)
        print(json.dumps(figures))
        return
    print(f"{options.passages} passages")
    print(f"{'':>10}" + "".join(f" {name:>12}" for name, *_ in COLUMNS))
    print(f"{'bound':>10}" + "".join(f" {bound or '':>9} {unit:>2}" for _, unit, bound in COLUMNS))
    exceeded: list[str] = []
    for mode in options.modes:
        figures = _measure(mode, options.passages)
        print(f"{mode:>10}" + "".join(f" {figures[n]:12.2f}" for n, *_ in COLUMNS), flush=True)
        exceeded += [f"{mode}: {n}" for n, _, bound in COLUMNS if bound and figures[n] > bound]
    print("out of bounds:", ", ".join(exceeded) or "nothing")
    sys.exit(bool(exceeded))


def _measure(mode: str, count: int) -> dict[str, float]:
    """Run each measurement in a process of its own."""
    figures: dict[str, float] = {}
    for name in MEASUREMENTS:
        command = (sys.executable, "-m", "benchmarks.many_passages", f"--passages={count}")
        arguments = ("--modes", mode, "--measure", name)
        done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, check=True)
        figures |= json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
