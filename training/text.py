"""Real text from this machine: Python's documentation, perl's, and that of installed packages."""

import ast
import gzip
import re
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

PACKAGE_DOCUMENTS = Path("/usr/share/doc")
PERL_FOLDERS = (Path("/usr/share/perl"), Path("/usr/share/perl5"), Path("/usr/lib"))
LARGEST_FILE = 400_000
HELD_OUT_PERCENT = 10


def held_out(origin: str) -> bool:
    """Whether text of this module or package is kept for measuring, never for training."""
    return zlib.crc32(origin.encode()) % 100 < HELD_OUT_PERCENT


def documents() -> Iterator[tuple[str, str]]:
    """Every document as its origin (topic, module or package) and its text."""
    yield from topics.items()
    yield from _docstrings()
    yield from _pods()
    yield from _package_documents()


def passages(*, test: bool) -> list[str]:
    """Paragraphs of 10 to 250 words of one side of the split, without duplicates."""
    found: dict[str, None] = {}
    for origin, text in documents():
        if held_out(origin) == test:
            found.update(dict.fromkeys(_paragraphs(text)))
    return list(found)


def _docstrings() -> Iterator[tuple[str, str]]:
    """The docstrings of the standard library, by top-level module."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        place = file.relative_to(library).parts
        if place[0] in {"site-packages", "test", "idlelib"}:
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield place[0].removesuffix(".py"), ast.get_docstring(node) or ""


def _pods() -> Iterator[tuple[str, str]]:
    """The documentation inside perl's modules, without its markup."""
    for folder in PERL_FOLDERS:
        for file in sorted((*folder.rglob("*.pm"), *folder.rglob("*.pod"))):
            text = file.read_text(encoding="utf-8", errors="ignore")
            for pod in re.findall(r"(?ms)^=(?:head|pod|item).*?(?=^=cut|\Z)", text):
                plain = re.sub(r"(?m)^=\w+ ?", "", re.sub(r"\b[A-Z]<+([^<>]*)>+", r"\1", pod))
                yield file.stem, plain


def _package_documents() -> Iterator[tuple[str, str]]:
    """What packages installed under /usr/share/doc, by package."""
    for file in sorted(PACKAGE_DOCUMENTS.rglob("*")):
        if not file.is_file() or file.stat().st_size > LARGEST_FILE:
            continue
        content = file.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        text = content[:LARGEST_FILE].decode("utf-8", errors="ignore")
        if "\0" in text:
            continue
        if file.suffix in {".html", ".htm"}:
            text = re.sub(r"(?s)<[^>]*>", " ", text)
        yield file.relative_to(PACKAGE_DOCUMENTS).parts[0], text


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
