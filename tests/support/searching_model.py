"""A chat model of a few lines that calls tools, so that an agent runs without a large one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool


class SearchingModel(BaseChatModel):
    """Call every tool with the user's message, then answer with the last tool message.

    Attributes:
        tools: Names of the tools.
        arguments: Arguments of every tool call; None for the user's message as `query`.
    """

    tools: tuple[str, ...] = ()
    arguments: dict[str, Any] | None = None

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        names = tuple(tool.name for tool in tools if isinstance(tool, BaseTool))
        return self.model_copy(update={"tools": names})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage) or not self.tools:
            answer = AIMessage(f"I have read: {last.text}")
        else:
            arguments = {"query": last.text} if self.arguments is None else self.arguments
            calls = [
                {"name": name, "args": arguments, "id": f"{name}-{len(messages)}"}
                for name in self.tools
            ]
            answer = AIMessage("", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    @property
    def _llm_type(self) -> str:
        return "searching"
