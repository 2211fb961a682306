"""Checkpoints on disk: what tells one from another, and what to do if one can't be loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rank1_integrations.exceptions import ConfigurationError


def checkpoint_fingerprint(model: str) -> str:
    """Return a text that changes when another checkpoint takes the place of this one.

    Args:
        model: A folder, whose files' names, sizes and times count; or a name on the hub, which
            stands for itself.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    files = sorted(path for path in folder.iterdir() if path.is_file())
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return f"{folder.name} {hashlib.sha256(repr(state).encode()).hexdigest()}"


def load_error(model: str, library: str, error: Exception) -> ConfigurationError:
    """Return the error of a checkpoint that can't be loaded, with what to do."""
    hint = (
        "check that the folder holds a whole checkpoint; if a download was interrupted, delete it "
        "and download it again"
        if Path(model).is_dir()
        else "check the name, and that it can be downloaded; if a download was interrupted, "
        "delete it from the hub's cache and download it again"
    )
    detail = str(error).strip() or type(error).__name__
    return ConfigurationError(f"can't load {model!r} with {library}: {detail}; {hint}")
