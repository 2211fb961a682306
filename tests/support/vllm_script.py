"""A user's script on the vLLM engine, for tests that end its process in some way.

It prints how far it is. Its argument is what it does once the model is loaded: "judge", "raise" or
"fork".
"""

from __future__ import annotations

import os
import sys
from functools import partial

from rank1_integrations import Rank1
from rank1_integrations.demo_model import DEMO_MODEL
from tests.integration.conftest import ENGINE_ARGS

QUERY = "How do I sort a list in place?"
PASSAGES = ["The sort() method of a list sorts it in place.", "Sockets connect to machines."]

kept: list[Rank1] = []
say = partial(print, flush=True)


def main(then: str) -> None:
    say("begun")
    rank1 = Rank1.from_vllm(str(DEMO_MODEL), engine_args=ENGINE_ARGS, max_reasoning_tokens=256)
    kept.append(rank1)
    say("loaded")
    if then == "raise":
        raise ValueError("in the middle")
    if then == "fork":
        child = os.fork()
        if child == 0:
            rank1.close()
            say("child ends")
            return
        os.waitpid(child, 0)
        say("judged", *(judgment.relevant for judgment in rank1.judge(QUERY, PASSAGES)))
        return
    try:
        say("judging")
        for _ in range(1000):
            rank1.judge(QUERY, PASSAGES)
    except KeyboardInterrupt:
        say("interrupted")
    say("judged", *(judgment.relevant for judgment in rank1.judge(QUERY, PASSAGES)))


if __name__ == "__main__":
    main(*sys.argv[1:])
