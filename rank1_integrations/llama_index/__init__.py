"""Rank1 in LlamaIndex: `Rank1Postprocessor`, a node postprocessor for any query engine."""

from rank1_integrations.exceptions import MissingExtraError

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("llama-index-core", "llama-index") from error

from rank1_integrations._adapter import flat_metadata
from rank1_integrations.llama_index.postprocessor import Rank1EndEvent, Rank1Postprocessor

__all__ = ["Rank1EndEvent", "Rank1Postprocessor", "flat_metadata"]
