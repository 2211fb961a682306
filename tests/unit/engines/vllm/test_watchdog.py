"""The watchdog kills the processes that it was told about, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

psutil = pytest.importorskip("psutil", reason="comes with vLLM")
watchdog = pytest.importorskip("rank1_integrations.engines.vllm.watchdog")

# Prints its child's process id and waits.
FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""
SOMEONE_ELSE = 1
"""A process id that is not this process's parent: as if the owner had ended."""


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    yield process
    process.kill()
    process.communicate()


def child_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def is_gone(process: psutil.Process) -> bool:
    try:
        process.wait(30)
    except psutil.TimeoutExpired:
        return False
    return True


def test_a_model_is_killed_with_its_children_when_its_owner_is_gone(
    family: subprocess.Popen[bytes],
) -> None:
    child = child_of(family)
    watchdog.main([str(SOMEONE_ELSE), watchdog.describe(psutil.Process(family.pid))])
    assert family.wait(30) < 0
    assert is_gone(child)


def test_a_stranger_with_a_reused_id_is_left_alone(family: subprocess.Popen[bytes]) -> None:
    child = child_of(family)
    created = psutil.Process(family.pid).create_time()
    watchdog.main([str(SOMEONE_ELSE), f"{family.pid}:{created - 60}"])
    assert family.poll() is None
    assert child.is_running()


def test_creation_times_are_recognised_when_the_clock_was_set_by_a_second(
    family: subprocess.Popen[bytes],
) -> None:
    created = psutil.Process(family.pid).create_time()
    found = watchdog.find(f"{family.pid}:{created + 1}")
    assert found == psutil.Process(family.pid)


def test_the_strangers_beside_a_model_are_left_alone(family: subprocess.Popen[bytes]) -> None:
    model = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(family.pid).create_time()
    watchdog.main(
        [
            str(SOMEONE_ELSE),
            f"{family.pid}:{created - 60}",
            watchdog.describe(psutil.Process(model.pid)),
        ]
    )
    assert model.wait(30) < 0
    model.communicate()
    assert family.poll() is None


def test_it_ends_by_itself_when_the_model_has_ended() -> None:
    model = subprocess.Popen([sys.executable, "-c", ""])
    description = watchdog.describe(psutil.Process(model.pid))
    model.wait()
    watchdog.main([str(os.getppid()), description])
