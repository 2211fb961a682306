"""transformers reads the tokenizers of the test checkpoints as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from rank1_integrations.scoring.prompt import build_prompt
from tests.support.checkpoints import FAMILIES, Family, write_tokenizer
from tests.unit.scoring.test_vocabularies import TEXTS


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_transformers_reads_a_checkpoints_tokenizer_as_it_was_written(
    family: Family, tmp_path: Path
) -> None:
    write_tokenizer(family, tmp_path)
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family.config["model_type"]}"}}')
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, build_prompt("a query", "a passage").text]:
        assert loaded(text)["input_ids"] == family.tokenizer().encode(text).ids
