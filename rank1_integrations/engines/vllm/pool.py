"""The pool of models that vLLM runs for this process, shared by reference count.

vLLM runs the model in child processes that outlive their owner: nothing ends them when the objects
that use them are collected or this process is killed, and at the interpreter's exit
multiprocessing waits for them for ever. So this module counts references, ends what is left
before the interpreter exits, and starts a watchdog for each model.
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

from rank1_integrations.engines.checkpoint import checkpoint_fingerprint, load_error
from rank1_integrations.engines.vllm import watchdog
from rank1_integrations.engines.vllm.watchdog import ProcessIdentity

logger = logging.getLogger(__name__)

# Nobody reads the statistics here, and they cost time at every token.
_DEFAULTS = {"disable_log_stats": True}
_NEEDED = {"logprobs_mode": "raw_logprobs", "skip_tokenizer_init": False}

_POLL_SECONDS = 0.1


@dataclasses.dataclass(slots=True, eq=False)
class Model:
    """A model in memory."""

    name: str
    fingerprint: str
    engine_args: dict[str, Any]
    llm: AsyncLLM
    processes: set[BaseProcess]
    watchdog: subprocess.Popen[bytes]
    refcount: int = 1


# One model is loaded or ended at a time: the next one is loaded into the memory of the last.
_lock = threading.Lock()
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
    fingerprint = checkpoint_fingerprint(name)
    with _lock:
        same = [
            model
            for model in _models
            if (model.name, model.fingerprint) == (name, fingerprint) and not model.llm.errored
        ]
        for model in same:
            if model.engine_args == engine_args:
                model.refcount += 1
                return model
        if same:
            logger.warning(
                "%s is in memory already, with other engine_args: loading a second copy. "
                "Rank1 objects with the same engine_args share one",
                name,
            )
        others = _processes()
        llm = _load(name, engine_args)
        processes = _processes() - others
        model = Model(
            name,
            fingerprint,
            deepcopy(dict(engine_args)),
            llm,
            processes,
            _start_watchdog(processes),
        )
        _models.append(model)
        return model


def release(model: Model) -> None:
    """Give up one reference; end the model with the last one and wait for its processes."""
    with _lock:
        model.refcount -= 1
        if not model.refcount and model in _models:
            _models.remove(model)
            _end(model)


def release_soon(model: Model) -> None:
    """Give up one reference without waiting, for the garbage collector."""
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
    except Exception as error:  # vLLM raises many kinds, and its loaders raise others
        raise load_error(name, "vLLM", error) from error
    except BaseException:
        # Ctrl-C: nobody will use the model.
        loaded.cancel()
        # vLLM may be about to start its processes, and gives up when it has lost them.
        while loading.is_alive():
            for process in _identities(_processes() - others):
                process.kill_family()
            loading.join(_POLL_SECONDS)
        raise


def _processes() -> set[BaseProcess]:
    """Return the child processes that vLLM has started for this process."""
    return {child for child in multiprocessing.active_children() if "EngineCore" in child.name}


def _start_watchdog(processes: set[BaseProcess]) -> subprocess.Popen[bytes]:
    """Start the watchdog, in a session of its own that no signal of a terminal reaches."""
    model = [f"{process.pid}:{process.created!r}" for process in _identities(processes)]
    return subprocess.Popen(
        # Without -P, a file beside the script could be imported instead of a library.
        [sys.executable, "-P", watchdog.__file__, str(os.getpid()), *model],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _identities(processes: set[BaseProcess]) -> list[ProcessIdentity]:
    known = [ProcessIdentity.of(process.pid) for process in processes if process.pid is not None]
    return [identity for identity in known if identity is not None]


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
    global _lock
    _lock = threading.Lock()
    for model in _models:
        model.llm.shutdown = _done
    _models.clear()


# Exit handlers run in reverse order: this one, registered after vLLM's import, runs before
# multiprocessing's.
atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)
