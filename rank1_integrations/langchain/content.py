"""The text that a retriever tool made of its documents, taken apart into one piece for each."""

from __future__ import annotations

from collections.abc import Sequence


def pieces(content: str, texts: Sequence[str], *, separator: str) -> list[str] | None:
    """Take a tool's content apart, so that a part of it can be kept in the tool's own format.

    Args:
        content: Texts in order, each perhaps with something before and behind it (a source, a
            heading), joined by `separator`.
        texts: What the documents say, as the tool had them.
        separator: What stands between two documents.

    Returns:
        A piece of `content` for each text, so that `separator.join(pieces)` is `content`; None
        where it can't be told for sure which piece belongs to which text.
    """
    places, end = [], 0
    for text in texts:
        start = content.find(text, end)
        if start < 0:
            return None
        places.append((end, start))
        end = start + len(text)
    places.append((end, len(content)))

    # Before the first text and behind the last there is none: else it ends a heading, say.
    gaps = [content[end:start] for end, start in places]
    if [gap.count(separator) for gap in gaps] != [0, *[1] * (len(texts) - 1), 0]:
        return None
    sides = [gap.split(separator) for gap in gaps]
    return [
        before[-1] + text + behind[0]
        for before, text, behind in zip(sides, texts, sides[1:], strict=False)
    ]
