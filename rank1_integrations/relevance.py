"""Definitions of relevance for common needs, to be given as `relevance=`.

Rank1 was trained on web search (MS MARCO): without a definition, a passage is relevant if it
answers the query. Wherever "relevant" means something else, its authors advise saying so; a
definition is a text with `{query}` in it that is asked instead of the query.
"""

from __future__ import annotations

EVIDENCE = (
    "{query}\nA passage is relevant if it gives evidence for or against this claim, "
    "whichever side it takes."
)
"""The query is a claim to be checked: fact checking, scientific claims."""

COUNTERARGUMENT = (
    "{query}\nA passage is relevant if it argues against this text on the same matter. A passage "
    "that agrees with it is not relevant."
)
"""The query is an argument, and its best rebuttal is looked for."""

BACKGROUND = (
    "{query}\nA passage is relevant if it explains something that must be understood in order to "
    "answer this, even if it does not hold the answer."
)
"""The query needs reasoning, and the passages are to supply its parts: theorems, mechanisms,
definitions."""

CONNECTION = (
    "{query}\nA passage is relevant if it has any connection to this topic, however indirect."
)
"""Recall matters more than precision: exploring a topic, medical literature, deduplication."""

TECHNIQUE = (
    "{query}\nA passage is relevant if the problem in it is solved by the same method, rule or "
    "technique, even if it is about something else."
)
"""The query is a problem, and worked examples of how to solve it are looked for: mathematics,
programming."""

CITATION = (
    "{query}\nA passage is relevant if an article about this would cite the work it describes."
)
"""The query is a title or an abstract, and related work is looked for."""


def add_instruction(query: str, instruction: str | None) -> str:
    """Return the query with an instruction appended, as mteb appends them.

    Args:
        query: The query.
        instruction: A further condition, in a sentence. One that equals the query adds nothing
            (https://github.com/orionw/rank1, `rank1.py`).
    """
    query, instruction = query.strip(), (instruction or "").strip()
    return query if instruction in ("", query) else f"{query} {instruction}"
