"""Corrective RAG in LangGraph: if no passage is relevant, the question is rewritten.

Set CHAT_BASE_URL and CHAT_MODEL to a chat model (see examples/models.py), then:

    python -m examples.langgraph_corrective_rag
"""

from __future__ import annotations

from typing import Literal, TypedDict

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from examples.langchain_rag import PROMPT, join
from examples.models import judge, langchain_chat_model
from examples.vector_stores import langchain_store
from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor, grade_documents, route_by_documents

QUESTION = "How do I erase a folder?"
MOST_REWRITES = 2
NOTHING_FOUND = "The documentation says nothing about this."

REWRITE = ChatPromptTemplate.from_messages(
    [
        ("system", "Ask the user's question in other words."),
        ("user", "How do I rename a folder?"),
        ("assistant", "How do I move a directory?"),
        ("user", "{query}"),
    ]
)


class State(TypedDict, total=False):
    """The user's question, the query made of it, and the rest of the graph's state."""

    question: str
    query: str
    documents: list[Document]
    rewrites: int
    answer: str


def corrective_rag(
    rank1: Rank1, chat_model: BaseChatModel
) -> CompiledStateGraph[State, None, State, State]:
    """Return a graph that retrieves, grades and answers, or rewrites and retrieves again."""
    retriever = langchain_store().as_retriever(search_kwargs={"k": 6})
    compressor = Rank1Compressor(rank1=rank1, score_threshold=0.5, top_n=3)

    def retrieve(state: State) -> State:
        query = state.get("query", state["question"])
        return {"query": query, "documents": retriever.invoke(query)}

    def rewrite(state: State) -> Command[Literal["retrieve", "__end__"]]:
        rewrites = state.get("rewrites", 0)
        if rewrites == MOST_REWRITES:
            return Command(update={"answer": NOTHING_FOUND}, goto="__end__")
        query = (REWRITE | chat_model).invoke({"query": state["query"]}).text
        return Command(update={"query": query, "rewrites": rewrites + 1}, goto="retrieve")

    def answer(state: State) -> State:
        values = {"question": state["question"], "passages": join(state["documents"])}
        return {"answer": (PROMPT | chat_model).invoke(values).text}

    graph = StateGraph(State)
    graph.add_node(retrieve)
    graph.add_node("grade", grade_documents(compressor, question="query"))
    graph.add_node(rewrite)
    graph.add_node("answer", answer)
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "grade")
    graph.add_conditional_edges("grade", route_by_documents("answer", otherwise="rewrite"))
    graph.add_edge("answer", END)
    return graph.compile()


def main() -> None:
    """Ask one question and show every step."""
    with judge() as rank1:
        graph = corrective_rag(rank1, langchain_chat_model())
        for step in graph.stream({"question": QUESTION}, stream_mode="updates"):
            for node, update in step.items():
                shown = {**update}
                if "documents" in update:
                    shown["documents"] = [d.metadata["source"] for d in update["documents"]]
                print(node, shown)


if __name__ == "__main__":
    main()
