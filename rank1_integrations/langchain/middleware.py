"""An agent reads only the passages that Rank1 finds relevant, whichever tool found them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langchain_core.prompts import BasePromptTemplate, format_document

from rank1_integrations.exceptions import ConfigurationError, MissingExtraError
from rank1_integrations.langchain.compressor import Rank1Compressor
from rank1_integrations.langchain.content import pieces
from rank1_integrations.langchain.documents import (
    DocumentLike,
    as_documents,
    in_the_form_of,
    is_document,
)

try:
    from langchain.agents.middleware import AgentMiddleware
    from langgraph.types import Command
except ImportError as error:
    raise MissingExtraError("langchain", "langchain-agents") from error

if TYPE_CHECKING:
    # langchain's first releases have it for type checkers only.
    from langchain.agents.middleware.types import ToolCallRequest

Result: TypeAlias = ToolMessage | Command[Any]
Query: TypeAlias = "str | Callable[[ToolCallRequest], str]"


class Rank1FilterMiddleware(AgentMiddleware):
    """Filters what an agent's retriever tools found, before the chat model reads it.

    A tool's result is filtered if its artifact is a list of documents, as
    `create_retriever_tool(..., response_format="content_and_artifact")` gives it. The artifact
    keeps the relevant documents, best first, with score and reasoning in their metadata; the
    content keeps what the tool wrote about them. All other results pass unchanged: texts without
    documents, errors, `Command`s.

    Args:
        compressor: Says what is relevant, and how much is kept. Without `score_threshold` or
            `top_n` nothing is left out.
        tools: Names of the tools whose results are filtered; None for every tool that returns
            documents.
        query: What the documents are judged against: the name of an argument of the tool, or a
            function of the tool call's request (which has `tool_call` and `state`).
        document_separator: What stands between two documents in the content.
        document_prompt: Writes a document anew, with its text and metadata at hand
            (`{page_content}`, `{relevance_score}`); None to keep what the tool wrote. Where that
            can't be told apart, because the documents' texts and `document_separator` are not
            found in it one behind the other, the texts alone are written.
        nothing_relevant: What the model reads where no document is left.

    Raises:
        MissingExtraError: On import, where langchain is not installed.

    Example:
        ```python
        from langchain.agents import create_agent
        from rank1_integrations.langchain import Rank1Compressor, Rank1FilterMiddleware

        compressor = Rank1Compressor(base_url="http://localhost:8000/v1", score_threshold=0.5)
        agent = create_agent(
            chat_model, tools=[search_manual], middleware=[Rank1FilterMiddleware(compressor)]
        )
        ```
    """

    def __init__(
        self,
        compressor: Rank1Compressor,
        *,
        tools: Sequence[str] | None = None,
        query: Query = "query",
        document_separator: str = "\n\n",
        document_prompt: BasePromptTemplate[str] | None = None,
        nothing_relevant: str = "No relevant passage was found.",
    ) -> None:
        super().__init__()
        if isinstance(tools, str):
            raise ConfigurationError(f"tools must be a list of names; for one pass [{tools!r}]")
        # `self.tools` would be tools that the middleware brings along.
        self._only = None if tools is None else list(tools)
        self._compressor = compressor
        self._query = query
        self._separator = document_separator
        self._prompt = document_prompt
        self._nothing_relevant = nothing_relevant

    @property
    def name(self) -> str:
        """Different for different tools: an agent takes no two middlewares of the same name."""
        return " ".join([type(self).__name__, *(self._only or [])])

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]
    ) -> Result:
        """Run the tool and filter what it found.

        Raises:
            ConfigurationError: The tool's call has no query to judge against.
            EngineError: The engine failed, and the compressor's `on_error` is "raise".
        """
        result = handler(request)
        if not self._holds_documents(result, request):
            return result
        query = self._asked(request)
        kept = self._compressor.compress_documents(result.artifact, query)
        return self._filtered(result, kept)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """`wrap_tool_call`, awaited."""
        result = await handler(request)
        if not self._holds_documents(result, request):
            return result
        query = self._asked(request)
        kept = await self._compressor.acompress_documents(result.artifact, query)
        return self._filtered(result, kept)

    def _holds_documents(self, result: Result, request: ToolCallRequest) -> TypeGuard[ToolMessage]:
        if self._only is not None and request.tool_call["name"] not in self._only:
            return False
        if not isinstance(result, ToolMessage) or result.status == "error":
            return False
        artifact = result.artifact
        return (
            isinstance(artifact, list | tuple)
            and len(artifact) > 0
            and all(is_document(one) for one in artifact)
        )

    def _asked(self, request: ToolCallRequest) -> str:
        if callable(self._query):
            return self._query(request)
        arguments = request.tool_call["args"]
        if self._query not in arguments:
            raise ConfigurationError(
                f"the tool {request.tool_call['name']!r} found documents, but its call has no "
                f"argument {self._query!r} to judge them against (it has {sorted(arguments)}): "
                "name the argument with query=, or a function of the request; or leave this tool "
                "out with tools="
            )
        query: str = arguments[self._query]
        return query

    def _filtered(self, message: ToolMessage, kept: list[Document]) -> ToolMessage:
        found: list[DocumentLike] = list(message.artifact)
        artifact = [in_the_form_of(found[_place(document)], document) for document in kept]
        text = self._text(message.text, found, kept) if kept else self._nothing_relevant
        if isinstance(message.content, str):
            content: Any = text
        else:
            others = [block for block in message.content if not _is_text(block)]
            content = [{"type": "text", "text": text}, *others]
        return message.model_copy(update={"content": content, "artifact": artifact})

    def _text(self, text: str, found: list[DocumentLike], kept: list[Document]) -> str:
        """What the chat model reads of the kept documents."""
        if self._prompt is not None:
            written = [format_document(document, self._prompt) for document in kept]
        else:
            texts = [document.page_content for document in as_documents(found)]
            own = pieces(text, texts, separator=self._separator) or texts
            written = [own[_place(document)] for document in kept]
        return self._separator.join(written)


def _is_text(block: str | dict[Any, Any]) -> bool:
    return isinstance(block, str) or block.get("type") == "text"


def _place(document: Document) -> int:
    """Where the tool had a judged document, from 0."""
    place: int = document.metadata["rank1"]["index"]
    return place
