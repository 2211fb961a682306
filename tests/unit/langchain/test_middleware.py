"""The tool messages that an agent's chat model reads if Rank1 filters them.

The agent is LangChain's own. Its chat model is a small program
(`tests/support/searching_model.py`).
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain.agents.middleware.types import ToolCallRequest
from langchain.tools import ToolRuntime
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, create_retriever_tool, tool
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command

from rank1_integrations import ConfigurationError, EngineError, Rank1, Rank1Error
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.langchain.middleware import Rank1FilterMiddleware
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script
from tests.support.searching_model import SearchingModel
from tests.unit.langchain.conftest import (
    LONG,
    MIDDLE,
    QUERY,
    SHORT,
    FixedRetriever,
    descendants,
    some_documents,
    texts,
)

FORMS = pytest.mark.parametrize("form", ["invoke", "ainvoke"])
FOUND = some_documents(SHORT, MIDDLE, LONG)
ABSENT = object()


@pytest.fixture
def good(rank1: Rank1) -> Rank1FilterMiddleware:
    """Leaves SHORT out."""
    return Rank1FilterMiddleware(Rank1Compressor(rank1=rank1, score_threshold=0.5))


@FORMS
async def test_the_model_reads_the_relevant_passages_best_first(
    form: str, good: Rank1FilterMiddleware
) -> None:
    message, answer = await ask(form, search(), good)
    assert message.content == f"{LONG}\n\n{MIDDLE}"
    assert answer == f"I have read: {LONG}\n\n{MIDDLE}"


@FORMS
async def test_the_artifact_carries_the_judgments(form: str, good: Rank1FilterMiddleware) -> None:
    message, _ = await ask(form, search(), good)
    assert texts(message.artifact) == [LONG, MIDDLE]
    assert [document.id for document in message.artifact] == ["id-2", "id-1"]
    assert message.artifact[1].metadata["relevance_score"] == 0.5
    assert message.artifact[1].metadata["relevance_reasoning"] == f"I have read: {MIDDLE}."
    assert message.artifact[1].metadata["source"] == "file-1"


@FORMS
async def test_the_rest_of_the_message_stays(form: str, good: Rank1FilterMiddleware) -> None:
    plain, _ = await ask(form, search())
    message, _ = await ask(form, search(), good)
    assert message.model_dump(exclude={"content", "artifact", "id"}) == plain.model_dump(
        exclude={"content", "artifact", "id"}
    )
    assert (message.name, message.status) == ("search", "success")


@FORMS
async def test_the_tools_own_documents_are_not_changed(
    form: str, good: Rank1FilterMiddleware
) -> None:
    before = [document.model_copy(deep=True) for document in FOUND]
    await ask(form, search(), good)
    assert before == FOUND


@FORMS
async def test_the_model_is_told_when_nothing_is_relevant(form: str, rank1: Rank1) -> None:
    strict = Rank1Compressor(rank1=rank1, score_threshold=1.0)
    message, _ = await ask(form, search(), Rank1FilterMiddleware(strict))
    assert (message.content, message.artifact) == ("No relevant passage was found.", [])
    told = Rank1FilterMiddleware(strict, nothing_relevant="Nothing. Ask in other words.")
    message, _ = await ask(form, search(), told)
    assert message.content == "Nothing. Ask in other words."


async def test_the_tools_own_format_is_kept(good: Rank1FilterMiddleware) -> None:
    prompt = PromptTemplate.from_template("[{source}]\n{page_content}\n(end)")
    message, _ = await ask("ainvoke", search(document_prompt=prompt), good)
    assert message.content == f"[file-2]\n{LONG}\n(end)\n\n[file-1]\n{MIDDLE}\n(end)"


async def test_the_tools_own_separator_is_kept_where_it_is_given(rank1: Rank1) -> None:
    compressor = Rank1Compressor(rank1=rank1, score_threshold=0.5)
    filtering = Rank1FilterMiddleware(compressor, document_separator="\n---\n")
    message, _ = await ask("ainvoke", search(document_separator="\n---\n"), filtering)
    assert message.content == f"{LONG}\n---\n{MIDDLE}"


async def test_a_tool_of_ones_own_keeps_its_format(good: Rank1FilterMiddleware) -> None:
    @tool(response_format="content_and_artifact")
    def retrieve_context(query: str) -> tuple[str, list[Document]]:
        """Retrieve information to help answer a query."""
        serialized = "\n\n".join(
            f"Source: {document.metadata}\nContent: {document.page_content}" for document in FOUND
        )
        return serialized, FOUND

    message, _ = await ask("ainvoke", retrieve_context, good)
    assert message.content == (
        f"Source: {{'source': 'file-2'}}\nContent: {LONG}\n\n"
        f"Source: {{'source': 'file-1'}}\nContent: {MIDDLE}"
    )


async def test_if_the_content_can_not_be_split_the_texts_alone_are_kept(
    good: Rank1FilterMiddleware,
) -> None:
    @tool(response_format="content_and_artifact")
    def count(query: str) -> tuple[str, list[Document]]:
        """Say how many passages there are."""
        return "three passages were found", FOUND

    message, _ = await ask("ainvoke", count, good)
    assert message.content == f"{LONG}\n\n{MIDDLE}"


async def test_a_prompt_can_show_the_judgment(rank1: Rank1) -> None:
    filtering = Rank1FilterMiddleware(
        Rank1Compressor(rank1=rank1, top_n=1),
        document_prompt=PromptTemplate.from_template("{page_content} ({relevance_score:.2f})"),
    )
    message, _ = await ask("ainvoke", search(), filtering)
    assert message.content == f"{LONG} (0.98)"


async def test_a_prompt_survives_unscored_documents_and_missing_values() -> None:
    compressor = Rank1Compressor(rank1=Rank1(ScriptedEngine(length_script), on_error="keep"))
    prompt = PromptTemplate.from_template("{title:>5} {relevance_score:.2f} {page_content}")
    filtering = Rank1FilterMiddleware(compressor, document_prompt=prompt)
    message, _ = await ask("ainvoke", search(some_documents("fail", LONG)), filtering)
    assert message.content == f"n/a 0.98 {LONG}\n\nn/a n/a fail"


async def test_in_a_list_of_blocks_the_text_is_replaced_and_the_rest_stays(
    good: Rank1FilterMiddleware,
) -> None:
    image = {"type": "image", "url": "https://example.org/a.png"}

    @tool(response_format="content_and_artifact")
    def look(query: str) -> tuple[list[Any], list[Document]]:
        """Look it up."""
        return [{"type": "text", "text": "\n\n".join(texts(FOUND))}, image], FOUND

    message, _ = await ask("ainvoke", look, good)
    assert message.content == [{"type": "text", "text": f"{LONG}\n\n{MIDDLE}"}, image]


@FORMS
@pytest.mark.parametrize("as_dict", [lambda document: document.model_dump(), dumpd])
async def test_documents_may_be_dicts_and_stay_dicts(
    form: str, as_dict: Any, good: Rank1FilterMiddleware
) -> None:
    dicts = [as_dict(document) for document in FOUND]

    @tool(response_format="content_and_artifact")
    def remember(query: str) -> tuple[str, list[dict[str, Any]]]:
        """Return the documents of an earlier search."""
        return "\n\n".join(texts(FOUND)), dicts

    message, _ = await ask(form, remember, good)
    assert message.content == f"{LONG}\n\n{MIDDLE}"
    fields = [kept.get("kwargs", kept) for kept in message.artifact]
    assert [one["page_content"] for one in fields] == [LONG, MIDDLE]
    assert [one["id"] for one in fields] == ["id-2", "id-1"]
    assert fields[1]["metadata"]["relevance_score"] == 0.5
    assert set(message.artifact[0]) == set(dicts[0])


@FORMS
async def test_the_result_survives_a_strict_checkpoint_and_is_filtered_again(
    form: str, good: Rank1FilterMiddleware
) -> None:
    @tool(response_format="content_and_artifact")
    def recall(query: str, runtime: ToolRuntime) -> tuple[str, list[Any]]:
        """Return the documents of the last search."""
        earlier = [one for one in runtime.state["messages"] if isinstance(one, ToolMessage)]
        artifact = earlier[-1].artifact if earlier else FOUND
        return "see the artifact", artifact

    agent = create_agent(
        SearchingModel(),
        tools=[recall],
        middleware=[good],
        checkpointer=InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None)),
    )
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    for _ in range(2):
        question: Any = {"messages": [HumanMessage(QUERY)]}
        if form == "invoke":
            state = agent.invoke(question, config)
        else:
            state = await agent.ainvoke(question, config)
    first, second = (message for message in state["messages"] if isinstance(message, ToolMessage))
    assert first.content == second.content == f"{LONG}\n\n{MIDDLE}"
    # This is what the reload makes of documents.
    assert [type(document) for document in first.artifact] == [dict, dict]
    assert first.artifact[1]["metadata"]["rank1"]["index"] == 1
    assert [one["metadata"]["rank1"]["index"] for one in second.artifact] == [0, 1]


@FORMS
async def test_everything_else_passes_unchanged(
    form: str, good: Rank1FilterMiddleware, engine: ScriptedEngine
) -> None:
    @tool
    def add(query: str) -> str:
        """Give a text without documents."""
        return "4"

    @tool(response_format="content_and_artifact")
    def plot(query: str) -> tuple[str, Any]:
        """Give an artifact that is no documents."""
        return "a plot", [{"x": 1}, {"x": 2}]

    @tool(response_format="content_and_artifact")
    def mix(query: str) -> tuple[str, Any]:
        """Give an artifact that holds documents among others."""
        return "a mixture", [*FOUND, "text"]

    @tool(response_format="content_and_artifact")
    def miss(query: str) -> tuple[str, Any]:
        """Find nothing."""
        return "nothing found", []

    for other in (add, plot, mix, miss, search(response_format="content")):
        plain, _ = await ask(form, other)
        message, _ = await ask(form, other, good)
        assert message.model_dump(exclude={"id"}) == plain.model_dump(exclude={"id"})
    assert engine.requests == []


@FORMS
async def test_a_command_passes_unchanged(
    form: str, good: Rank1FilterMiddleware, engine: ScriptedEngine
) -> None:
    @tool
    def move(query: str, runtime: ToolRuntime) -> Command[Any]:
        """Change the state."""
        message = ToolMessage("moved", tool_call_id=runtime.tool_call_id, artifact=FOUND)
        return Command(update={"messages": [message]})

    message, _ = await ask(form, move, good)
    assert (message.content, message.artifact) == ("moved", FOUND)
    assert engine.requests == []


@FORMS
async def test_an_error_passes_unchanged(
    form: str, good: Rank1FilterMiddleware, engine: ScriptedEngine
) -> None:
    request = ToolCallRequest(
        tool_call={"name": "search", "args": {"query": QUERY}, "id": "1"},
        tool=None,
        state={},
        runtime=None,  # type: ignore[arg-type]
    )
    message = ToolMessage("the index is gone", tool_call_id="1", status="error", artifact=FOUND)

    async def fail(_: ToolCallRequest) -> ToolMessage:
        return message

    if form == "invoke":
        assert good.wrap_tool_call(request, lambda _: message) is message
    else:
        assert await good.awrap_tool_call(request, fail) is message
    assert engine.requests == []


@FORMS
async def test_only_the_named_tools_are_filtered(form: str, rank1: Rank1) -> None:
    compressor = Rank1Compressor(rank1=rank1, top_n=1)
    other = Rank1FilterMiddleware(compressor, tools=["another"])
    message, _ = await ask(form, search(), other)
    assert message.artifact == FOUND
    named = Rank1FilterMiddleware(compressor, tools=["search"])
    message, _ = await ask(form, search(), named, other)
    assert texts(message.artifact) == [LONG]


def test_names_of_tools_are_a_list(rank1: Rank1) -> None:
    with pytest.raises(ConfigurationError, match=r"for one pass \['search'\]"):
        Rank1FilterMiddleware(Rank1Compressor(rank1=rank1), tools="search")


@FORMS
async def test_documents_are_judged_against_the_named_argument(
    form: str, rank1: Rank1, engine: ScriptedEngine
) -> None:
    @tool(response_format="content_and_artifact")
    def look_up(topic: str) -> tuple[str, list[Document]]:
        """Look a topic up."""
        return "\n\n".join(texts(FOUND)), FOUND

    compressor = Rank1Compressor(rank1=rank1)
    filtering = Rank1FilterMiddleware(compressor, query="topic")
    await ask(form, look_up, filtering, model=SearchingModel(arguments={"topic": QUERY}))
    assert judged_queries(engine) == {QUERY}


@FORMS
async def test_documents_are_judged_against_the_query_that_a_function_returns(
    form: str, rank1: Rank1, engine: ScriptedEngine
) -> None:
    filtering = Rank1FilterMiddleware(
        Rank1Compressor(rank1=rank1),
        query=lambda request: f"user: {request.state['messages'][0].text}",
    )
    await ask(form, search(), filtering)
    assert judged_queries(engine) == {f"user: {QUERY}"}


@FORMS
@pytest.mark.parametrize("query", ["", "  ", None, ["a", "b"], 7, ABSENT])
async def test_without_a_usable_query_the_model_is_asked_for_one(
    form: str, query: Any, good: Rank1FilterMiddleware, engine: ScriptedEngine
) -> None:
    @tool(response_format="content_and_artifact")
    def look_up(query: Any = None) -> tuple[str, list[Document]]:
        """Return passages, whatever the query."""
        return "\n\n".join(texts(FOUND)), FOUND

    arguments = {} if query is ABSENT else {"query": query}
    message, answer = await ask(form, look_up, good, model=SearchingModel(arguments=arguments))
    assert (message.status, message.artifact) == ("error", [])
    assert message.content == (
        "There is no query to judge the documents against. "
        "Call look_up again with a text as 'query'."
    )
    assert answer == f"I have read: {message.content}"
    assert engine.requests == []


@FORMS
@pytest.mark.parametrize("query", ["", None])
async def test_without_a_question_from_the_user_the_model_is_told_to_ask(
    form: str, query: Any, rank1: Rank1
) -> None:
    filtering = Rank1FilterMiddleware(Rank1Compressor(rank1=rank1), query=lambda request: query)
    message, _ = await ask(form, search(), filtering)
    assert message.status == "error"
    assert "Ask the user for a question." in message.content


@FORMS
async def test_a_filtered_tools_errors_reach_the_model_through_langchains_retry_middleware(
    form: str, rank1: Rank1
) -> None:
    """An empty query raises inside the tool, where no middleware of this package is."""
    retriever = ContextualCompressionRetriever(
        base_compressor=Rank1Compressor(rank1=rank1), base_retriever=FixedRetriever(documents=FOUND)
    )
    filtered = create_retriever_tool(retriever, "search", "Search the manual.")
    retry = ToolRetryMiddleware(max_retries=0, retry_on=(Rank1Error,))
    message, _ = await ask(form, filtered, retry, model=SearchingModel(arguments={"query": ""}))
    assert message.status == "error"
    assert "the query is empty" in message.content


@FORMS
async def test_an_argument_that_the_tool_does_not_have_is_a_configuration_error(
    form: str, good: Rank1FilterMiddleware
) -> None:
    @tool(response_format="content_and_artifact")
    def look_up(topic: str) -> tuple[str, list[Document]]:
        """Look a topic up."""
        return "\n\n".join(texts(FOUND)), FOUND

    with pytest.raises(ConfigurationError, match=r"no argument 'query'.*\['topic'\].*query="):
        await ask(form, look_up, good, model=SearchingModel(arguments={"topic": QUERY}))


@FORMS
async def test_an_engine_that_fails_is_an_error(form: str, good: Rank1FilterMiddleware) -> None:
    with pytest.raises(EngineError, match="the script says so"):
        await ask(form, search([Document(page_content="fail")]), good)


@FORMS
async def test_the_rerank_is_a_run_inside_the_agents(
    form: str, good: Rank1FilterMiddleware
) -> None:
    runs = RunCollectorCallbackHandler()
    await ask(form, search(), good, config={"callbacks": [runs]})
    (root,) = runs.traced_runs
    (tools,) = (run for run in root.child_runs if run.name == "tools")
    assert descendants(tools).count("Rank1Compressor") == 1


def test_without_langchain_only_the_middleware_is_missing() -> None:
    code = """
import sys
sys.modules["langchain"] = None
from rank1_integrations.exceptions import MissingExtraError
import rank1_integrations.langchain
print(rank1_integrations.langchain.Rank1Compressor.__name__)
try:
    from rank1_integrations.langchain import Rank1FilterMiddleware
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == (
        "Rank1Compressor\n"
        "langchain is not installed: pip install 'rank1-integrations[langchain-agents]'\n"
    ), done.stderr


def search(documents: list[Document] = FOUND, **settings: Any) -> BaseTool:
    """Return LangChain's own retriever tool."""
    return create_retriever_tool(
        FixedRetriever(documents=documents),
        "search",
        "Search the manual.",
        **{"response_format": "content_and_artifact", **settings},
    )


async def ask(
    form: str,
    tool: BaseTool,
    *middleware: AgentMiddleware,
    model: SearchingModel | None = None,
    config: RunnableConfig | None = None,
) -> tuple[ToolMessage, str]:
    """Return the tool's message as the model reads it, and the model's answer."""
    agent = create_agent(model or SearchingModel(), tools=[tool], middleware=middleware)
    question: Any = {"messages": [HumanMessage(QUERY)]}
    if form == "invoke":
        state = agent.invoke(question, config)
    else:
        state = await agent.ainvoke(question, config)
    (message,) = (message for message in state["messages"] if isinstance(message, ToolMessage))
    return message, state["messages"][-1].text


def judged_queries(engine: ScriptedEngine) -> set[str]:
    """Return the queries that passages were judged against."""
    prompts = [str(request.prompt) for request in engine.requests if request.stop is not None]
    return {prompt.partition("\nQuery: ")[2].partition("\nPassage: ")[0] for prompt in prompts}
