"""Importing the package costs little and brings no heavy library with it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ["torch", "transformers", "vllm", "langchain_core", "llama_index", "openai", "numpy"]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_the_package_imports_no_heavy_library() -> None:
    loaded = run("import sys, rank1_integrations; print(*sys.modules)").split()
    assert [name for name in HEAVY if name in loaded] == []


def test_a_missing_library_is_named_with_its_extra() -> None:
    message = run(
        "import sys; sys.modules['torch'] = None\n"
        "from rank1_integrations import Rank1, Rank1Error\n"
        "try: Rank1.demo()\n"
        "except Rank1Error as error: print(error)"
    )
    assert message == "torch is not installed: pip install 'rank1-integrations[transformers]'"
