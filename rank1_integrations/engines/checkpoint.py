"""Checkpoints: telling one from another, and explaining why one can't be loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rank1_integrations.exceptions import ConfigurationError

# Configuration, vocabulary and weights. A training log in the same folder does not count.
_SUFFIXES = {".json", ".model", ".txt", ".safetensors", ".bin", ".pt", ".pth", ".gguf"}


def checkpoint_fingerprint(model: str) -> str:
    """Return a text that changes when the checkpoint is replaced by another one.

    Args:
        model: A folder: names, sizes and modification times of its files are hashed, since reading
            the weights takes minutes. Or a name on the hub, which stands for itself.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _SUFFIXES and path.is_file():
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return f"{folder.resolve().name} {digest.hexdigest()}"


def load_error(model: str, library: str, error: Exception) -> ConfigurationError:
    """Return the error for a checkpoint that can't be loaded, with what to do."""
    hint = (
        "Check that the folder holds a whole checkpoint. If a download was interrupted or a file "
        "is damaged, delete it and download it again"
        if Path(model).is_dir()
        else "Check the name, and that it can be downloaded. If a download was interrupted, delete "
        "it from the hub's cache and download it again"
    )
    cause = str(error).strip().rstrip(".") or type(error).__name__
    return ConfigurationError(f"can't load {model!r} with {library}: {cause}. {hint}")
