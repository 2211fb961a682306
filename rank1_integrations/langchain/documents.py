"""LangChain documents: their serialized forms, their text, and the judgment they carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.prompts import BasePromptTemplate

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment

DocumentLike = Document | Mapping[str, Any]
"""A document, or the dict that a checkpoint, a queue or an HTTP client made of one:
`{"page_content": ..., "metadata": ..., "id": ...}`, or LangChain's own serialized form,
`{"lc": 1, "type": "constructor", "kwargs": {...}, ...}`."""

Documents = Sequence[DocumentLike | str]
"""Documents, dicts of documents, and bare texts."""


def as_documents(documents: Documents) -> list[Document]:
    """Return documents from documents, dicts of documents, and texts.

    Raises:
        ConfigurationError: `documents` is a single document, or an element is no document. The
            message names its position.
    """
    if isinstance(documents, str | Document | Mapping):
        raise ConfigurationError("documents must be a list; for one document pass [document]")
    return [_as_document(document, index) for index, document in enumerate(documents)]


def is_document(value: object) -> bool:
    """Return whether `value` is a document or the dict of one."""
    if isinstance(value, Document):
        return True
    if not isinstance(value, Mapping):
        return False
    fields = _fields(value)
    return isinstance(fields.get("page_content"), str) and isinstance(
        fields.get("metadata") or {}, Mapping
    )


def with_judgment(document: Document, judgment: Judgment) -> Document:
    """Return a copy with the same id whose metadata carry the judgment.

    Metadata values are shared with `document`, not copied.
    """
    metadata = {**document.metadata, "relevance_score": judgment.score, **judgment.to_metadata()}
    return document.model_copy(update={"metadata": metadata})


def in_form_of(original: DocumentLike, document: Document) -> DocumentLike:
    """Return `document` as a dict if `original` is a dict, in the same form."""
    if isinstance(original, Document):
        return document
    if _fields(original) is not original:
        return {**original, "kwargs": {**original["kwargs"], "metadata": document.metadata}}
    return {**original, "metadata": document.metadata}


def format_document(document: Document, prompt: BasePromptTemplate[str] | None) -> str:
    """Return the text that `prompt` makes of a document; without a prompt, its `page_content`.

    LangChain's function of the same name fails on a document that lacks a value. Retrieved
    documents often do, and unscored ones have no score. Here the text says "n/a" instead.
    """
    if prompt is None:
        return document.page_content
    values = {"page_content": document.page_content}
    for name in prompt.input_variables:
        if name != "page_content":
            value = document.metadata.get(name)
            values[name] = _Missing("n/a") if value is None else value
    return prompt.format(**values)


class _Missing(str):
    """A text that takes any format specification, such as `.2f`."""

    def __format__(self, specification: str) -> str:
        return str(self)


def _as_document(document: DocumentLike | str, index: int) -> Document:
    if isinstance(document, Document):
        return document
    if isinstance(document, str):
        return Document(page_content=document)
    if not is_document(document):
        raise ConfigurationError(
            f"document {index} must be a Document, or a dict with a text 'page_content' and "
            f"perhaps 'metadata' and 'id'; it is {_description(document)}"
        )
    fields = _fields(document)
    return Document(
        page_content=fields["page_content"],
        metadata=dict(fields.get("metadata") or {}),
        id=fields.get("id"),
    )


def _fields(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a document's fields; LangChain's serialized form has them in `kwargs`."""
    kwargs = document.get("kwargs")
    if "lc" in document and isinstance(kwargs, Mapping):
        return kwargs
    return document


def _description(value: object) -> str:
    """Describe what is no document, without its values, which may be private."""
    if isinstance(value, Mapping):
        return f"a dict with the keys {sorted(map(str, value))}"
    return f"of type {type(value).__name__}"
