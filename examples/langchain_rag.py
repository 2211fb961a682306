"""LangChain RAG: a vector store finds passages, Rank1 keeps those that answer, a chat model reads.

CHAT_BASE_URL=http://localhost:8000/v1 CHAT_MODEL=... python -m examples.langchain_rag
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

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer from these passages alone:\n\n{passages}"), ("user", "{question}")]
)


def filtered_retriever(rank1: Rank1) -> ContextualCompressionRetriever:
    """Six passages from the vector store, of which those relevant to the question are kept."""
    return ContextualCompressionRetriever(
        base_retriever=langchain_store().as_retriever(search_kwargs={"k": 6}),
        base_compressor=Rank1Compressor(rank1=rank1, score_threshold=0.5, top_n=3),
    )


def rag(rank1: Rank1, chat_model: BaseChatModel) -> Runnable[dict[str, str], dict[str, Any]]:
    """A chain from `{"question": ...}` to the same with `documents` and `answer`."""
    return (
        RunnablePassthrough()
        .assign(documents=itemgetter("question") | filtered_retriever(rank1))
        .assign(passages=lambda found: join(found["documents"]))
        .assign(answer=PROMPT | chat_model | StrOutputParser())
    )


def join(documents: list[Document]) -> str:
    """The text that the chat model reads."""
    return "\n\n".join(document.page_content for document in documents)


def main() -> None:
    """Ask one question and show the answer and what it rests on."""
    with judge() as rank1:
        result = rag(rank1, langchain_chat_model()).invoke({"question": QUESTION})
    print(QUESTION, result["answer"], sep="\n")
    for document in result["documents"]:
        print(f"- {document.metadata['source']}: {document.metadata['relevance_reasoning']}")


if __name__ == "__main__":
    main()
