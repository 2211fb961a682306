"""Models that vLLM runs for this process: loaded once, shared, and ended with their last user.

vLLM runs a model in processes of its own, which nothing ends by itself: not when the objects
that use them are collected, not when this process is killed, and at the interpreter's exit
multiprocessing waits for them for ever. So this module counts users, ends what is left before the
interpreter does, and has each model watched for the case that this process can't end it.
"""

from __future__ import annotations

import atexit
import dataclasses
import difflib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from copy import deepcopy
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rank1_integrations.exceptions import ConfigurationError, MissingExtraError

try:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
except ImportError as error:
    raise MissingExtraError("vllm", "vllm") from error

from rank1_integrations.engines.vllm import watchdog

logger = logging.getLogger(__name__)

# Statistics are for servers with someone who reads them; they cost time at every token.
_DEFAULTS = {"disable_log_stats": True}
_NEEDED = {"logprobs_mode": "raw_logprobs", "skip_tokenizer_init": False}

# Seconds between two looks for processes that are to go.
_PAUSE = 0.1


@dataclasses.dataclass(slots=True, eq=False)
class Model:
    """A model in memory, and how many engines use it."""

    name: str
    engine_args: dict[str, Any]
    llm: AsyncLLM
    processes: set[BaseProcess]
    watch: subprocess.Popen[bytes]
    users: int = 1


# One model is loaded or ended at a time: the memory of one is what the next is loaded into.
_lock = threading.Lock()
_models: list[Model] = []


def acquire(name: str, engine_args: Mapping[str, Any]) -> Model:
    """The model, loaded unless it is already with the same arguments; `release` it once.

    Args:
        name: A checkpoint's name on the hub, or its folder.
        engine_args: Fields of vLLM's `AsyncEngineArgs`.

    Raises:
        ConfigurationError: An argument is unknown, or vLLM can't load the model with them.
    """
    _check(engine_args)
    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    with _lock:
        same = [model for model in _models if model.name == name and not model.llm.errored]
        for model in same:
            if model.engine_args == engine_args:
                model.users += 1
                return model
        if same:
            logger.warning(
                "%s is in memory already, with other engine_args: a second copy is loaded. "
                "Rank1 objects with the same engine_args share one",
                name,
            )
        others = _processes()
        llm = _load(name, engine_args)
        processes = _processes() - others
        model = Model(name, deepcopy(dict(engine_args)), llm, processes, _watch(processes))
        _models.append(model)
        return model


def release(model: Model) -> None:
    """End the model with its last user; returns when its processes are gone."""
    with _lock:
        model.users -= 1
        if not model.users and model in _models:
            _models.remove(model)
            _end(model)


def release_apart(model: Model) -> None:
    """`release` for the garbage collector, which must not wait."""
    threading.Thread(target=release, args=(model,), name="rank1-release").start()


def _check(engine_args: Mapping[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in engine_args:
        if name == "model":
            raise ConfigurationError("engine_args must not hold a model: model= names it")
        if name == "hf_token" and isinstance(engine_args[name], str):
            raise ConfigurationError(
                "engine_args must not hold a token, which would show in serialized settings: "
                "set HF_TOKEN of the environment"
            )
        if name in _NEEDED and engine_args[name] != _NEEDED[name]:
            raise ConfigurationError(f"engine_args: {name} must stay {_NEEDED[name]!r}")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f" (there is {', '.join(close)})" if close else ""
            raise ConfigurationError(f"engine_args: vLLM knows no {name!r}{hint}")


def _load(name: str, engine_args: Mapping[str, Any]) -> AsyncLLM:
    """Load on a thread of its own, which an event loop of the caller's does not reach.

    vLLM would tie itself to a loop that runs in its thread, and its processes inherit that
    thread's signal mask: with Ctrl-C held back there, it ends the caller's work and not the model,
    which may have taken minutes to load.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # The process that vLLM starts runs the caller's script to its end first.
        raise ConfigurationError(
            "vLLM starts processes that import your script: make the Rank1 object under "
            "if __name__ == '__main__':"
        )
    loaded: Future[AsyncLLM] = Future()
    # Starting multiprocessing's own helper would undo the mask.
    resource_tracker.ensure_running()

    def load() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            args = AsyncEngineArgs(model=name, **{**_DEFAULTS, **engine_args})
            llm = AsyncLLM.from_engine_args(args)
        except BaseException as error:
            if loaded.set_running_or_notify_cancel():
                loaded.set_exception(error)
        else:
            if loaded.set_running_or_notify_cancel():
                loaded.set_result(llm)
            else:
                llm.shutdown()

    others = _processes()
    loading = threading.Thread(target=load, name="rank1-load", daemon=True)
    loading.start()
    try:
        return loaded.result()
    except Exception as error:  # vLLM raises many kinds
        raise ConfigurationError(f"can't load {name!r} with vLLM: {error}") from error
    except BaseException:
        # Ctrl-C: no one will use what is being loaded.
        loaded.cancel()
        # vLLM may be about to start its processes, and gives up when it has lost them.
        while loading.is_alive():
            for process_id in _ids(_processes() - others):
                watchdog.kill_family(process_id)
            loading.join(_PAUSE)
        raise


def _processes() -> set[BaseProcess]:
    """Those that vLLM has started for this process, each with more of its own."""
    return {child for child in multiprocessing.active_children() if "EngineCore" in child.name}


def _watch(processes: set[BaseProcess]) -> subprocess.Popen[bytes]:
    """Have processes killed when this one is gone, by one that no signal of a terminal reaches."""
    return subprocess.Popen(
        # Without -P, what lies beside the script could be imported in place of what it means.
        [sys.executable, "-P", watchdog.__file__, *map(str, [os.getpid(), *_ids(processes)])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _ids(processes: set[BaseProcess]) -> list[int]:
    return [process.pid for process in processes if process.pid is not None]


def _end_all() -> None:
    """At exit: end the models whose users were never closed."""
    for model in _models:
        _end(model)
    _models.clear()


def _end(model: Model) -> None:
    model.llm.shutdown()
    # Its __del__ would call this once more, perhaps when the interpreter is half gone.
    model.llm.shutdown = _done
    for process in model.processes:
        # vLLM leaves those that it had to kill as zombies.
        process.join(timeout=10)
    model.watch.kill()
    model.watch.wait()


def _done(timeout: float | None = None) -> None:
    """Nothing is left to shut down."""


def _forget_all() -> None:
    """In a forked child: the models are the parent's."""
    global _lock
    _lock = threading.Lock()
    for model in _models:
        model.llm.shutdown = _done
    _models.clear()


# Exit handlers run last come, first served: this one, registered after vLLM's import, comes
# before multiprocessing's.
atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)
