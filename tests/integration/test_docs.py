"""The code on the documentation's pages runs unchanged on a real server.

The ```python blocks of a page run in order, in one namespace, as in a notebook: `await` may stand
outside of functions. Only the server's address is replaced. The names that a page expects its
reader to have are in the module of `tests/support/docs_fixtures` with the page's name.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["langchain", "llama-index"]
ADDRESS = "http://localhost:8000/v1"


@pytest.mark.parametrize("page", PAGES)
async def test_the_code_on_the_page_runs(page: str, server_url: str) -> None:
    module = import_module(f"tests.support.docs_fixtures.{page.replace('-', '_')}")
    with module.reader() as names:
        names["__name__"] = f"docs.{page}"
        for code in blocks(DOCS / f"{page}.md", server_url):
            result = eval(code, names)
            if inspect.isawaitable(result):
                await result


def blocks(page: Path, server_url: str) -> Iterator[CodeType]:
    """Yield the page's code, compiled so that errors show the page's own lines."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        lines_above = text.count("\n", 0, block.start(1))
        source = "\n" * lines_above + block[1].replace(ADDRESS, server_url)
        # Without this module's own `from __future__`, which a reader's would not have either.
        yield compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
