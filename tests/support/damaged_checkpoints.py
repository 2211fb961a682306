"""The demonstration model's checkpoint, damaged as interrupted downloads leave checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from rank1_integrations.demo_model import DEMO_MODEL


def write_damaged_checkpoint(folder: Path, damage: Callable[[Path], None]) -> None:
    """Copy the demonstration model to `folder` and damage the copy."""
    shutil.copytree(DEMO_MODEL, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    damage(folder)


def _truncate(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def _replace(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def _remove(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def _remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


# What Git leaves in place of a large file without Git LFS.
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n"

DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated weights": _truncate("model.safetensors"),
    "empty weights": _replace("model.safetensors", ""),
    "weights are a Git LFS pointer": _replace("model.safetensors", _POINTER),
    "no weights": _remove("model.safetensors"),
    "truncated config": _truncate("config.json"),
    "config of nothing": _replace("config.json", "{}"),
    "config is a list": _replace("config.json", "[]"),
    "no config": _remove("config.json"),
    "truncated tokenizer": _truncate("tokenizer.json"),
    "tokenizer of nothing": _replace("tokenizer.json", "{}"),
    "no vocabulary": _remove("tokenizer.json"),
    "no tokenizer": _remove("tokenizer.json", "tokenizer_config.json"),
    "no files": _remove_all,
}
