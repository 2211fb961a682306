"""Ends the processes of a model when the process that loaded it is gone; run as a script.

A process that is killed can end nothing, and vLLM's child processes would keep the model in
memory. The arguments are the process id of the owner, and for each process of the model its id and
creation time: the id alone may be a stranger's by the time that it is read.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence

import psutil

_INTERVAL_SECONDS = 1.0

# Linux derives creation times from the clock, which may be set meanwhile. No process id is given to
# another process so soon.
_TOLERANCE_SECONDS = 2.0


def describe(process: psutil.Process) -> str:
    """Return id and creation time of a process, for `find`."""
    return f"{process.pid}:{process.create_time()}"


def find(description: str) -> psutil.Process | None:
    """Return the process that `describe` described; None if it is gone.

    From here on psutil notices by itself when another process gets the id, before it kills.
    """
    pid, created = description.split(":")
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid))
        if abs(process.create_time() - float(created)) <= _TOLERANCE_SECONDS:
            return process
    return None


def kill_family(process: psutil.Process) -> None:
    """Kill a process and its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def watch(owner: int, model: Sequence[psutil.Process]) -> None:
    """Wait for the model's end, or bring it about when its owner is gone.

    Args:
        owner: Process id of the process that loaded the model and started this one.
        model: The processes that run it.
    """
    while any(process.is_running() for process in model):
        # The parent's end changes this at once, so a reused id of the owner does not matter.
        if os.getppid() != owner:
            for process in model:
                kill_family(process)
            return
        time.sleep(_INTERVAL_SECONDS)


def main(arguments: Sequence[str]) -> None:
    """Watch the processes that the command line names."""
    owner, *descriptions = arguments
    found = [find(description) for description in descriptions]
    watch(int(owner), [process for process in found if process is not None])


if __name__ == "__main__":
    main(sys.argv[1:])
