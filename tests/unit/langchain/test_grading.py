"""One text judged for a document grader."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from rank1_integrations import EngineError, Judgment, Rank1
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script
from tests.unit.langchain.conftest import LONG, MIDDLE, QUERY, SHORT, descendants

FORMS = pytest.mark.parametrize("form", ["grade", "agrade"])


@FORMS
@pytest.mark.parametrize(
    "text", [LONG, Document(page_content=LONG), {"page_content": LONG, "metadata": {}}]
)
async def test_a_text_or_a_document_is_judged(form: str, text: Any, rank1: Rank1) -> None:
    judgment = await grade(form, Rank1Compressor(rank1=rank1), text)
    assert judgment == rank1.judge(QUERY, [LONG])[0]
    assert judgment.relevant is True
    assert judgment.reasoning == f"I have read: {LONG}."


@FORMS
@pytest.mark.parametrize(
    "selection", [{"score_threshold": 0.9}, {"score_threshold": 0.0}, {"top_n": 1}]
)
async def test_the_selection_does_not_change_the_verdict(
    form: str, selection: dict[str, Any], rank1: Rank1
) -> None:
    compressor = Rank1Compressor(rank1=rank1, **selection)
    assert (await grade(form, compressor, SHORT)).relevant is False
    assert (await grade(form, compressor, f"{MIDDLE}!")).relevant is True


@FORMS
@pytest.mark.parametrize(("text", "output"), [(LONG, "documents"), (SHORT, "dropped")])
async def test_its_run_shows_the_verdict(form: str, text: str, output: str, rank1: Rank1) -> None:
    compressor, runs = Rank1Compressor(rank1=rank1), RunCollectorCallbackHandler()
    step = RunnableLambda(partial(grade, form, compressor))
    await step.ainvoke(text, {"callbacks": [runs]})
    (run,) = runs.traced_runs[0].child_runs
    assert [len((run.outputs or {})[name]) for name in ("documents", "dropped")] == [
        output == "documents",
        output == "dropped",
    ]


@FORMS
@pytest.mark.parametrize("on_error", ["keep", "drop"])
async def test_a_failed_text_has_no_verdict(form: str, on_error: Any) -> None:
    rank1 = Rank1(ScriptedEngine(length_script), on_error=on_error)
    judgment = await grade(form, Rank1Compressor(rank1=rank1), "fail")
    assert (judgment.relevant, judgment.finish_reason) == (None, "failed")


@FORMS
async def test_a_failure_is_an_error(form: str, rank1: Rank1) -> None:
    with pytest.raises(EngineError):
        await grade(form, Rank1Compressor(rank1=rank1), "fail")


@FORMS
async def test_its_run_belongs_to_the_calling_step(form: str, rank1: Rank1) -> None:
    compressor, runs = Rank1Compressor(rank1=rank1), RunCollectorCallbackHandler()

    async def grader(text: str) -> bool | None:
        return (await grade(form, compressor, text)).relevant

    assert await RunnableLambda(grader).ainvoke(LONG, {"callbacks": [runs]}) is True
    assert descendants(runs.traced_runs[0]) == ["Rank1Compressor"]


async def grade(form: str, compressor: Rank1Compressor, text: Any) -> Judgment:
    if form == "grade":
        return compressor.grade(QUERY, text)
    return await compressor.agrade(QUERY, text)
