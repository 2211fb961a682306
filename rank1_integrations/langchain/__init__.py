"""Rank1 in LangChain: `Rank1Compressor`, a document compressor for any retriever."""

from rank1_integrations.errors import MissingExtraError

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("langchain-core", "langchain") from error

from rank1_integrations.langchain.compressor import Rank1Compressor

__all__ = ["Rank1Compressor"]
