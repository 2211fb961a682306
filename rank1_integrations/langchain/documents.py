"""Documents in the forms that LangChain gives them, and what a judgment adds to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment

DocumentLike = Document | Mapping[str, Any]
"""A document, or the dict that a checkpoint, a queue or an HTTP client made of one:
`{"page_content": ..., "metadata": ..., "id": ...}`, or LangChain's own serialized form,
`{"lc": 1, "type": "constructor", "kwargs": {...}, ...}`."""

Documents = Sequence[DocumentLike | str]
"""Documents, dicts of documents, and bare texts."""


def as_documents(given: Documents) -> list[Document]:
    """Documents from documents, dicts of documents, and texts.

    Raises:
        ConfigurationError: One is none of these; the message names its place, from 0. Or it is
            one alone: its characters or keys would pass for texts.
    """
    if isinstance(given, str | Document | Mapping):
        raise ConfigurationError("documents must be a list; for one document pass [document]")
    return [_as_document(one, place) for place, one in enumerate(given)]


def is_document(given: object) -> bool:
    """Whether `given` is a document or the dict of one."""
    if isinstance(given, Document):
        return True
    if not isinstance(given, Mapping):
        return False
    fields = _fields(given)
    return isinstance(fields.get("page_content"), str) and isinstance(
        fields.get("metadata") or {}, Mapping
    )


def judged(document: Document, judgment: Judgment) -> Document:
    """A copy with the same id whose metadata says what was decided and why."""
    metadata = {**document.metadata, "relevance_score": judgment.score, **judgment.to_metadata()}
    return document.model_copy(update={"metadata": metadata})


def in_the_form_of(given: DocumentLike, document: Document) -> DocumentLike:
    """`document` as a dict like `given` if that is one, for who reads the result as such."""
    if isinstance(given, Document):
        return document
    if _fields(given) is not given:
        return {**given, "kwargs": {**given["kwargs"], "metadata": document.metadata}}
    return {**given, "metadata": document.metadata}


def _as_document(given: DocumentLike | str, place: int) -> Document:
    if isinstance(given, Document):
        return given
    if isinstance(given, str):
        return Document(page_content=given)
    if not is_document(given):
        raise ConfigurationError(
            f"document {place} must be a Document, or a dict with a text 'page_content' and "
            f"perhaps 'metadata' and 'id'; it is {_description(given)}"
        )
    fields = _fields(given)
    return Document(
        page_content=fields["page_content"],
        metadata=dict(fields.get("metadata") or {}),
        id=fields.get("id"),
    )


def _fields(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A document's fields from its dict; LangChain's serialized form has them in `kwargs`."""
    kwargs = given.get("kwargs")
    if "lc" in given and isinstance(kwargs, Mapping):
        return kwargs
    return given


def _description(given: object) -> str:
    """What to say of something that is no document; never its values, which may be private."""
    if isinstance(given, Mapping):
        return f"a dict with the keys {sorted(map(str, given))}"
    return f"of type {type(given).__name__}"
