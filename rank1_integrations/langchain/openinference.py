"""The `reranker.*` attributes on the span that OpenInference made of a run.

Its instrumentation of LangChain turns a run of the type "reranker" into a RERANKER span, but
fills in the attributes of retrievers and LLMs only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.documents import Document

from rank1_integrations.exceptions import MissingExtraError

try:
    from openinference.instrumentation import Document as SpanDocument
    from openinference.instrumentation import (
        get_llm_token_count_attributes,
        get_reranker_attributes,
    )
    from openinference.instrumentation.langchain import LangChainInstrumentor, get_current_span
except ImportError as error:
    raise MissingExtraError(
        "openinference-instrumentation-langchain", "langchain-openinference"
    ) from error

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from rank1_integrations.langchain.run import Answer, Question


def show_question(question: Question) -> None:
    """Say on the current run's span what is asked of which documents."""
    _set(
        get_reranker_attributes(
            query=question["query"],
            input_documents=_span_documents(question["documents"]),
            top_k=question["top_n"] or len(question["documents"]),
        )
    )


def show_answer(answer: Answer, *, model: str) -> None:
    """Say on the current run's span what was kept, and what it cost."""
    tokens = answer["tokens"]
    prompt, thought = tokens["prompt_tokens"], tokens["reasoning_tokens"]
    _set(
        {
            **get_reranker_attributes(
                model_name=model, output_documents=_span_documents(answer["documents"])
            ),
            **get_llm_token_count_attributes(
                {
                    "prompt": prompt,
                    "completion": thought,
                    "total": prompt + thought,
                    "prompt_details": {"cache_read": tokens["cached_tokens"]},
                }
            ),
        }
    )


def _set(attributes: dict[str, AttributeValue]) -> None:
    """On no span if the application is not instrumented."""
    # Asked for a span without being in use, the instrumentation prints to standard output.
    if LangChainInstrumentor().is_instrumented_by_opentelemetry and (span := get_current_span()):
        span.set_attributes(attributes)


def _span_documents(documents: list[Document]) -> list[SpanDocument]:
    return [_span_document(document) for document in documents]


def _span_document(document: Document) -> SpanDocument:
    shown = SpanDocument(content=document.page_content, metadata=document.metadata)
    if document.id is not None:
        shown["id"] = document.id
    if (score := document.metadata.get("relevance_score")) is not None:
        shown["score"] = score
    return shown
