"""The plain procedure of Rank1's model card, straight on `vllm.LLM`, in a process of its own.

From standard input it takes {"model", "engine_args", "max_tokens", "pairs"} as JSON, and to the
file named by its argument it writes, for each pair, what the card's code would see. Where a
thought did not end, it adds the labels' log-probabilities behind the thought closed by force,
read from the log-probabilities of the whole vocabulary. None of this package is used.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams


def create_prompt(query: str, document: str) -> str:
    return (
        "Determine if the following passage is relevant to the query. "
        "Answer only with 'true' or 'false'.\n"
        f"Query: {query}\n"
        f"Passage: {document}\n"
        "<think>"
    )


def follow_card(asked: dict[str, Any]) -> list[dict[str, Any]]:
    model = LLM(model=asked["model"], max_logprobs=-1, **asked["engine_args"])
    tokenizer = model.get_tokenizer()
    (true,) = tokenizer.encode(" true", add_special_tokens=False)
    (false,) = tokenizer.encode(" false", add_special_tokens=False)
    prompts = [create_prompt(query, document) for query, document in asked["pairs"]]
    outputs = model.generate(
        prompts,
        SamplingParams(
            temperature=0,
            max_tokens=asked["max_tokens"] + 1,  # the answer is a token too
            logprobs=20,
            stop=["</think> true", "</think> false"],
            skip_special_tokens=False,
        ),
    )
    seen: list[dict[str, Any]] = []
    for output in outputs:
        answer = output.outputs[0]
        concluded = answer.finish_reason == "stop" and answer.stop_reason is not None
        thought = answer.token_ids[: -2 if concluded else asked["max_tokens"]]
        logprobs = {token: entry.logprob for token, entry in answer.logprobs[-1].items()}
        seen.append(
            {
                "concluded": concluded,
                "text": answer.text if concluded else tokenizer.decode(thought),
                "true": logprobs.get(true),
                "false": logprobs.get(false),
            }
        )
    unfinished = [
        (prompt, one) for prompt, one in zip(prompts, seen, strict=True) if not one["concluded"]
    ]
    forced = model.generate(
        [f"{prompt}\n{to_last_sentence_end(one['text'])}\n</think>" for prompt, one in unfinished],
        SamplingParams(temperature=0, max_tokens=1, logprobs=-1),
    )
    for (_, one), output in zip(unfinished, forced, strict=True):
        vocabulary = output.outputs[0].logprobs[0]
        one |= {"true": vocabulary[true].logprob, "false": vocabulary[false].logprob}
    return seen


def to_last_sentence_end(text: str) -> str:
    """The text up to its last sentence end, or all of it."""
    whole = re.match(r".*[.!?]", text, re.DOTALL)
    return (whole[0] if whole else text).strip()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(follow_card(json.load(sys.stdin))))
