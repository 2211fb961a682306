"""`HfTokenizer` on the real vocabularies of Rank1's families."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank1_integrations.engines.tokenizer import GeneratedText, HfTokenizer
from rank1_integrations.exceptions import EngineError

transformers = pytest.importorskip("transformers", reason="comes with the transformers extra")
vocabularies = pytest.importorskip("tests.support.vocabularies", reason="needs tokenizers")

STOP = "</think>"


@pytest.fixture(scope="module")
def qwen() -> HfTokenizer:
    return wrap("qwen")


def wrap(family: str) -> HfTokenizer:
    """A family's tokenizer, as transformers loads it."""
    tokenizer = getattr(vocabularies, f"{family}_tokenizer")()
    return HfTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def test_a_prompt_begins_with_the_bos_of_its_family_unless_told_otherwise() -> None:
    llama = wrap("llama")
    with_bos, without = llama.encode("a list"), llama.encode("a list", special=False)
    assert with_bos == (llama.single_id("<|begin_of_text|>"), *without)
    assert llama.count("a list") == len(with_bos)


def test_decoding_keeps_control_tokens_and_spaces(qwen: HfTokenizer) -> None:
    text = "<think> so , it 's  a list .</think> true<|endoftext|>"
    assert qwen.decode(qwen.encode(text)) == text


def test_only_a_text_of_one_token_has_a_single_id(qwen: HfTokenizer) -> None:
    assert qwen.single_id(" true") == 830
    assert qwen.single_id(STOP) == 151666
    assert qwen.single_id("true or false") is None
    assert qwen.single_id("") is None


def test_a_label_of_several_tokens_is_refused(qwen: HfTokenizer) -> None:
    assert qwen.label_ids([" true", " false"], model="m") == {" true": 830, " false": 895}
    with pytest.raises(EngineError, match="'true or false' is not one token of m: use a Rank1"):
        qwen.label_ids([" true", "true or false"], model="m")


@given(text=st.text(), count=st.integers(-1, 30))
@settings(deadline=None)
def test_the_first_tokens_are_the_beginning_of_the_text_itself(
    qwen: HfTokenizer, text: str, count: int
) -> None:
    text = text.encode("utf-8", "ignore").decode()
    first = qwen.first_tokens(text, count)
    assert text.startswith(first)
    assert first == text or len(qwen.encode(text, special=False)) > count


def test_first_tokens_keeps_what_the_tokenizer_normalizes(qwen: HfTokenizer) -> None:
    assert qwen.first_tokens("cafe\u0301 au lait", 100) == "cafe\u0301 au lait"


def read(tokenizer: HfTokenizer, text: str, *, hit_end: bool = False) -> GeneratedText:
    return tokenizer.read(tokenizer.encode(text, special=False), stop=STOP, hit_end=hit_end)


def test_text_ends_before_a_stop_token_and_ids_behind_it(qwen: HfTokenizer) -> None:
    ids = qwen.encode(f" It sorts.{STOP}")
    assert read(qwen, f" It sorts.{STOP} true<|endoftext|>") == GeneratedText(
        text=" It sorts.", ended="stop", token_ids=ids, tokens=len(ids)
    )


def test_a_stop_text_of_several_tokens_is_found_before_padding(qwen: HfTokenizer) -> None:
    stop = " so yes"
    ids = qwen.encode(f" It sorts,{stop}")
    padded = (*ids, *qwen.encode("<|endoftext|><|endoftext|>"))
    assert qwen.read(padded, stop=stop, hit_end=True) == GeneratedText(
        text=" It sorts,", ended="stop", token_ids=ids, tokens=len(ids)
    )


def test_ids_that_end_behind_the_stop_text_are_not_told(qwen: HfTokenizer) -> None:
    ids = qwen.encode(" It sorts lists")
    generated = qwen.read(ids, stop=" list", hit_end=False)
    assert generated == GeneratedText(
        text=" It sorts", ended="stop", token_ids=None, tokens=len(ids)
    )


def test_an_end_of_sequence_token_is_no_text(qwen: HfTokenizer) -> None:
    generated = read(qwen, " It sorts.<|endoftext|>", hit_end=True)
    assert (generated.text, generated.ended) == (" It sorts.", "eos")
    assert generated.token_ids == qwen.encode(" It sorts.<|endoftext|>")


def test_text_without_an_end_reached_the_limit(qwen: HfTokenizer) -> None:
    generated = read(qwen, " It sorts")
    assert (generated.text, generated.ended, generated.tokens) == (" It sorts", "length", 2)


def test_a_tokenizer_without_a_vocabulary_is_refused() -> None:
    # What AutoTokenizer returns for a Qwen checkpoint without tokenizer.json.
    with pytest.raises(ValueError, match=r"no vocabulary: is tokenizer.json missing"):
        HfTokenizer(transformers.Qwen2Tokenizer())


def test_nothing_generated_is_empty_text(qwen: HfTokenizer) -> None:
    assert read(qwen, "") == GeneratedText(text="", ended="length", token_ids=(), tokens=0)
