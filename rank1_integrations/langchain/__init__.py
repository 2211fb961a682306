"""Rank1 in LangChain: a compressor for retrievers, a filter for agents, a node for LangGraph."""

from typing import TYPE_CHECKING, Any

from rank1_integrations.exceptions import MissingExtraError

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("langchain-core", "langchain") from error

from rank1_integrations._adapter import flat_metadata
from rank1_integrations.langchain.compressor import Rank1Compressor
from rank1_integrations.langchain.graph import grade_documents, route_by_documents

if TYPE_CHECKING:
    from rank1_integrations.langchain.middleware import (
        Rank1FilterMiddleware as Rank1FilterMiddleware,
    )

__all__ = ["Rank1Compressor", "flat_metadata", "grade_documents", "route_by_documents"]


def __getattr__(name: str) -> Any:
    # Agents are in a library of their own, which a retriever does not need.
    if name == "Rank1FilterMiddleware":
        from rank1_integrations.langchain.middleware import Rank1FilterMiddleware

        return Rank1FilterMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
