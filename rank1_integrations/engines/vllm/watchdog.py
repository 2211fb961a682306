"""Ends the processes of a model when the process that loaded it is gone; run as a script.

A process that is killed can end nothing any more, and vLLM's would keep the model in memory: so
another one watches. Its arguments are the process ids of who loaded the model, and of the model.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

import psutil

_PAUSE = 1.0


def kill_family(process_id: int) -> None:
    """Kill a process and those that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process_id)
        for member in (*parent.children(recursive=True), parent):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def watch(owner: int, model: list[int]) -> None:
    """Wait for the model's end, or bring it about when this process has lost its parent.

    Args:
        owner: The process that started this one, and that loaded the model.
        model: The processes that run it.
    """
    while any(map(psutil.pid_exists, model)):
        if os.getppid() != owner:
            for process_id in model:
                kill_family(process_id)
            return
        time.sleep(_PAUSE)


if __name__ == "__main__":
    watch(int(sys.argv[1]), list(map(int, sys.argv[2:])))
