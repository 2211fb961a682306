"""RAG in LangChain: a vector store, Rank1, and a chat model that reads the kept passages.

Set CHAT_BASE_URL and CHAT_MODEL to a chat model (see examples/models.py), then:

    python -m examples.langchain_rag
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough

from examples.models import judge, langchain_chat_model
from examples.vector_stores import langchain_store
from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor

QUESTION = "How do I remove a directory tree?"

# Retrieved text goes into the user's message. In the system message, instructions that it may
# hold would speak with the authority of the application's own.
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer the user's question from the passages below it, and nothing else."),
        ("user", "{question}\n\nPassages:\n\n{passages}"),
    ]
)


def filtered_retriever(rank1: Rank1) -> ContextualCompressionRetriever:
    """Return a retriever of six passages, of which it keeps the relevant ones, three at most."""
    return ContextualCompressionRetriever(
        base_retriever=langchain_store().as_retriever(search_kwargs={"k": 6}),
        base_compressor=Rank1Compressor(rank1=rank1, score_threshold=0.5, top_n=3),
    )


def rag(rank1: Rank1, chat_model: BaseChatModel) -> Runnable[dict[str, str], dict[str, Any]]:
    """Return a chain from `{"question": ...}` to the same with `documents` and `answer`."""
    return (
        RunnablePassthrough()
        .assign(documents=itemgetter("question") | filtered_retriever(rank1))
        .assign(passages=lambda state: join(state["documents"]))
        .assign(answer=PROMPT | chat_model | StrOutputParser())
    )


def join(documents: list[Document]) -> str:
    """Return the text that the chat model reads."""
    return "\n\n".join(document.page_content for document in documents)


def main() -> None:
    """Ask one question and show the answer and its sources."""
    with judge() as rank1:
        result = rag(rank1, langchain_chat_model()).invoke({"question": QUESTION})
    print(QUESTION, result["answer"], sep="\n")
    for document in result["documents"]:
        print(f"- {document.metadata['source']}: {document.metadata['relevance_reasoning']}")


if __name__ == "__main__":
    main()
