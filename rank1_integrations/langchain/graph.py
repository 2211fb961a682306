"""Corrective RAG in LangGraph: keep the relevant documents of a state, and branch on none left.

Nothing here needs LangGraph itself: a node is a Runnable, and the choice of an edge a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableLambda

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.langchain.compressor import Rank1Compressor

Update = dict[str, list[Document]]


def grade_documents(
    compressor: Rank1Compressor,
    *,
    question: str | Callable[[Any], str] = "question",
    documents: str = "documents",
    into: str | None = None,
) -> Runnable[Any, Update]:
    """A node that keeps the relevant documents of the graph's state, synchronous and asynchronous.

    Args:
        compressor: Says what is relevant, and how much is kept. Without `score_threshold` or
            `top_n` nothing is left out.
        question: The state's key of what is asked, or a function of the state that returns it.
        documents: The state's key of what was found: documents, or dicts of documents.
        into: The key that the kept documents go to, best first; None for where they came from.
            Give another key where a reducer such as `operator.add` would add them to the others.

    Returns:
        A node for `add_node`; the state may be a dict, a dataclass or a pydantic model.

    Raises:
        ConfigurationError: From the node, where the state lacks a key; or as for
            `compress_documents`.
        EngineError: From the node, as for `compress_documents`.

    Example:
        ```python
        graph.add_node("grade_documents", grade_documents(compressor))
        graph.add_conditional_edges("grade_documents", if_any_left("generate", otherwise="rewrite"))
        ```
    """

    def read(state: Any) -> tuple[list[Document], str]:
        asked = question(state) if callable(question) else _value(state, question)
        return list(_value(state, documents) or []), asked

    def node(state: Any) -> Update:
        return {into or documents: compressor.compress_documents(*read(state))}

    async def anode(state: Any) -> Update:
        return {into or documents: await compressor.acompress_documents(*read(state))}

    return RunnableLambda(node, anode, name="grade_documents")


def if_any_left(then: str, *, otherwise: str, documents: str = "documents") -> Callable[[Any], str]:
    """The choice of a conditional edge behind `grade_documents`.

    Args:
        then: The node to go to with the documents that are left.
        otherwise: The node to go to if none is left, such as one that rewrites the question.
        documents: The state's key of the kept documents.

    Returns:
        A function of the state for `add_conditional_edges`, which learns from it where it leads.
    """

    def decide(state: Any) -> str:
        return then if _value(state, documents) else otherwise

    # LangGraph draws and checks the edges by this.
    decide.__annotations__["return"] = Literal[then, otherwise]
    return decide


def _value(state: Any, key: str) -> Any:
    if isinstance(state, Mapping):
        found, keys = key in state, sorted(map(str, state))
    else:
        found, keys = hasattr(state, key), sorted(vars(state))
    if not found:
        raise ConfigurationError(
            f"the graph's state has no {key!r} (it has {keys}): name the keys of your state, as in "
            "grade_documents(compressor, question='query', documents='context')"
        )
    return state[key] if isinstance(state, Mapping) else getattr(state, key)
