"""`make demo` runs as it stands, and shows what became of every passage."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from examples.demo import LANGCHAIN_QUESTIONS, LLAMA_INDEX_QUESTIONS, RETRIEVED


def test_the_demo_shows_every_passage_with_score_and_reasoning() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    questions = [*LANGCHAIN_QUESTIONS, *LLAMA_INDEX_QUESTIONS]
    assert all(question in done.stdout for question in questions)
    verdicts = re.findall(r"│ (kept|dropped) +│ (0\.\d{3}|1\.000) │", done.stdout)
    assert len(verdicts) == RETRIEVED * len(questions)
    assert {verdict for verdict, _ in verdicts} == {"kept", "dropped"}
    assert all((verdict == "kept") == (float(score) >= 0.5) for verdict, score in verdicts)
    assert done.stdout.count("the query asks") >= RETRIEVED
