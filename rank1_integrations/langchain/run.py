"""One rerank as callbacks, `astream_events` and tracers see it: one run that shows everything."""

from __future__ import annotations

from typing import Any, TypedDict

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig

from rank1_integrations.judgment import Judgment
from rank1_integrations.langchain.documents import judged
from rank1_integrations.reranker import Rank1


class Cut(TypedDict):
    """What is kept of the judged documents."""

    top_n: int | None
    score_threshold: float | None


class Question(Cut):
    """What a run shows as its inputs."""

    query: str
    documents: list[Document]


class Tokens(TypedDict):
    """What was spent on all documents together; named as in `Judgment`."""

    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int


class Answer(TypedDict):
    """What a run shows as its outputs: all documents with their judgments, and the cost."""

    documents: list[Document]
    dropped: list[Document]
    tokens: Tokens


class Rerank(Runnable[Question, Answer]):
    """Judges documents in a run; a compressor alone would be invisible.

    Args:
        rank1: The reranker.
        name: Of the run.
        openinference: Whether OpenInference is told that this is a reranker.
    """

    def __init__(self, rank1: Rank1, *, name: str, openinference: bool) -> None:
        self.name = name
        self._rank1 = rank1
        self._openinference = openinference
        self._run_type = "reranker" if openinference else "chain"

    def invoke(
        self, input: Question, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Answer:
        """Judge the documents; without any there is no run."""
        if not input["documents"]:
            return _answer([], [], [])
        return self._call_with_config(self._judge, input, config, run_type=self._run_type)

    async def ainvoke(
        self, input: Question, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Answer:
        """`invoke`, awaited."""
        if not input["documents"]:
            return _answer([], [], [])
        return await self._acall_with_config(self._ajudge, input, config, run_type=self._run_type)

    def _judge(self, question: Question) -> Answer:
        query, texts, cut = self._begin(question)
        return self._end(question, self._rank1.judge(query, texts, **cut))

    async def _ajudge(self, question: Question) -> Answer:
        query, texts, cut = self._begin(question)
        return self._end(question, await self._rank1.ajudge(query, texts, **cut))

    def _begin(self, question: Question) -> tuple[str, list[str], Cut]:
        if self._openinference:
            from rank1_integrations.langchain.openinference import show_question

            show_question(question)
        texts = [document.page_content for document in question["documents"]]
        return question["query"], texts, _cut(question)

    def _end(self, question: Question, judgments: list[Judgment]) -> Answer:
        kept = self._rank1.cut(judgments, **_cut(question))
        places = {judgment.index for judgment in kept}
        dropped = [judgment for judgment in judgments if judgment.index not in places]
        answer = _answer(question["documents"], kept, dropped)
        if self._openinference:
            from rank1_integrations.langchain.openinference import show_answer

            show_answer(answer, model=self._rank1.model)
        return answer


def _cut(question: Question) -> Cut:
    return {"top_n": question["top_n"], "score_threshold": question["score_threshold"]}


def _answer(documents: list[Document], kept: list[Judgment], dropped: list[Judgment]) -> Answer:
    # What was remembered cost nothing this time.
    computed = [judgment for judgment in kept + dropped if not judgment.cached]
    return {
        "documents": [judged(documents[judgment.index], judgment) for judgment in kept],
        "dropped": [judged(documents[judgment.index], judgment) for judgment in dropped],
        "tokens": {
            "prompt_tokens": sum(judgment.prompt_tokens for judgment in computed),
            "cached_tokens": sum(judgment.cached_tokens for judgment in computed),
            "reasoning_tokens": sum(judgment.reasoning_tokens for judgment in computed),
        },
    }
