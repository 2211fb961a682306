"""AWQ checkpoints: every family's is recognised, and its scores are those of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from rank1_integrations import ConfigurationError, Rank1
from tests.support import awq_kernel
from tests.support.checkpoints import CONCLUDED, FAMILIES, QUERY, QWEN, Family, write_awq_checkpoint
from tests.support.vllm_server import vllm_server

PASSAGES = [CONCLUDED, "", "Lava is molten rock.", "Cats sleep on sofas."]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_vllm_recognises_the_checkpoint_and_takes_its_dtype(family: Family, tmp_path: Path) -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed: `make test` installs it")
    write_awq_checkpoint(family, tmp_path / "awq", tmp_path / "same")
    args = vllm.AsyncEngineArgs(model=str(tmp_path / "awq"), enforce_eager=True)
    config = args.create_engine_config().model_config
    assert (config.quantization, str(config.dtype)) == ("awq", "torch.float16")
    assert config.max_model_len == family.context_length


def test_transformers_names_the_library_that_it_lacks(tmp_path: Path) -> None:
    write_awq_checkpoint(QWEN, tmp_path / "awq", tmp_path / "same")
    with pytest.raises(ConfigurationError, match="AWQ quantized model requires gptqmodel"):
        Rank1.from_transformers(str(tmp_path / "awq"), device="cpu")


def test_scores_are_those_of_the_weights_that_the_four_bits_stand_for(tmp_path: Path) -> None:
    write_awq_checkpoint(QWEN, tmp_path / "awq", tmp_path / "same")
    with Rank1.from_transformers(
        str(tmp_path / "same"), device="cpu", dtype="float32", thinking="none"
    ) as exact:
        expected = exact.judge(QUERY, PASSAGES)
    (tmp_path / "plugin").mkdir()
    with (
        vllm_server(
            tmp_path / "awq",
            tmp_path / "server.log",
            name="rank1",
            environment=awq_kernel.install(tmp_path / "plugin"),
            max_model_len=2048,
        ) as url,
        Rank1.from_server(url, thinking="none") as server,
    ):
        judgments = server.judge(QUERY, PASSAGES)
    # The server computes in float16.
    assert [one.log_odds for one in judgments] == pytest.approx(
        [one.log_odds for one in expected], abs=0.05
    )
