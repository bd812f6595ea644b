"""Prompt sets: what both arms are asked.

``builtin`` holds the project's own sets (``harmful``, ``benign``), ``files`` reads a user's own,
``benchmarks`` recognises the files of public refusal benchmarks, and ``loading`` picks among the
two by looking at the columns. Every way ends in one :class:`PromptSet`, whose digest goes into the
lock and into each result. Nothing here imports torch or pytest.
"""

from __future__ import annotations

from .benchmarks import load_benchmark, recognise
from .builtin import builtin_names, load_builtin
from .files import load_file
from .loading import load_prompts
from .model import Prompt, PromptSet, prompt_digest
from .similarity import content_words, near_duplicates

__all__ = [
    "Prompt",
    "PromptSet",
    "builtin_names",
    "content_words",
    "load_benchmark",
    "load_builtin",
    "load_file",
    "load_prompts",
    "near_duplicates",
    "prompt_digest",
    "recognise",
]
