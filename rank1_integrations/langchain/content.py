"""Split the text that a retriever tool made of its documents into one piece for each document."""

from __future__ import annotations

from collections.abc import Sequence


def split_content(content: str, texts: Sequence[str], *, separator: str) -> list[str] | None:
    """Split a tool's content, so that a part of it can be kept in the tool's own format.

    Args:
        content: Texts in order, each perhaps with text around it (a source, a heading), joined by
            `separator`.
        texts: The documents' texts, in the tool's order.
        separator: The text between two documents.

    Returns:
        A piece of `content` for each text, so that `separator.join(pieces)` is `content`; None
        if it is not certain which piece belongs to which text.
    """
    spans, end = [], 0
    for text in texts:
        start = content.find(text, end)
        if start < 0:
            return None
        spans.append((end, start))
        end = start + len(text)
    spans.append((end, len(content)))

    # A separator before the first text or behind the last would belong to a heading, say.
    gaps = [content[start:end] for start, end in spans]
    if [gap.count(separator) for gap in gaps] != [0, *[1] * (len(texts) - 1), 0]:
        return None
    sides = [gap.split(separator) for gap in gaps]
    return [
        before[-1] + text + behind[0]
        for before, text, behind in zip(sides, texts, sides[1:], strict=False)
    ]
