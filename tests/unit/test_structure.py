"""The package keeps its structure: which module imports which, and how large the core may be."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rank1_integrations

ROOT = Path(rank1_integrations.__file__).parent
PACKAGE = ROOT.name
APPLICATIONS = ("evaluation", "cli", "mteb", "ray")
HEAVY = {
    *("cyclopts", "langchain", "langchain_core", "langgraph", "llama_index", "matplotlib", "mteb"),
    *("numpy", "openai", "ray", "rich", "scipy", "tokenizers", "torch", "transformers", "vllm"),
}
# Modules that are themselves imported only where their library is used.
MAY_IMPORT_HEAVY = ("engines", "langchain", "llama_index", *APPLICATIONS)
MAY_SPLIT_SELECTION = {
    *("reranker", "selection", "_adapter", "langchain", "llama_index", *APPLICATIONS),
}
CORE_LINES = 2_300
FUNCTION_LINES = 60
TRANSPARENT = (ast.If, ast.Try, ast.With, ast.ExceptHandler, ast.ClassDef)


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax trees of all modules by their dotted name without the package's."""
    return {name_of(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = [*path.relative_to(ROOT).with_suffix("").parts]
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def is_for_types_only(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree: ast.AST, *, at_import_only: bool = False) -> Iterator[str]:
    """Yield the full names of what is imported; with `at_import_only`, when the module is."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If() if at_import_only and is_for_types_only(node):
                continue
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case _ if not at_import_only or isinstance(node, TRANSPARENT):
                yield from imports_of(node, at_import_only=at_import_only)


def internal_imports(name: str, *, at_import_only: bool = False) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for full in imports_of(modules()[name], at_import_only=at_import_only):
        module, _, member = full.rpartition(".")
        for candidate in (full, module):
            inside = candidate.removeprefix(PACKAGE).removeprefix(".")
            if candidate.partition(".")[0] == PACKAGE and inside in modules():
                found.add(inside)
                break
        else:
            assert module.partition(".")[0] != PACKAGE, f"{name} imports {member} from nowhere"
    return found


def belongs_to(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def core() -> list[Path]:
    """The core: root modules, `scoring/` and the engines' interface."""
    return [
        *sorted(ROOT.glob("*.py")),
        *sorted(ROOT.glob("scoring/*.py")),
        ROOT / "engines/base.py",
    ]


def test_no_two_modules_import_each_other() -> None:
    graph = {name: internal_imports(name) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_an_engine_imports_only_what_engines_share_and_the_errors() -> None:
    allowed = ("exceptions", "engines.base", "engines.checkpoint", "engines.tokenizer")
    for name in modules():
        if belongs_to(name, ("engines",)):
            own = (".".join(name.split(".")[:2]),)
            others = {found for found in internal_imports(name) if not belongs_to(found, own)}
            assert others <= {*allowed, "engines"}, name


def test_nothing_but_applications_imports_an_application() -> None:
    importers = {
        name
        for name in modules()
        if not belongs_to(name, APPLICATIONS)
        for found in internal_imports(name)
        if belongs_to(found, APPLICATIONS)
    }
    assert importers == set()


def test_the_core_imports_no_adapter_and_no_engine_when_it_is_imported() -> None:
    engines = {name for name in modules() if belongs_to(name, ("engines",))}
    outside = engines - {"engines", "engines.base"}
    for path in core():
        at_import = internal_imports(name_of(path), at_import_only=True)
        assert not at_import & outside, path
        assert not {one for one in at_import if belongs_to(one, MAY_IMPORT_HEAVY)} - engines, path


def test_heavy_libraries_are_imported_only_where_they_are_used() -> None:
    for name, tree in modules().items():
        if not belongs_to(name, MAY_IMPORT_HEAVY):
            roots = {full.split(".")[0] for full in imports_of(tree, at_import_only=True)}
            assert not roots & HEAVY, name


def test_the_core_stays_small(capsys: pytest.CaptureFixture[str]) -> None:
    """Blank lines, comments and docstrings do not count."""
    lines = sum(code_lines(path) for path in core())
    with capsys.disabled():
        print(  # noqa: T201
            f"\ncore: {lines} lines of code in {len(core())} modules (limit {CORE_LINES})"
        )
    assert lines <= CORE_LINES


def code_lines(path: Path) -> int:
    source = path.read_text()
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {
        line
        for token in tokens
        if token.type not in (tokenize.COMMENT, *layout)
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - docstrings)


def test_no_function_of_the_core_is_longer_than_a_screen() -> None:
    too_long = {
        f"{name_of(path)}.{node.name}": length
        for path in core()
        for node in functions(modules()[name_of(path)])
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }
    assert too_long == {}


def test_top_n_and_score_threshold_travel_as_one_value_below_the_public_methods() -> None:
    split = {
        f"{name}.{node.name}"
        for name, tree in modules().items()
        if name.split(".")[0] not in MAY_SPLIT_SELECTION
        for node in functions(tree)
        if {"top_n", "score_threshold"} <= parameters(node)
    }
    assert split == set()


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    arguments = node.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return {argument.arg for argument in every}
