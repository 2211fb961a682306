"""Ends the processes of a model when the process that loaded it is gone; run as a script.

A process that is killed can end nothing, and vLLM's child processes would keep the model in
memory. Its arguments are the process id of the owner, and id and creation time of each process of
the model: an id alone could be a stranger's by then.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, also after its id was given to another one.

    Attributes:
        pid: The process id.
        created: When it was created, in seconds since 1970 as psutil tells it.
    """

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a process that runs; None if there is none with this id."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def find(self) -> psutil.Process | None:
        """Return the process; None if it is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if process.create_time() == self.created:
                return process
        return None

    def kill_family(self) -> None:
        """Kill the process and its descendants."""
        process = self.find()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            for member in (*process.children(recursive=True), process):
                # psutil checks the creation time once more.
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()


def watch(owner: int, model: Sequence[ProcessIdentity]) -> None:
    """Wait for the model's end, or bring it about when its owner is gone.

    Args:
        owner: Process id of the process that loaded the model, and started this one.
        model: The processes that run it.
    """
    while any(process.find() for process in model):
        # A process whose parent ended gets another one: the id can't be reused unnoticed.
        if os.getppid() != owner:
            for process in model:
                process.kill_family()
            return
        time.sleep(_INTERVAL_SECONDS)


def main(arguments: Sequence[str]) -> None:
    """Watch the processes that the command line names."""
    owner, *processes = arguments
    pairs = (process.split(":") for process in processes)
    watch(int(owner), [ProcessIdentity(int(pid), float(created)) for pid, created in pairs])


if __name__ == "__main__":
    main(sys.argv[1:])
