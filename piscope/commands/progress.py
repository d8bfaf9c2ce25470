"""A line on a terminal that says how far a long run has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TextIO

from piscope.sources.raw import RawChunk

__all__ = ("Progress",)

_PATIENCE_S = 1.0  # nothing is shown of a run that ends sooner
_REFRESH_S = 0.2
_BAR_COLUMNS = 24


class Progress:
    """Events done so far, shown on stderr where that is a terminal and not `quiet`.

    `span_ns`, the first and last instant of what will come, makes the line a bar of
    how much of that time is done; None where nobody knows. A trace that is read again
    is done as far as it was the first time. The line is taken away at the end.
    """

    def __init__(
        self,
        span_ns: tuple[int, int] | None = None,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._span_ns = span_ns
        self._active = not quiet and self._stream.isatty()
        self._started_s = time.monotonic()
        self._shown_s: float | None = None
        self._stage = ""
        self._begun_s = self._started_s
        self._done = self._readings = self._first_done = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the line away; what comes next may bring it back."""
        if self._shown_s is not None:
            self._shown_s = None
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def begin(self, stage: str) -> None:
        """What is done from now on, by name."""
        self._stage = stage
        if self._shown_s is not None or self._elapsed_s() >= _PATIENCE_S:
            self._write(f"{self._done:,} events")

    def over(self, chunks: Iterable[RawChunk]) -> Iterator[RawChunk]:
        """The same chunks, each counted when the caller is done with it.

        A trace may be gone over again, for another stage.
        """
        self._readings += 1
        if self._readings > 1:
            self._first_done = self._first_done or self._done
            self._done, self._begun_s = 0, time.monotonic()
        for chunk in chunks:
            yield chunk
            self._done += len(chunk)
            if len(chunk):
                self._show(int(chunk.ts_ns[-1]))

    def at(self, done: int, ts_ns: int) -> None:
        """So many events are done, up to an instant."""
        self._done = done
        self._show(ts_ns)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _show(self, ts_ns: int) -> None:
        if self._elapsed_s() < _PATIENCE_S:
            return
        now_s = time.monotonic()
        if self._shown_s is not None and now_s - self._shown_s < _REFRESH_S:
            return
        rate = self._done / max(now_s - self._begun_s, 1e-3)
        line = f"{self._done:,} events, {rate:,.0f}/s"
        share = self._share(ts_ns)
        if share is not None:
            filled = round(share * _BAR_COLUMNS)
            line = f"[{'#' * filled:<{_BAR_COLUMNS}}] {share:4.0%} {line}"
        self._write(line)

    def _share(self, ts_ns: int) -> float | None:
        """How much of this reading is done, 0 to 1; None: nobody knows."""
        if self._span_ns is not None:
            first_ns, last_ns = self._span_ns
            share = (ts_ns - first_ns) / max(last_ns - first_ns, 1)
        elif self._first_done:
            share = self._done / self._first_done
        else:
            return None
        return min(max(share, 0.0), 1.0)

    def _write(self, line: str) -> None:
        if not self._active:
            return
        self._shown_s = time.monotonic()
        stage = f", {self._stage}" if self._stage else ""
        if self._readings > 1 and not stage:
            stage = f", reading {self._readings}"
        self._stream.write(f"\r\x1b[K{line}{stage}")
        self._stream.flush()
