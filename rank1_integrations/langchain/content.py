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
    cuts, end = [0], 0
    for place, text in enumerate(texts):
        start = content.find(text, end)
        if start < 0:
            return None
        if place > 0:
            between = content[end:start]
            if between.count(separator) != 1:
                return None
            cuts.append(end + between.index(separator))
        end = start + len(text)
    return [
        content[start + (len(separator) if place else 0) : stop]
        for place, (start, stop) in enumerate(zip(cuts, [*cuts[1:], len(content)], strict=True))
    ]
