"""What log-probabilities cost, on vLLM in this process and on a vLLM server.

All reasoning is 200 tokens long. The log-odds behind it come from (a) the 20 most likely tokens'
log-probabilities at every position, as in the official script; (b) the two labels' at every
position; (c) a second request for one token on exactly the tokens so far, as in this package.
(d) asks for none: the baseline.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import openai

from benchmarks.setting import BLOCK_SIZE, demo_on_vllm, on_own_cores, retrieve
from rank1_integrations import _event_loop
from rank1_integrations.engines.vllm.engine import VllmEngine
from rank1_integrations.scoring.prompt import FALSE, TRUE, build_prompt
from tests.integration.conftest import SERVED_NAME, demo_server

QUERY = "How do I sort a list in place?"
PASSAGES = 32
REASONING_TOKENS = 200
ROUNDS = 6

Logprobs = Literal["top 20", "labels"] | None
# From prompt, number of tokens and log-probabilities wanted, to the tokens and the last one's
# log-probabilities by token.
Complete = Callable[[list[int], int, Logprobs], Awaitable[tuple[list[int], dict[int, float]]]]
Recipe = Callable[[Complete, list[int]], Awaitable[dict[int, float]]]


def at_every_token(logprobs: Logprobs) -> Recipe:
    """Ask for reasoning and verdict in one request."""

    async def recipe(complete: Complete, prompt: list[int]) -> dict[int, float]:
        return (await complete(prompt, REASONING_TOKENS + 1, logprobs))[1]

    return recipe


async def afterwards(complete: Complete, prompt: list[int]) -> dict[int, float]:
    """Ask for the reasoning in one request and for the verdict in another."""
    reasoning, _ = await complete(prompt, REASONING_TOKENS, None)
    return (await complete([*prompt, *reasoning], 1, "labels"))[1]


RECIPES: dict[str, Recipe] = {
    "(a) top 20 at every token": at_every_token("top 20"),
    "(b) labels at every token": at_every_token("labels"),
    "(c) labels, one token more": afterwards,
    "(d) none": at_every_token(None),
}


def main() -> None:
    """Print tokens per second of each recipe, and its ratio to none."""
    with on_own_cores(demo_on_vllm()) as rank1:
        engine = rank1._runtime.latest.engine
        assert isinstance(engine, VllmEngine)
        tokenizer = engine._tokenizer
        labels = [*tokenizer.label_ids((TRUE, FALSE), model=rank1.model).values()]
        (texts,) = retrieve([QUERY], PASSAGES)
        prompts = [[*tokenizer.encode(build_prompt(QUERY, text).text)] for text in texts]
        compare("vLLM in this process", on_engine(engine, labels), prompts, labels)
    with (
        tempfile.TemporaryDirectory() as folder,
        on_own_cores(demo_server(Path(folder) / "log", block_size=BLOCK_SIZE)) as url,
    ):
        compare("vLLM server", on_server(url, labels), prompts, labels)


def compare(where: str, complete: Complete, prompts: list[list[int]], labels: list[int]) -> None:
    """Run all recipes in turn, a few times, each round in another order."""
    print(where)
    ratios: dict[str, list[float]] = {name: [] for name in RECIPES}
    seen: dict[str, list[dict[int, float]]] = {}
    _event_loop.run(_gather(afterwards, complete, prompts))  # warm up
    for turn in range(ROUNDS):
        seconds = {}
        order = [*RECIPES][turn % 4 :] + [*RECIPES][: turn % 4]
        for name in order:
            started = time.perf_counter()
            seen[name] = _event_loop.run(_gather(RECIPES[name], complete, prompts))
            seconds[name] = time.perf_counter() - started
        for name, taken in seconds.items():
            ratios[name].append(seconds["(d) none"] / taken)
        speeds = (
            f"{name[:3]} {len(prompts) * (REASONING_TOKENS + 1) / seconds[name]:7.0f}"
            for name in RECIPES
        )
        print(f"  round {turn + 1}, tokens/s: {', '.join(speeds)}")
    exact = [_log_odds(one, labels) for one in seen["(c) labels, one token more"]]
    for name in RECIPES:
        print(f"  {name:27} median ratio to none {statistics.median(ratios[name]):.2f}", end="")
        odds = [_log_odds(one, labels) for one in seen[name]]
        gaps = [abs(x - y) for x, y in zip(odds, exact, strict=True) if x is not None and y]
        if gaps:
            print(f", {len(gaps)} of {len(odds)} log-odds, at most {max(gaps):.1e} from (c)'s")
        else:
            print()


async def _gather(
    recipe: Recipe, complete: Complete, prompts: list[list[int]]
) -> list[dict[int, float]]:
    return await asyncio.gather(*(recipe(complete, prompt) for prompt in prompts))


def _log_odds(logprobs: dict[int, float], labels: list[int]) -> float | None:
    true, false = (logprobs.get(label) for label in labels)
    return None if true is None or false is None else true - false


def on_engine(engine: VllmEngine, labels: list[int]) -> Complete:
    """Return completions by a vLLM engine in this process."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    llm = engine._llm
    numbers = itertools.count()
    chosen: dict[Logprobs, dict[str, Any]] = {
        None: {},
        "top 20": {"logprobs": 20},
        "labels": {"logprobs": len(labels), "logprob_token_ids": labels},
    }

    async def complete(
        prompt: list[int], tokens: int, logprobs: Logprobs
    ) -> tuple[list[int], dict[int, float]]:
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **chosen[logprobs],
        )
        given: Any = {"type": "token", "prompt_token_ids": prompt}
        async for answer in llm.generate(given, parameters, f"benchmark-{next(numbers)}"):
            output = answer.outputs[0]
        last = output.logprobs[-1] if output.logprobs else {}
        return list(output.token_ids), {token: one.logprob for token, one in last.items()}

    return complete


def on_server(url: str, labels: list[int]) -> Complete:
    """Return completions by a vLLM server."""
    client = openai.AsyncOpenAI(base_url=url, api_key="none", timeout=600)
    chosen: dict[Logprobs, dict[str, Any]] = {
        None: {},
        "top 20": {"logprobs": 20},
        "labels": {"logprobs": len(labels), "logprob_token_ids": labels},
    }

    async def complete(
        prompt: list[int], tokens: int, logprobs: Logprobs
    ) -> tuple[list[int], dict[int, float]]:
        answer: Any = await client.completions.create(
            model=SERVED_NAME,
            prompt=prompt,
            max_tokens=tokens,
            temperature=0,
            extra_body={
                "ignore_eos": True,
                "skip_special_tokens": False,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
                **chosen[logprobs],
            },
        )
        choice = answer.choices[0]
        last = choice.logprobs.top_logprobs[-1] if choice.logprobs else {}
        by_token = {int(name.removeprefix("token_id:")): value for name, value in last.items()}
        return list(choice.model_extra["token_ids"]), by_token

    return complete


if __name__ == "__main__":
    main()
