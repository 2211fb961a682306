"""Importing the package costs little and brings no heavy library with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "vllm", "langchain_core", "llama_index", "openai", "numpy"]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_the_package_imports_no_heavy_library() -> None:
    loaded = run("import sys, rank1_integrations; print(*sys.modules)").split()
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize(
    ("library", "extra", "make"),
    [("torch", "transformers", "Rank1.demo()"), ("vllm", "vllm", "Rank1.from_vllm('x')")],
)
def test_a_missing_library_is_named_with_its_extra(library: str, extra: str, make: str) -> None:
    message = run(
        f"import sys; sys.modules[{library!r}] = None\n"
        "from rank1_integrations import Rank1, Rank1Error\n"
        f"try: {make}\n"
        "except Rank1Error as error: print(error)"
    )
    assert message == f"{library} is not installed: pip install 'rank1-integrations[{extra}]'"
