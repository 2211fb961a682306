"""The server's own tokenizer: /tokenize and /detokenize, which OpenAI's API does not have."""

from __future__ import annotations

from typing import Any

from rank1_integrations.engines.openai_server.client import ServerClient
from rank1_integrations.engines.openai_server.errors import StatusError, UnreachableError
from rank1_integrations.exceptions import EngineError

_REFUSALS_THAT_PASS = frozenset({408, 409, 429})


class ServerTokenizer:
    """Token ids by the server, for as long as its answers can be used.

    Attributes:
        context_length: What /tokenize says of it; None if it does not.
    """

    def __init__(self, client: ServerClient, model: str) -> None:
        self.context_length: int | None = None
        self._client = client
        self._model = model
        # vLLM and SGLang read "prompt", llama.cpp's server "content".
        self._text_fields = ["prompt", "content"]
        self._detokenizes = True

    @property
    def is_usable(self) -> bool:
        """Whether the server has answered with token ids, or was not asked."""
        return bool(self._text_fields)

    @property
    def detokenizes(self) -> bool:
        """Whether the server can turn ids into text, as far as it was asked."""
        return self.is_usable and self._detokenizes

    async def encode(self, text: str, *, special: bool) -> list[int] | None:
        """Return the token ids of a text; None if the server does not give them.

        Args:
            text: To encode; what reads like a control token becomes one.
            special: Add a BOS token if the tokenizer has one.

        Raises:
            UnreachableError: No answer came.
        """
        if not text:
            return [] if self.is_usable else None
        while self._text_fields:
            field = self._text_fields[0]
            # vLLM's name of the option, and llama.cpp's.
            option = "add_special_tokens" if field == "prompt" else "add_special"
            body = {"model": self._model, field: text, option: special}
            answer = await self._post("/tokenize", body)
            if isinstance(answer, _Passing):
                return None
            if (ids := _token_ids(answer)) is not None:
                length = answer.get("max_model_len")
                if type(length) is int and length > 0:
                    self.context_length = length
                self._text_fields = [field]
                return ids
            self._text_fields.pop(0)
        return None

    async def decode(self, token_ids: list[int]) -> str | None:
        """Return the text of token ids; None if the server does not give it.

        Raises:
            UnreachableError: No answer came.
        """
        if not token_ids:
            return ""
        if not self.detokenizes:
            return None
        answer = await self._post("/detokenize", {"model": self._model, "tokens": token_ids})
        if isinstance(answer, _Passing):
            return None
        if isinstance(answer, dict):
            for field in ("prompt", "text", "content"):
                if isinstance(text := answer.get(field), str) and text:
                    return text
        self._detokenizes = False
        return None

    async def first_tokens(self, text: str, count: int) -> str | None:
        """Return the beginning of `text` that its first tokens make up; None if not known.

        Raises:
            UnreachableError: No answer came.
        """
        ids = await self.encode(text, special=False)
        decoded = None if ids is None else await self.decode(ids[:count])
        if decoded is None or text.startswith(decoded):
            return decoded
        kept = decoded.rstrip("\ufffd")
        if text.startswith(kept) and kept != decoded:
            # The last token ends inside a character, which is kept whole.
            return text[: len(kept) + 1]
        # The tokenizer changes letters or spaces.
        return None

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            return await self._client.post_root(path, body)
        except UnreachableError:
            raise
        except StatusError as error:
            is_passing = error.status >= 500 or error.status in _REFUSALS_THAT_PASS
            return _Passing() if is_passing else None
        except EngineError:
            # No JSON: a gateway's own page.
            return None


class _Passing:
    """An error that may be over at the next request."""


def _token_ids(answer: Any) -> list[int] | None:
    ids = answer.get("tokens") if isinstance(answer, dict) else None
    if isinstance(ids, list) and ids and all(type(one) is int for one in ids):
        return ids
    return None
