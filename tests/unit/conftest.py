"""Unit tests reach no network and load no model: neither sockets, nor torch, nor vLLM."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
from pytest_socket import disable_socket, enable_socket

HERE = Path(__file__).parent
MODEL_LIBRARIES = ("torch", "vllm")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse unit tests that load a model's library when they are imported."""
    is_unit_run = all(item.path.is_relative_to(HERE) for item in session.items)
    loaded = [name for name in MODEL_LIBRARIES if name in sys.modules]
    if is_unit_run and loaded:
        raise pytest.UsageError(f"tests/unit imports {', '.join(loaded)}: use tests/integration")


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every socket but the event loop's own."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()


class _ModelLibraryBlocker(MetaPathFinder):
    """Makes importing a model's library fail, as if it was not installed."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.partition(".")[0] in MODEL_LIBRARIES:
            raise ModuleNotFoundError(f"tests/unit must not import {fullname}", name=fullname)


@pytest.fixture(autouse=True)
def no_model_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the libraries that run a model, also if other tests have loaded them."""
    for name in MODEL_LIBRARIES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_ModelLibraryBlocker(), *sys.meta_path])
