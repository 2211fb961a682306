"""Scripts for `rank1_integrations.testing.ScriptedEngine` that several tests share."""

from __future__ import annotations

from rank1_integrations.exceptions import EngineError


def length_script(passage: str) -> float:
    """Return log-odds that grow with the passage's length; fail if it says "fail".

    Raises:
        EngineError: The passage contains "fail".
    """
    if "fail" in passage:
        raise EngineError("the script says so")
    return float(len(passage)) - 10
