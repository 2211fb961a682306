"""Where the demonstration model lies."""

from pathlib import Path

DEMO_MODEL = Path(__file__).parent
"""Folder of a checkpoint of a few megabytes that speaks Rank1's protocol on English text.

It says which of the query's words a passage has, so that everything here can be tried without a
GPU or a download. It is no reranker of quality: see the README.md in the folder.
"""
