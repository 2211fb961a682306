"""A tool's content is split if that is certain, and not otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations.langchain.content import split_content

SEPARATORS = st.sampled_from(["\n\n", "\n---\n", "; "])


@given(
    texts=st.lists(st.text("ab \n;-"), min_size=1, max_size=5),
    before=st.text("xy:[] "),
    behind=st.text("xy:[] "),
    separator=SEPARATORS,
)
def test_joined_texts_are_split_again(
    texts: list[str], before: str, behind: str, separator: str
) -> None:
    written = [f"{before}{text}{behind}" for text in texts]
    assert split_content(separator.join(written), texts, separator=separator) in (written, None)


@given(
    texts=st.lists(st.text("ab", min_size=1), min_size=1, max_size=5),
    before=st.text("xy:[] "),
    separator=SEPARATORS,
)
def test_texts_without_the_separator_are_always_split(
    texts: list[str], before: str, separator: str
) -> None:
    written = [before + text for text in texts]
    assert split_content(separator.join(written), texts, separator=separator) == written


@given(content=st.text("ab\n"), texts=st.lists(st.text("ab\n"), min_size=1, max_size=4))
def test_pieces_joined_are_the_content(content: str, texts: list[str]) -> None:
    pieces = split_content(content, texts, separator="\n\n")
    if pieces is not None:
        assert "\n\n".join(pieces) == content
        assert all(text in piece for text, piece in zip(texts, pieces, strict=True))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("three were found", ["a", "b"]),
        ("b\n\na", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("a\n\n(source)\n\nb\n\n(source)", ["a", "b"]),
        ("Two were found:\n\na\n\nb", ["a", "b"]),
        ("a\n\nb\n\nThat is all.", ["a", "b"]),
    ],
)
def test_ambiguous_content_is_not_split(content: str, texts: list[str]) -> None:
    assert split_content(content, texts, separator="\n\n") is None


def test_a_text_may_hold_the_separator() -> None:
    texts = ["one\n\ntwo", "three"]
    assert split_content("one\n\ntwo\n\nthree", texts, separator="\n\n") == texts
