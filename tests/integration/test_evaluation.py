"""The evaluation command on a small collection of Python's documentation.

A proxy in front of the real vLLM server makes the server fail midway.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.standard_library import passages
from rank1_integrations.evaluation.__main__ import main
from tests.integration.conftest import SERVED_NAME
from tests.support.tampering_proxy import Answer, Call, TamperingProxy, is_about_passages
from tests.support.vllm_server import free_port

QUERIES = {"sort": "How do I sort a list in place?", "copy": "How do I copy a file?"}
SOURCES = {"sort": "typesseq-mutable", "copy": "shutil.copy"}
OTHERS = 4
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two queries, each with a relevant passage behind irrelevant ones."""
    folder = tmp_path_factory.mktemp("collection")
    found = passages()
    others = [passage.text for passage in found if passage.source.startswith("weakref")][:OTHERS]
    corpus = {f"other-{number}": text for number, text in enumerate(others)}
    qrels = []
    for query, source in SOURCES.items():
        corpus[query] = next(passage.text for passage in found if passage.source == source)
        qrels += [f"{query} Q0 other-{number} 0" for number in range(OTHERS)]
        qrels += [f"{query} Q0 {query} 1"]
    (folder / "queries.tsv").write_text("".join(f"{q}\t{t}\n" for q, t in QUERIES.items()))
    (folder / "corpus.tsv").write_text("".join(f"{p}\t{t}\n" for p, t in corpus.items()))
    (folder / "qrels.txt").write_text("\n".join(qrels))
    return folder


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rank1_integrations.evaluation", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_command_reports_every_policy_and_the_next_run_reuses_judgments(
    collection: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    arguments = [str(collection), "--backend", "demo", "--output", str(output)]
    policies = ["--policy", "full", "--policy", "none"]
    first = command(*arguments, *policies)
    assert first.returncode == 0, first.stderr
    assert "2 queries, 10 passages" in first.stdout
    assert "nDCG@10" in first.stdout
    assert "to full [95%]" in first.stdout
    assert "First-stage order: nDCG@10" in first.stdout

    full, none = lines(output / "report.jsonl")
    assert (full["policy"], none["policy"]) == ("full", "none")
    assert none["tokens"] == none["usage"]["answer_tokens"] == 10
    assert none["comparison"]["tokens_share"] == 10 / full["tokens"]
    assert full["finish_reasons"]["concluded"] + full["finish_reasons"].get("forced", 0) == 10
    assert none["finish_reasons"] == {"direct": 10}
    judgments = lines(output / "full" / "judgments.jsonl")
    reasoning_tokens = sum(judgment["reasoning_tokens"] for judgment in judgments)
    assert reasoning_tokens == full["usage"]["reasoning_tokens"] == full["tokens"] - 10 > 0
    assert all(judgment["reasoning"] for judgment in judgments)
    for plot in ("policies.png", "calibration.png"):
        assert (output / plot).read_bytes().startswith(PNG)

    second = command(*arguments, *policies, "--policy", "short:max_reasoning_tokens=5")
    assert second.returncode == 0, second.stderr
    assert "full: 2 queries with stored judgments are reused" in second.stderr
    assert "short: 2 queries" not in second.stderr
    again = lines(output / "report.jsonl")
    assert again[:2] == [full, none]
    assert again[2]["finish_reasons"] == {"forced": 10}
    assert again[2]["tokens"] == 60


def test_judgments_made_before_the_server_died_are_reported_and_reused(
    collection: Path,
    proxy: TamperingProxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail_after_first_policy(call: Call) -> Answer | None:
        dead = is_about_passages(call) and (tmp_path / "full" / "judgments.jsonl").exists()
        done = dead and len(lines(tmp_path / "full" / "judgments.jsonl")) == 10
        return Answer(500, {"error": {"message": "the engine is dead"}}) if done else None

    arguments = [
        *(str(collection), "--base-url", proxy.url, "--output", str(tmp_path)),
        *("--max-retries", "0", "--max-reasoning-tokens", "256"),
        *("--policy", "full", "--policy", "none"),
    ]
    proxy.refuse = fail_after_first_policy
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert f"{SERVED_NAME} on" in shown.out
    assert "query sort: no passage could be judged" in shown.err
    assert "the engine is dead" in shown.err
    assert "Run the same command again to continue" in shown.err
    (full,) = lines(tmp_path / "report.jsonl")
    assert [call for call in proxy.calls if call.body.get("stop")]

    proxy.refuse = lambda call: None
    proxy.calls.clear()
    assert main(arguments) == 0
    assert "full: 2 queries with stored judgments are reused" in capsys.readouterr().err
    assert lines(tmp_path / "report.jsonl")[0] == full
    assert lines(tmp_path / "report.jsonl")[1]["finish_reasons"] == {"direct": 10}
    # Only requests for reasoning have a stop text: the first policy is not judged again.
    assert not [call for call in proxy.calls if call.body.get("stop")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base-url", "http://127.0.0.1:{port}/v1", "--max-retries", "0"], "127.0.0.1"),
        ([], "say where the model runs"),
        (["--backend", "demo", "--model", "x"], "model has no effect with backend='demo'"),
        (
            ["--backend", "demo", "--engine-args", '{"seed": 1}'],
            "engine_args has no effect with backend='demo'",
        ),
        (["--backend", "demo", "--policy", "quick"], "there is no policy 'quick'"),
        (["--backend", "demo", "--top-n", "0"], "top_n must be at least 1"),
        (["--backend", "demo", "--qrels", "nowhere"], "there is no file nowhere"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    collection: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    completed = [argument.replace("{port}", str(free_port())) for argument in arguments]
    assert main([str(collection), "--output", str(tmp_path), *completed]) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_error_for_a_missing_library_names_its_extra(collection: Path) -> None:
    code = (
        "import sys; sys.modules['ir_measures'] = None\n"
        "from rank1_integrations.evaluation.__main__ import main\n"
        f"sys.exit(main([{str(collection)!r}, '--backend', 'demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    message = "ir_measures is not installed: pip install 'rank1-integrations[evaluation]'\n"
    assert done.stderr == message
