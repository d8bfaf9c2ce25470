"""What users write into a trace for piscope, by trace_marker, taken out of its events.

A marker is no event of the host: it may come before the first one and behind the last,
and the trace's span is that of what was traced.

Source: kernel/trace/trace.c, tracing_mark_write; kernel/trace/trace_entries.h, print.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from piscope.interrupts import MARKER
from piscope.sources.raw import Array, Payload, RawChunk, Source

__all__ = ("Markers",)

_EVENT = ("ftrace", "print")
_MOST = 1 << 20


class Markers:
    """The markers of a source's chunks: `found` has (ts_ns, text) of those for piscope.

    More than a million are none of ours.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.found: list[tuple[int, str]] = []

    def without(self, chunk: RawChunk) -> RawChunk:
        """The chunk without its markers, which are kept here."""
        mine = [i for i in chunk.payload if self._source.events[i] == _EVENT]
        if not mine:
            return chunk
        kept = np.ones(len(chunk), np.bool_)
        for index in mine:
            payload = chunk.payload[index]
            kept[payload.rows] = False
            texts = payload.columns.get("buf")
            if texts is not None:
                self._keep(chunk.ts_ns[payload.rows], texts)
        place = np.cumsum(kept) - 1
        return replace(
            chunk,
            ts_ns=chunk.ts_ns[kept],
            cpu=chunk.cpu[kept],
            seq=chunk.seq[kept] if len(chunk.seq) else chunk.seq,
            tid=chunk.tid[kept],
            flags=chunk.flags[kept],
            event=chunk.event[kept],
            payload={
                i: Payload(place[p.rows], p.columns, p.valid)
                for i, p in chunk.payload.items()
                if i not in mine
            },
        )

    def _keep(self, ts_ns: Array, texts: Array) -> None:
        for at, text in zip(ts_ns.tolist(), texts.tolist(), strict=True):
            if len(self.found) >= _MOST:
                return
            words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
            if isinstance(words, str) and words.startswith(MARKER):
                self.found.append((at, words))
