"""The models of the examples. Environment variables say where they run.

The judge: RANK1_BASE_URL names a server with a Rank1 model. Without it, the demonstration model
of the package judges. It compares words; a real Rank1 reasons about meaning.

The chat model: CHAT_BASE_URL and CHAT_MODEL name one behind any server with OpenAI's chat API,
CHAT_API_KEY its key, if it needs one, and CHAT_MAX_TOKENS the longest answer.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_openai import ChatOpenAI
from llama_index.llms.openai_like import OpenAILike

from rank1_integrations import Rank1


def judge(**options: Any) -> Rank1:
    """Return the reranker, with the options of every `Rank1` constructor."""
    base_url = os.environ.get("RANK1_BASE_URL")
    return Rank1.from_server(base_url, **options) if base_url else Rank1.demo(**options)


def langchain_chat_model() -> ChatOpenAI:
    """Return the chat model for LangChain."""
    return ChatOpenAI(
        base_url=_variable("CHAT_BASE_URL"),
        model=_variable("CHAT_MODEL"),
        api_key=_key,
        max_completion_tokens=_max_tokens(),
        temperature=0,
    )


def llama_index_chat_model() -> OpenAILike:
    """Return the chat model for LlamaIndex."""
    return OpenAILike(
        api_base=_variable("CHAT_BASE_URL"),
        model=_variable("CHAT_MODEL"),
        api_key=_key(),
        max_tokens=_max_tokens(),
        temperature=0,
        is_chat_model=True,
    )


def _key() -> str:
    # The clients need one even for servers without keys.
    return os.environ.get("CHAT_API_KEY", "none")


def _max_tokens() -> int:
    return int(os.environ.get("CHAT_MAX_TOKENS", "256"))


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise SystemExit(
            "This example needs a chat model: set CHAT_BASE_URL and CHAT_MODEL, for instance "
            "http://localhost:8000/v1 and the name that `vllm serve` shows there."
        )
    return value
