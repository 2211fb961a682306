"""One passage on the engine: its procedure followed, within the deadline, and remembered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from rank1_integrations import _event_loop
from rank1_integrations.config import Options
from rank1_integrations.engines.base import Completion, Engine, Request
from rank1_integrations.exceptions import EngineError
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring import steps as procedure
from rank1_integrations.scoring.cache import Memory
from rank1_integrations.scoring.deadline import Deadline, RecentTimes
from rank1_integrations.scoring.prompt import Prompt
from rank1_integrations.scoring.steps import OutOfTime, Plan
from rank1_integrations.scoring.truncation import fit
from rank1_integrations.scoring.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One passage to be judged.

    Attributes:
        index: Its place in the caller's list.
        query: What is asked, with the relevance definition around it.
        passage: The text, as the retriever had it.
        plan: How to judge.
        deadline: When to cut the thought. Giving up at its end is the caller's part.
        known: Its direct verdict, to fall back on; None if it has none.
        rather: A plan whose judgment is preferred where it is remembered.
    """

    index: int
    query: str
    passage: str
    plan: Plan
    deadline: Deadline
    known: Judgment | None = None
    rather: Plan | None = None


class PassageJudge:
    """Judges passages on one engine; everything that asks the engine goes through here.

    Attributes:
        usage: What it has cost so far.
        verdict_times: How long verdicts took lately.
    """

    def __init__(self, engine: Engine, options: Options) -> None:
        self.usage = Usage()
        self.verdict_times = RecentTimes()
        self._engine = engine
        self._options = options
        self._memory = Memory(options.cache)
        self._slots: dict[bool, asyncio.Semaphore] = {}

    async def start(self) -> None:
        """Make the engine ready.

        Raises:
            EngineError: It can't be used.
        """
        await self._engine.start()

    async def judge(self, case: Case) -> Judgment:
        """The judgment of one passage, when a place among those judged at once is free.

        Raises:
            EngineError: The engine gave no usable answer, and `on_error` is "raise".
            ConfigurationError: The query does not fit the model's context.
        """
        try:
            async with self._places(case.plan):
                return await self._judge(case)
        except EngineError as error:
            return self.fail(case.index, error, case.known)

    def fail(self, index: int, error: EngineError, known: Judgment | None = None) -> Judgment:
        """What a failure means: the judgment that says so, or the error itself.

        Raises:
            EngineError: `on_error` is "raise".
        """
        if self._options.on_error == "raise":
            raise error
        if known is not None:
            return replace(known, error=str(error))
        return Judgment(index=index, finish="failed", error=str(error))

    def skip(self, index: int) -> Judgment:
        """What it means that time ran out: the judgment that says so, or an error.

        Raises:
            EngineError: `on_error` is "raise".
        """
        error = f"the deadline of {self._options.deadline} s passed before its verdict"
        if self._options.on_error == "raise":
            raise EngineError(
                f"passage {index}: {error}; raise deadline=, judge fewer passages, or set "
                "on_error='keep' or 'drop' to go on with what was judged"
            )
        return Judgment(index=index, finish="skipped", error=error)

    def _places(self, plan: Plan) -> asyncio.Semaphore:
        """Those for thoughts, or those for direct verdicts, which must not wait for thoughts."""
        is_direct = plan.max_tokens == 0
        if is_direct not in self._slots:
            self._slots[is_direct] = asyncio.Semaphore(self._options.max_concurrency)
        return self._slots[is_direct]

    async def _judge(self, case: Case) -> Judgment:
        prompt, room = await fit(
            self._engine, case.query, case.passage, max_reasoning_tokens=self._longest_thought()
        )
        plan, model = _within(room, case.plan), self._engine.model
        if case.rather is not None:
            found = self._memory.find(model, prompt, _within(room, case.rather), case.index)
            if found is not None:
                return found

        async def make() -> tuple[Judgment, bool]:
            return await self._follow_all(replace(case, plan=plan), prompt)

        return await self._memory.recall(model, prompt, plan, case.index, make)

    def _longest_thought(self) -> int:
        # The same for every verdict of a query, so that all of them read the same passage.
        return 0 if self._options.thinking == "none" else self._options.max_reasoning_tokens

    async def _follow_all(self, case: Case, prompt: Prompt) -> tuple[Judgment, bool]:
        """The judgment of one thought, or of several sampled ones; whether none was cut short."""
        samples = case.plan.samples
        if samples == 1:
            return await self._follow(case, prompt, sample=0)
        answers = await _event_loop.gather(
            self._follow(case, prompt, sample=sample) for sample in range(samples)
        )
        judgments = [judgment for judgment, _ in answers]
        return procedure.mean(judgments), all(is_final for _, is_final in answers)

    async def _follow(self, case: Case, prompt: Prompt, *, sample: int) -> tuple[Judgment, bool]:
        """Ask the engine what the procedure wants to know, until it has a judgment."""
        steps = procedure.judge(
            case.index,
            prompt,
            case.plan,
            sample=sample,
            step_tokens=None if case.deadline.end is None else self._options.step_tokens,
            known=case.known,
        )
        is_final = True
        request = next(steps)
        while True:
            try:
                try:
                    completion = await self._complete(request, case.deadline)
                except OutOfTime as signal:
                    is_final = False
                    request = steps.throw(signal)
                else:
                    request = steps.send(completion)
            except StopIteration as end:
                judgment: Judgment = end.value
                return judgment, is_final

    async def _complete(self, request: Request, deadline: Deadline) -> Completion:
        """The engine's answer; verdicts may take until the end, thoughts end before.

        Raises:
            OutOfTime: The thought must end now.
        """
        if request.labels:
            with self.verdict_times.timed():
                completion = await self._engine.complete(request)
        else:
            completion = await self._think(request, deadline)
        self.usage.count_completion(request, completion)
        return completion

    async def _think(self, request: Request, deadline: Deadline) -> Completion:
        if deadline.is_near:
            raise OutOfTime
        try:
            async with asyncio.timeout_at(deadline.thoughts_end) as limit:
                return await self._engine.complete(request)
        except TimeoutError:
            if limit.expired():
                raise OutOfTime from None
            raise


def _within(room: int, plan: Plan) -> Plan:
    return replace(plan, max_tokens=min(plan.max_tokens, room))
