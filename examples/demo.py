"""Rank1 filters a retriever's passages, in LangChain and in LlamaIndex: `make demo`.

The corpus is the documentation of the Python that runs this, the retriever is BM25, and the
judge is the demonstration model of the package. It compares words; a real Rank1 reasons about
meaning. Set RANK1_BASE_URL to use a real one behind a server.
"""

from __future__ import annotations

import os
import time

from langchain_classic.retrievers import ContextualCompressionRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.bm25 import Bm25Documents, Bm25Index, Bm25Nodes
from examples.standard_library import passages
from rank1_integrations import Judgment, Rank1
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.llama_index import Rank1Postprocessor

LANGCHAIN_QUESTIONS = [
    "How do I sort a list in place?",
    "How can I split a string on white space?",
]
LLAMA_INDEX_QUESTIONS = [
    "What happens when an exception is raised in a finally clause?",
    "How do I copy a file with its permissions?",
]
RETRIEVED = 6
THRESHOLD = 0.5

console = Console()


def main() -> None:
    """Ask every question and show how each passage was judged."""
    started = time.perf_counter()
    corpus = passages()
    index = Bm25Index(corpus)
    console.print(f"[bold]Corpus[/]: {len(corpus)} passages of Python's own documentation\n")
    with _rank1() as rank1:
        console.rule("LangChain: ContextualCompressionRetriever")
        compressor = Rank1Compressor(rank1=rank1, score_threshold=THRESHOLD)
        retriever = ContextualCompressionRetriever(
            base_compressor=compressor, base_retriever=Bm25Documents(index=index, k=RETRIEVED)
        )
        for question in LANGCHAIN_QUESTIONS:
            documents = retriever.invoke(question)
            console.print(f"Returned: {_names([d.metadata['source'] for d in documents])}\n")

        console.rule("LlamaIndex: query engine")
        engine = RetrieverQueryEngine(
            retriever=Bm25Nodes(index, k=RETRIEVED),
            # No answer is written: the demonstration shows which nodes it would be written from.
            response_synthesizer=NoText(llm=MockLLM()),
            node_postprocessors=[Rank1Postprocessor(rank1=rank1, score_threshold=THRESHOLD)],
        )
        for question in LLAMA_INDEX_QUESTIONS:
            nodes = engine.query(question).source_nodes
            console.print(f"Returned: {_names([n.metadata['source'] for n in nodes])}\n")
    console.print(f"[bold]Time[/]: {time.perf_counter() - started:.1f} s")


def _rank1() -> Rank1:
    base_url = os.environ.get("RANK1_BASE_URL")
    if base_url:
        return Rank1.from_server(base_url, on_judgments=_show)
    return Rank1.demo(on_judgments=_show)


def _show(query: str, texts: list[str], judgments: list[Judgment]) -> None:
    """Print a row for each retrieved passage, kept or dropped."""
    table = Table(title=escape(query), title_justify="left", title_style="bold", show_lines=True)
    for heading, ratio in {"": 2, "score": 2, "passage": 10, "reasoning": 16}.items():
        table.add_column(heading, ratio=ratio)
    for text, judgment in zip(texts, judgments, strict=True):
        score = judgment.score or 0.0
        kept = score >= THRESHOLD
        table.add_row(
            "[green]kept[/]" if kept else "[red]dropped[/]",
            f"{score:.3f}",
            escape(text[:160]),
            escape(judgment.reasoning),
        )
    console.print(table)


def _names(sources: list[str]) -> str:
    return ", ".join(sources) or "nothing"


if __name__ == "__main__":
    main()
