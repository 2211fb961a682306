"""The Rank1 reasoning reranker: judge passages, keep the relevant ones, see why.

`Rank1` is the reranker itself. `rank1_integrations.langchain` and
`rank1_integrations.llama_index` put it into a chain or a query engine.
"""

from rank1_integrations.config import Adaptive
from rank1_integrations.exceptions import ConfigurationError, EngineError, Rank1Error
from rank1_integrations.judgment import Judgment
from rank1_integrations.reranker import Rank1
from rank1_integrations.scoring.usage import Usage
from rank1_integrations.selection import RankResult

__all__ = [
    "Adaptive",
    "ConfigurationError",
    "EngineError",
    "Judgment",
    "Rank1",
    "Rank1Error",
    "RankResult",
    "Usage",
]
