"""Middleware that filters the results of an agent's retriever tools, whichever tool it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langchain_core.prompts import BasePromptTemplate

from rank1_integrations.exceptions import ConfigurationError, MissingExtraError
from rank1_integrations.langchain.compressor import Rank1Compressor
from rank1_integrations.langchain.content import split_content
from rank1_integrations.langchain.documents import (
    DocumentLike,
    as_documents,
    format_document,
    in_form_of,
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
    """Filter the documents of an agent's retriever tools before the chat model reads them.

    A tool's result is filtered if its artifact is a list of documents, as
    `create_retriever_tool(..., response_format="content_and_artifact")` returns it. The artifact
    keeps the relevant documents, best first, with score and reasoning in their metadata. The
    content keeps what the tool wrote about them. All other results pass unchanged: texts without
    documents, errors, `Command`s.

    If the chat model called the tool with an empty query, or with none, it reads an error message
    that asks for one.

    Args:
        compressor: Judges the documents. Without `score_threshold` or `top_n` it keeps all.
        tools: Names of the tools whose results are filtered; None for every tool that returns
            documents.
        query: The query to judge against: the name of an argument of the tool, or a function of
            the tool call's request (which has `tool_call` and `state`).
        document_separator: The text between two documents in the content.
        document_prompt: Formats a document for the chat model, with its `page_content` and
            metadata as variables, such as `{relevance_score}`. A value that a document lacks
            reads "n/a". None to keep what the tool wrote. If the content can't be split into
            documents, because their texts and `document_separator` are not found in it in order,
            the chat model reads the texts alone.
        nothing_relevant: What the chat model reads if no document is left.

    Raises:
        MissingExtraError: On import, if langchain is not installed.

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
        # `self.tools` would be tools that the middleware adds to the agent.
        self._tool_names = None if tools is None else list(tools)
        self._compressor = compressor
        self._query = query
        self._separator = document_separator
        self._prompt = document_prompt
        self._nothing_relevant = nothing_relevant

    @property
    def name(self) -> str:
        """Different for different tools: an agent takes no two middlewares of the same name."""
        return " ".join([type(self).__name__, *(self._tool_names or [])])

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]
    ) -> Result:
        """Run the tool and filter its documents.

        Raises:
            ConfigurationError: The tool has no such argument as `query`, or the query does not
                fit the model's context.
            EngineError: The engine failed, and the compressor's `on_error` is "raise".
        """
        result = handler(request)
        if not self._holds_documents(result, request):
            return result
        query = self._query_of(request)
        if query is None:
            return self._query_error(result, request)
        kept = self._compressor.compress_documents(result.artifact, query)
        return self._filtered(result, kept)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """Async version of `wrap_tool_call`."""
        result = await handler(request)
        if not self._holds_documents(result, request):
            return result
        query = self._query_of(request)
        if query is None:
            return self._query_error(result, request)
        kept = await self._compressor.acompress_documents(result.artifact, query)
        return self._filtered(result, kept)

    def _holds_documents(self, result: Result, request: ToolCallRequest) -> TypeGuard[ToolMessage]:
        if self._tool_names is not None and request.tool_call["name"] not in self._tool_names:
            return False
        if not isinstance(result, ToolMessage) or result.status == "error":
            return False
        artifact = result.artifact
        return (
            isinstance(artifact, list | tuple)
            and len(artifact) > 0
            and all(is_document(element) for element in artifact)
        )

    def _query_of(self, request: ToolCallRequest) -> str | None:
        """Return the query of a tool call; None if it is missing, empty, or no text."""
        if callable(self._query):
            query: Any = self._query(request)
        else:
            query = self._argument(request, self._query)
        return query if isinstance(query, str) and query.strip() else None

    def _argument(self, request: ToolCallRequest, name: str) -> Any:
        arguments = request.tool_call["args"]
        known = {*arguments, *(request.tool.args if request.tool else ())}
        if name not in known:
            raise ConfigurationError(
                f"the tool {request.tool_call['name']!r} returned documents, but has no argument "
                f"{name!r} to judge them against (it has {sorted(known)}): name the "
                "argument with query=, or pass a function of the request; or leave this tool out "
                "with tools="
            )
        return arguments.get(name)

    def _query_error(self, message: ToolMessage, request: ToolCallRequest) -> ToolMessage:
        if callable(self._query):
            advice = "Ask the user for a question"
        else:
            name = request.tool_call["name"]
            advice = f"Call {name} again with a text as {self._query!r}"
        content = f"There is no query to judge the documents against. {advice}."
        return message.model_copy(update={"content": content, "artifact": [], "status": "error"})

    def _filtered(self, message: ToolMessage, kept: list[Document]) -> ToolMessage:
        originals: list[DocumentLike] = list(message.artifact)
        artifact = [in_form_of(originals[_index(document)], document) for document in kept]
        text = self._text(message.text, originals, kept) if kept else self._nothing_relevant
        if isinstance(message.content, str):
            content: Any = text
        else:
            others = [block for block in message.content if not _is_text(block)]
            content = [{"type": "text", "text": text}, *others]
        return message.model_copy(update={"content": content, "artifact": artifact})

    def _text(self, content: str, originals: list[DocumentLike], kept: list[Document]) -> str:
        """Return what the chat model reads of the kept documents."""
        if self._prompt is not None:
            pieces = [format_document(document, self._prompt) for document in kept]
        else:
            texts = [document.page_content for document in as_documents(originals)]
            all_pieces = split_content(content, texts, separator=self._separator) or texts
            pieces = [all_pieces[_index(document)] for document in kept]
        return self._separator.join(pieces)


def _is_text(block: str | dict[Any, Any]) -> bool:
    return isinstance(block, str) or block.get("type") == "text"


def _index(document: Document) -> int:
    """Return a judged document's position in the tool's result."""
    index: int = document.metadata["rank1"]["index"]
    return index
