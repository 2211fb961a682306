"""Real text from this machine: Python's documentation, perl's, and that of installed packages."""

import ast
import gzip
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

PACKAGE_DOCUMENTS = Path("/usr/share/doc")
PERL_FOLDERS = (Path("/usr/share/perl"), Path("/usr/share/perl5"), Path("/usr/lib"))
LARGEST_FILE = 400_000
HELD_OUT_PERCENT = 10

_HEADED = re.compile(r"(?ms)^=(?:head\d|item)[ \t]+([^\n]+)\n\n(.*?)(?=^=|\Z)")


def held_out(origin: str) -> bool:
    """Whether text of this module or package is kept for measuring, never for training."""
    return zlib.crc32(origin.encode()) % 100 < HELD_OUT_PERCENT


def passages(*, test: bool) -> list[str]:
    """Paragraphs of 10 to 250 words of one side of the split, without duplicates.

    Packages share paragraphs (licences, changes): what is on both sides is training's alone.
    """
    sides: dict[bool, dict[str, None]] = {False: {}, True: {}}
    for origin, document in documents():
        sides[held_out(origin)].update(dict.fromkeys(_paragraphs(document)))
    return [text for text in sides[test] if not test or text not in sides[False]]


def headed() -> dict[str, str]:
    """Held-out texts of 25 to 250 words of perl's documentation, with the heading above each."""
    trained = set(passages(test=False))
    found = {}
    for origin, file, read in _files():
        if read is _pods and held_out(origin):
            content = file.read_text(encoding="utf-8", errors="ignore")
            for heading, below in _HEADED.findall(content):
                body = " ".join(_without_codes(below).split())
                if list(_paragraphs(body)) == [body] and body not in trained:
                    found[body] = _without_codes(heading).strip()
    return found


def documents() -> Iterator[tuple[str, str]]:
    """Every document as its origin (topic, module or package) and its text."""
    yield from topics.items()
    for origin, file, read in _files():
        for document in read(file):
            yield origin, document


def _files() -> Iterator[tuple[str, Path, Callable[[Path], Iterable[str]]]]:
    """Every file with documentation: its module or package, and what reads it."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        module = file.relative_to(library).parts[0]
        if module not in {"site-packages", "test", "idlelib"}:
            yield module.removesuffix(".py"), file, _docstrings
    for folder in PERL_FOLDERS:
        for file in sorted((*folder.rglob("*.pm"), *folder.rglob("*.pod"))):
            yield file.stem, file, _pods
    for file in sorted(PACKAGE_DOCUMENTS.rglob("*")):
        if file.is_file() and file.stat().st_size <= LARGEST_FILE:
            yield file.relative_to(PACKAGE_DOCUMENTS).parts[0], file, _plain


def _docstrings(file: Path) -> Iterator[str]:
    """The docstrings of a module of Python."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def _pods(file: Path) -> Iterator[str]:
    """The documentation inside a module of perl, without its markup."""
    content = file.read_text(encoding="utf-8", errors="ignore")
    for pod in re.findall(r"(?ms)^=(?:head|pod|item).*?(?=^=cut|\Z)", content):
        yield re.sub(r"(?m)^=\w+ ?", "", _without_codes(pod))


def _without_codes(pod: str) -> str:
    """Text of perl's documentation without what says how to set it."""
    return re.sub(r"\b[A-Z]<+([^<>]*)>+", r"\1", pod)


def _plain(file: Path) -> Iterator[str]:
    """A package's document, if it is text."""
    content = file.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    document = content[:LARGEST_FILE].decode("utf-8", errors="ignore")
    if "\0" not in document:
        html = file.suffix in {".html", ".htm"}
        yield re.sub(r"(?s)<[^>]*>", " ", document) if html else document


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs that read as prose or code; short neighbours are joined."""
    held = ""
    for part in re.split(r"\n\s*\n", text):
        held = " ".join(f"{held} {part}".split())
        size = held.count(" ") + 1
        if size >= 25:
            if size <= 250 and sum(c.isalpha() for c in held) > 0.6 * len(held):
                yield held
            held = ""
