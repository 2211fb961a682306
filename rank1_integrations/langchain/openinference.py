"""The `reranker.*` attributes of the span that OpenInference makes of a run.

Its instrumentation of LangChain turns a run of the type "reranker" into a RERANKER span, but sets
the attributes of retrievers and LLMs only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.documents import Document

from rank1_integrations.exceptions import MissingExtraError
from rank1_integrations.scoring.usage import Usage

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


def show_inputs(query: str, documents: list[Document], *, top_k: int) -> None:
    """Set query and documents on the current run's span."""
    _set_attributes(
        get_reranker_attributes(
            query=query, input_documents=_span_documents(documents), top_k=top_k
        )
    )


def show_outputs(kept: list[Document], usage: Usage, *, model: str) -> None:
    """Set the kept documents and the token counts on the current run's span."""
    completion = usage.reasoning_tokens + usage.answer_tokens
    _set_attributes(
        {
            **get_reranker_attributes(model_name=model, output_documents=_span_documents(kept)),
            **get_llm_token_count_attributes(
                {
                    "prompt": usage.prompt_tokens,
                    "completion": completion,
                    "total": usage.prompt_tokens + completion,
                    "prompt_details": {"cache_read": usage.cached_tokens},
                }
            ),
        }
    )


def _set_attributes(attributes: dict[str, AttributeValue]) -> None:
    """Set attributes on the current span, if the application is instrumented."""
    # Without instrumentation, `get_current_span` prints to standard output.
    if LangChainInstrumentor().is_instrumented_by_opentelemetry and (span := get_current_span()):
        span.set_attributes(attributes)


def _span_documents(documents: list[Document]) -> list[SpanDocument]:
    return [_span_document(document) for document in documents]


def _span_document(document: Document) -> SpanDocument:
    span_document = SpanDocument(content=document.page_content, metadata=document.metadata)
    if document.id is not None:
        span_document["id"] = document.id
    if (score := document.metadata.get("relevance_score")) is not None:
        span_document["score"] = score
    return span_document
