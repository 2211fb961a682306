"""A process that forks: both sides judge, and neither hears the other's answers.

As with multiprocessing's fork pools, gunicorn's --preload and Celery's prefork workers.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from rank1_integrations import Rank1
from rank1_integrations.engines.base import Completion, Engine, Request
from rank1_integrations.testing import ScriptedEngine
from tests.unit.gates import Gate, mentions

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Child:
    """A forked child that runs a function, reports its result, and lives until it is released."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._results, results = os.pipe()
        release, self._release = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            signal.alarm(30)
            try:
                text = str(function())
            except BaseException as error:
                text = f"{type(error).__name__}: {error}"
            os.write(results, text.encode() + b"\n")
            os.close(self._release)
            os.read(release, 1)
            os._exit(0)
        os.close(results)
        os.close(release)

    def result(self) -> str:
        """Wait for the function's result; the child lives on."""
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(self._results, 1000) or b" (the child died)\n"
        return text.decode().strip()

    def end(self) -> None:
        os.close(self._release)
        os.close(self._results)
        os.waitpid(self._process, 0)


def in_child(function: Callable[[], object]) -> str:
    child = Child(function)
    text = child.result()
    child.end()
    return text


def number_script(passage: str) -> float:
    return float(passage.split()[-1])


def scores(rank1: Rank1, *values: float) -> list[float | None]:
    return [one.log_odds for one in rank1.judge("q", [f"passage {value}" for value in values])]


@pytest.mark.parametrize("options", [{}, {"cache": {}}, {"deadline": 60}, {"thinking": "adaptive"}])
def test_parent_and_child_judge_correctly_on_a_used_object(options: dict[str, Any]) -> None:
    engine = ScriptedEngine(number_script)
    rank1 = Rank1(engine, **options)
    assert scores(rank1, 1, 2) == [1, 2]
    before = len(engine.requests)
    assert in_child(lambda: scores(rank1, 3, 4)) == "[3.0, 4.0]"
    assert len(engine.requests) == before
    assert scores(rank1, 5, 6) == [5, 6]


def test_parent_and_child_judge_correctly_on_an_unused_object() -> None:
    rank1 = Rank1(ScriptedEngine(number_script))
    assert in_child(lambda: scores(rank1, 3)) == "[3.0]"
    assert scores(rank1, 5) == [5]


def test_a_child_of_a_child_judges_too() -> None:
    rank1 = Rank1(ScriptedEngine(number_script))
    assert scores(rank1, 1) == [1]
    assert in_child(lambda: (scores(rank1, 2), in_child(lambda: scores(rank1, 3)))) == (
        "([2.0], '[3.0]')"
    )


def test_a_fork_amid_a_call_disturbs_neither_side() -> None:
    gate = Gate()
    rank1 = Rank1(ScriptedEngine(number_script, hold=gate.hold(mentions("held"))))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(rank1.judge, "q", ["held 1", "held 2"])
        gate.await_arrivals(2)
        assert in_child(lambda: scores(rank1, 3, 4)) == "[3.0, 4.0]"
        gate.open()
        assert [one.log_odds for one in call.result(10)] == [1, 2]


class InProcess(ScriptedEngine):
    """A model in this process's memory."""

    after_fork = Engine.after_fork


def test_a_model_in_the_parents_memory_says_that_it_was_loaded_before_the_fork() -> None:
    rank1 = Rank1(InProcess(number_script))
    assert scores(rank1, 1) == [1]
    message = in_child(lambda: scores(rank1, 2))
    assert message.startswith("EngineError: scripted was loaded before this process was forked")
    assert "make a new Rank1 object in the child process" in message
    assert scores(rank1, 3) == [3]


def test_closing_in_the_child_closes_nothing_of_the_parents() -> None:
    engine = ScriptedEngine(number_script)
    rank1 = Rank1(engine)
    assert scores(rank1, 1) == [1]

    def close_and_judge() -> object:
        rank1.close()
        return engine.closed, scores(rank1, 2)

    assert in_child(close_and_judge) == "Rank1Error: this Rank1 object is closed: make a new one"
    assert not engine.closed
    assert scores(rank1, 3) == [3]


# Connections


class LineServer:
    """Answers each line with a number's own line, and records what each connection said."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[int, list[str]] = defaultdict(list)
        self.ended: dict[int, threading.Event] = defaultdict(threading.Event)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(number, connection), daemon=True).start()
            number += 1

    def _serve(self, number: int, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as file:
            for line in file:
                self.lines[number].append(line.strip())
                file.write(line)
                file.flush()
        self.ended[number].set()

    def close(self) -> None:
        self._listener.close()


class LineEngine(ScriptedEngine):
    """Gets its numbers over one kept connection, as an HTTP client's pool keeps one."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, float] = {}
        super().__init__(self.answers.__getitem__)
        self.path = path
        self._lock = asyncio.Lock()
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def complete(self, request: Request) -> Completion:
        prompt = request.prompt
        text = prompt if isinstance(prompt, str) else await self.decode(prompt)
        passage = re.findall("Passage: (.*)", text or "")[-1]
        async with self._lock:
            if self.connection is None:
                self.connection = await asyncio.open_unix_connection(self.path)
            reader, writer = self.connection
            writer.write(f"{passage}\n".encode())
            self.answers[passage] = number_script((await reader.readline()).decode())
        return await super().complete(request)

    async def aclose(self) -> None:
        if self.connection is not None:
            self.connection[1].close()

    def after_fork(self) -> Self:
        return type(self)(self.path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LineServer]:
    server = LineServer(tmp_path / "socket")
    yield server
    server.close()


def test_a_child_closes_the_parents_connection_without_a_word_on_it(
    server: LineServer, tmp_path: Path
) -> None:
    engine = LineEngine(tmp_path / "socket")
    rank1 = Rank1(engine)
    assert scores(rank1, 1, 2) == [1, 2]
    assert engine.connection is not None
    descriptor = engine.connection[1].get_extra_info("socket").fileno()

    def judge_and_collect() -> object:
        values = scores(rank1, 3, 4)
        gc.collect()
        return values, os.fstat(descriptor).st_rdev == Path(os.devnull).stat().st_rdev

    child = Child(judge_and_collect)
    try:
        assert child.result() == "([3.0, 4.0], True)"
        assert scores(rank1, 5, 6) == [5, 6]
        rank1.close()
        # The child lives: the connection would stay open if it still held a copy.
        assert server.ended[0].wait(10)
    finally:
        child.end()
    assert {*server.lines[0]} == {f"passage {value}" for value in (1, 2, 5, 6)}
    assert {*server.lines[1]} == {"passage 3", "passage 4"}
