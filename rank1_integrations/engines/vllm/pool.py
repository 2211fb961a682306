"""The pool of models that vLLM runs for this process, shared by reference count.

vLLM runs the model in child processes that outlive their owner: nothing ends them when the objects
that use them are collected or this process is killed, and at the interpreter's exit
multiprocessing waits for them for ever. So this module counts references, ends what is left
before the interpreter exits, and starts a watchdog for each model.
"""

from __future__ import annotations

import atexit
import contextlib
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

import psutil

from rank1_integrations.exceptions import ConfigurationError, MissingExtraError

try:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
except ImportError as error:
    raise MissingExtraError("vllm", "vllm") from error

from rank1_integrations.engines.checkpoint import checkpoint_fingerprint, load_error
from rank1_integrations.engines.vllm import watchdog

logger = logging.getLogger(__name__)

# Nobody reads the statistics here, and they cost time at every token.
_DEFAULTS = {"disable_log_stats": True}
_NEEDED = {"logprobs_mode": "raw_logprobs", "skip_tokenizer_init": False}

# Arguments with which the same checkpoint gives other scores.
_CHANGE_SCORES = (
    *("revision", "tokenizer", "tokenizer_revision"),
    *("dtype", "quantization", "hf_overrides"),
)

_POLL_SECONDS = 0.1


@dataclasses.dataclass(slots=True, eq=False)
class Model:
    """A model in memory.

    Attributes:
        name: Name on the hub, or the absolute path of its folder.
        fingerprint: Tells it from other states of the same folder.
        engine_args: What it was loaded with.
        llm: vLLM's engine.
        processes: vLLM's child processes that run it.
        watchdog: Kills them when this process is gone.
        refcount: Engines that use it.
    """

    name: str
    fingerprint: str
    engine_args: dict[str, Any]
    llm: AsyncLLM
    processes: set[BaseProcess]
    watchdog: subprocess.Popen[bytes]
    refcount: int = 1


# Held while a model is loaded, for minutes: one at a time.
_loading = threading.Lock()
# Held while a model is ended, for seconds: the next one is loaded into its memory.
_ending = threading.Lock()
# Guards the list and its reference counts, for no time.
_registry = threading.Lock()
_models: list[Model] = []


def acquire(name: str, engine_args: Mapping[str, Any]) -> Model:
    """Return the model, loaded unless it is in memory with the same arguments; `release` it once.

    Args:
        name: A checkpoint's name on the hub, or its folder.
        engine_args: Fields of vLLM's `AsyncEngineArgs`.

    Raises:
        ConfigurationError: An argument is unknown, or vLLM can't load the model with them.
    """
    _check(engine_args)
    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    fingerprint = _fingerprint(name, engine_args)
    model = _share(name, fingerprint, engine_args)
    if model is not None:
        return model
    with _loading:
        model = _share(name, fingerprint, engine_args)
        if model is None:
            model = _add(name, fingerprint, engine_args)
        return model


def release(model: Model) -> None:
    """Give up one reference; end the model with the last one and wait for its processes."""
    with _ending:
        with _registry:
            model.refcount -= 1
            is_last = not model.refcount and model in _models
            if is_last:
                _models.remove(model)
        if is_last:
            _end(model)


def release_soon(model: Model) -> None:
    """Give up one reference without waiting, for the garbage collector."""
    threading.Thread(target=release, args=(model,), name="rank1-release").start()


def _fingerprint(name: str, engine_args: Mapping[str, Any]) -> str:
    changes = [f"{key}={engine_args[key]!r}" for key in _CHANGE_SCORES if key in engine_args]
    return " ".join([checkpoint_fingerprint(name), *changes])


def _share(name: str, fingerprint: str, engine_args: Mapping[str, Any]) -> Model | None:
    """Return a model that is in memory with the same arguments, with one more reference."""
    with _registry:
        for model in _models:
            is_same = (model.name, model.fingerprint, model.engine_args) == (
                *(name, fingerprint),
                engine_args,
            )
            if is_same and not model.llm.errored:
                model.refcount += 1
                return model
    return None


def _add(name: str, fingerprint: str, engine_args: Mapping[str, Any]) -> Model:
    with _registry:
        has_copy = any(model.name == name and not model.llm.errored for model in _models)
    if has_copy:
        logger.warning(
            "%s is in memory already, with other engine_args or before its files changed: loading "
            "a second copy. Rank1 objects with the same engine_args share one",
            name,
        )
    with _ending:
        others = _processes()
    llm = _load(name, engine_args)
    processes = _processes() - others
    watchdog_process = _start_watchdog(processes)
    model = Model(name, fingerprint, deepcopy(dict(engine_args)), llm, processes, watchdog_process)
    with _registry:
        _models.append(model)
    return model


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
    """Load the model on a thread of its own.

    vLLM would bind itself to an event loop that runs in its thread. Its processes inherit the
    thread's signal mask: with SIGINT blocked, Ctrl-C ends the caller's work and not the model,
    which may have taken minutes to load.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # The child process that vLLM starts imports the caller's script first.
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
    except Exception as error:
        # A damaged file raises whatever its parser raises, wrapped by vLLM or not.
        raise load_error(name, "vLLM", error) from error
    except BaseException:
        # Ctrl-C: nobody will use the model.
        loaded.cancel()
        # vLLM may be about to start its processes, and gives up when it has lost them.
        while loading.is_alive():
            for process in _running(_processes() - others):
                watchdog.kill_family(process)
            loading.join(_POLL_SECONDS)
        raise


def _processes() -> set[BaseProcess]:
    """Return the child processes that vLLM has started for this process."""
    return {child for child in multiprocessing.active_children() if "EngineCore" in child.name}


def _start_watchdog(processes: set[BaseProcess]) -> subprocess.Popen[bytes]:
    """Start the watchdog, in a session of its own that no signal of a terminal reaches."""
    return subprocess.Popen(
        # Without -P, a file beside the script could be imported instead of a library.
        [
            *(sys.executable, "-P", watchdog.__file__, str(os.getpid())),
            *map(watchdog.describe, _running(processes)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _running(processes: set[BaseProcess]) -> list[psutil.Process]:
    """Return those that still run, as objects that know a process from a later one's id."""
    running = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            running.append(psutil.Process(process.pid))
    return running


def _end_all() -> None:
    """At exit: end the models that were never released."""
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
    model.watchdog.kill()
    model.watchdog.wait()


def _done(timeout: float | None = None) -> None:
    """Nothing is left to shut down."""


def _forget_all() -> None:
    """In a forked child: the models are the parent's."""
    global _loading, _ending, _registry
    _loading, _ending, _registry = threading.Lock(), threading.Lock(), threading.Lock()
    for model in _models:
        model.llm.shutdown = _done
    _models.clear()


# Exit handlers run in reverse order: this one, registered after vLLM's import, runs before
# multiprocessing's.
atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)
