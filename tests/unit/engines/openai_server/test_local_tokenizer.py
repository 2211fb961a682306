"""`tokenizer=` of the server engine, on the demonstration model's own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from rank1_integrations import ConfigurationError, Rank1
from rank1_integrations.demo_model import DEMO_MODEL
from rank1_integrations.engines.openai_server.answer import read_answer
from rank1_integrations.engines.openai_server.local_tokenizer import SAMPLE, LocalTokenizer
from rank1_integrations.exceptions import MissingExtraError
from rank1_integrations.langchain import Rank1Compressor

FILE = DEMO_MODEL / "tokenizer.json"
ADDRESS = "http://localhost:8000/v1"
TEXT = "The sort() method of a list sorts it in place. </think> true"


@pytest.fixture(scope="module")
def reference() -> Tokenizer:
    return Tokenizer.from_file(str(FILE))


@pytest.mark.parametrize("source", [DEMO_MODEL, str(DEMO_MODEL), FILE, str(FILE)])
async def test_a_folder_or_a_file_is_loaded(
    source: str | os.PathLike[str], reference: Tokenizer
) -> None:
    tokenizer = LocalTokenizer(source)
    assert await tokenizer.encode(TEXT, special=False) == reference.encode(TEXT).ids


def test_a_name_on_the_hub_is_looked_up_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's cache on disk holds the file, as after a download."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0" * 40
    repository = tmp_path / "models--acme--rank1"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copy(FILE, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    LocalTokenizer("acme/rank1").check_labels([" true", " false"])


async def test_control_tokens_are_encoded_and_decoded(reference: Tokenizer) -> None:
    tokenizer = LocalTokenizer(DEMO_MODEL)
    ids = await tokenizer.encode(TEXT, special=False)
    assert reference.token_to_id("</think>") in ids
    assert "</think>" in await tokenizer.decode(ids)


async def test_the_first_tokens_are_a_beginning_of_the_text_itself(reference: Tokenizer) -> None:
    """The demonstration model's tokenizer turns capitals into small letters."""
    tokenizer, text = LocalTokenizer(DEMO_MODEL), "Größe UND Café 🙂 naïve"
    count = len(reference.encode(text).ids)
    beginnings = [await tokenizer.first_tokens(text, number) for number in range(1, count + 1)]
    assert all(text.startswith(beginning) for beginning in beginnings)
    assert [*map(len, beginnings)] == sorted(map(len, beginnings))
    assert beginnings[-1] == text
    assert await tokenizer.first_tokens(text, 0) == ""


async def test_limits_in_the_file_do_not_cut_long_texts(tmp_path: Path) -> None:
    limited = Tokenizer.from_file(str(FILE))
    limited.enable_truncation(8)
    limited.enable_padding(length=8)
    limited.save(str(tmp_path / "tokenizer.json"))
    tokenizer = LocalTokenizer(tmp_path)
    assert len(await tokenizer.encode("sort " * 50, special=True)) == 50
    assert len(await tokenizer.encode("sort", special=True)) == 1


def no_file(folder: Path) -> Path:
    return folder


def broken_file(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text("{}")
    return folder


def no_folder(folder: Path) -> str:
    return str(folder / "missing")


@pytest.mark.parametrize("make", [no_file, broken_file, no_folder])
def test_what_can_not_be_loaded_is_a_configuration_error_when_the_object_is_made(
    make: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"pass a folder that holds tokenizer\.json"):
        Rank1.from_server(ADDRESS, tokenizer=make(tmp_path))


def test_a_name_that_the_hub_does_not_have_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"'acme/rank1' can't be loaded.*check the name"):
        Rank1.from_server(ADDRESS, tokenizer="acme/rank1")


@pytest.mark.parametrize("source", ["", " ", 5, True])
def test_what_is_no_name_and_no_path_is_refused(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="tokenizer must be the name of a model"):
        Rank1.from_server(ADDRESS, tokenizer=source)


def test_a_tokenizer_in_which_a_label_is_several_tokens_is_refused(tmp_path: Path) -> None:
    content = json.loads(FILE.read_text("utf-8"))
    content["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="' true' is not one of its tokens"):
        Rank1.from_server(ADDRESS, tokenizer=tmp_path)


async def test_an_answer_with_other_ids_is_refused() -> None:
    tokenizer = LocalTokenizer(DEMO_MODEL)
    ids = await tokenizer.encode(SAMPLE, special=True)
    await tokenizer.check_answer(read_answer(answer(prompt_token_ids=ids)))
    for others in (ids[:-1], [*ids[:-1], ids[-1] + 1]):
        with pytest.raises(ConfigurationError, match="in another way than the server"):
            await tokenizer.check_answer(read_answer(answer(prompt_token_ids=others)))


@pytest.mark.parametrize(("more", "is_refused"), [(-2, True), (-1, False), (1, False), (2, True)])
async def test_without_ids_the_number_of_tokens_is_compared_but_for_a_bos_token(
    more: int, is_refused: bool
) -> None:
    tokenizer = LocalTokenizer(DEMO_MODEL)
    count = len(await tokenizer.encode(SAMPLE, special=True))
    counted = read_answer({**answer(), "usage": {"prompt_tokens": count + more}})
    if not is_refused:
        await tokenizer.check_answer(counted)
        return
    with pytest.raises(ConfigurationError, match="in another way than the server"):
        await tokenizer.check_answer(counted)


def answer(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"text": "x", **choice}]}


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"rank1-integrations\[tokenizer\]"):
        Rank1.from_server(ADDRESS, tokenizer=DEMO_MODEL)


def test_an_adapter_takes_it_and_serializes_it() -> None:
    adapter = Rank1Compressor(base_url=ADDRESS, tokenizer=DEMO_MODEL)
    settings = json.loads(adapter.model_dump_json())
    assert settings["tokenizer"] == str(DEMO_MODEL)
    with pytest.raises(ConfigurationError, match="tokenizer has no effect with backend='demo'"):
        Rank1Compressor(backend="demo", tokenizer=DEMO_MODEL)
