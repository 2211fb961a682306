"""Fingerprints of checkpoints, and errors of those that can't be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rank1_integrations.engines.checkpoint import checkpoint_fingerprint, load_error

FILES = ["config.json", "tokenizer.json", "tokenizer.model", "model.safetensors", "merges.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my-model"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("content")
        os.utime(folder / name, (1, 1))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_retraining_into_the_same_folder_changes_the_fingerprint(folder: Path, name: str) -> None:
    before = checkpoint_fingerprint(str(folder))
    os.utime(folder / name, (2, 2))
    touched = checkpoint_fingerprint(str(folder))
    (folder / name).write_text("longer content")
    os.utime(folder / name, (2, 2))
    assert len({before, touched, checkpoint_fingerprint(str(folder))}) == 3


def test_a_file_more_changes_the_fingerprint(folder: Path) -> None:
    before = checkpoint_fingerprint(str(folder))
    (folder / "adapter.safetensors").write_text("more")
    assert checkpoint_fingerprint(str(folder)) != before


def test_the_fingerprint_stays_when_only_logs_are_written(folder: Path) -> None:
    before = checkpoint_fingerprint(str(folder))
    (folder / "train.log").write_text("epoch 3")
    (folder / "runs").mkdir()
    assert checkpoint_fingerprint(str(folder)) == before


def test_one_folder_has_one_fingerprint_however_it_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = checkpoint_fingerprint(str(folder))
    assert expected.startswith("my-model ")
    monkeypatch.chdir(folder)
    assert checkpoint_fingerprint(".") == expected


def test_a_name_on_the_hub_stands_for_itself() -> None:
    assert checkpoint_fingerprint("jhu-clsp/rank1-7b") == "jhu-clsp/rank1-7b"


def test_the_error_names_checkpoint_library_cause_and_remedy(folder: Path) -> None:
    local = str(load_error(str(folder), "vLLM", OSError("header too large.")))
    assert local.startswith(f"can't load {str(folder)!r} with vLLM: header too large. Check that")
    assert local.endswith("delete it and download it again")
    hub = str(load_error("someone/model", "vLLM", OSError("not found")))
    assert "Check the name" in hub
    assert "delete it from the hub's cache and download it again" in hub


def test_an_error_without_text_is_named_by_its_type(folder: Path) -> None:
    assert "with vLLM: KeyError. Check" in str(load_error(str(folder), "vLLM", KeyError()))
