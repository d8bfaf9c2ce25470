"""A source whose chunks move a progress line while a later stage reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from piscope.commands.progress import Progress
from piscope.sources.raw import RawChunk, Source, Wanted

__all__ = ("WatchedSource",)


class WatchedSource:
    """The source, everything of it, with its chunks counted by `progress`."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self._source = source
        self._progress = progress

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        """The source's own chunks."""
        return self._progress.over(self._source.chunks(wanted))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
