"""Models inside the caller's own process: `LLM` for blocking code, `AsyncLLM` for asyncio.

The same engine and the same runner core as the server's, without the child process. The native extension and numpy are
imported when a model is loaded, not before.
"""

from __future__ import annotations

from donabe.llm.aio import AsyncLLM
from donabe.llm.results import Chunk, Completion
from donabe.llm.sync import LLM

__all__ = ["LLM", "AsyncLLM", "Chunk", "Completion"]
