"""A trace that is read again and again, always in the same slices.

first pass   vCPUs, pCPUs, instants, losses    SlicedTrace.hold
second       the rows around each slice        SlicedTrace.look_around
each later   every slice with those            SlicedTrace.slices
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import cast

import numpy as np

from piscope.events.gather import Gathered
from piscope.events.markers import Markers
from piscope.events.normalize import as_events, in_ns
from piscope.events.spooled import Spooled
from piscope.parts import Own
from piscope.slices.contexts import Contexts, find_contexts
from piscope.slices.first_pass import Seen, first_pass
from piscope.slices.rows import Rows, blocks, numbered, plain, together
from piscope.sources.raw import Loss, RawChunk, Source, Wanted
from piscope.tables import Events, Vcpus
from piscope.whole import Learned, Scope, Whole

__all__ = ("SLICE_ROWS", "WHOLE_ROWS", "SlicedTrace")

SLICE_ROWS = 1 << 19
"""Events in a slice: what a slice takes is some 300 bytes for each."""

WHOLE_ROWS = 1 << 21
"""A trace of so many events is gone through at once, unless someone wants slices."""


@dataclass(slots=True)
class _Told:
    """What a source tells at the end of a pass, but not while one is under way."""

    counts: dict[str, int]
    losses: list[Loss]
    markers: Markers


@dataclass(slots=True)
class SlicedTrace:
    """One open trace, which can be read more than once, in slices of `slice_rows`."""

    source: Source
    wanted: Wanted
    slice_rows: int
    tsc_khz: int | None
    seen: Seen = field(default_factory=Seen)
    whole: Whole | None = None
    contexts: Contexts | None = None
    learned: Learned = field(default_factory=Learned)
    _told: _Told | None = None
    _spooled: Spooled | None = None

    def hold(self, most_rows: int) -> Events | None:
        """The whole trace, where it has no more rows; else None, after a first pass.

        What a slice needs of the others begins and ends with a kvm_entry: a trace
        without any is given whole, whatever its length.
        """
        markers = Markers(self.source)
        self._spooled = Spooled(self.source, most_rows)
        chunks = self._chunks(markers)
        gathered, rows = Gathered(), 0
        for chunk in chunks:
            gathered.extend(chunk)
            rows += len(chunk)
            if rows > most_rows:
                break
        else:
            self._end_of_pass(markers)
            return self._events(gathered.whole())
        head = [gathered.whole()]
        del gathered, chunk
        self.seen = first_pass(numbered(chain(_used_up(head), chunks)), self.source)
        self._end_of_pass(markers)
        return None if self.telling().has("kvm_entry") else self.hold(sys.maxsize)

    def telling(self) -> Events:
        """The rows that tell which threads are vCPUs; after a first pass."""
        return self._events(together(self.seen.telling).chunk)

    def look_around(self, vcpus: Vcpus, losses: list[Loss]) -> None:
        """Find what each slice needs of the rows around it.

        `losses` are the whole trace's, as EVENTS have them.
        """
        seen = self.seen
        assert seen.first_ns is not None
        assert seen.last_ns is not None
        self.whole = Whole(
            vcpus,
            (seen.first_ns, seen.last_ns),
            sorted(seen.cpus),
            {name: dict(counts) for name, counts in seen.probe_values.items()},
            seen.preempted_told,
        )
        self.contexts = find_contexts(
            self._blocks(), self.source, vcpus, seen.cpus, losses
        )

    def slices(self, *, learning: bool = False) -> Iterator[Events]:
        """Each slice as EVENTS with its scope, in time order."""
        assert self.whole is not None
        assert self.contexts is not None
        last = len(self.contexts.cuts)
        for i, block in enumerate(self._blocks()):
            rows = self.contexts.around(i, block)
            begin = int(np.searchsorted(rows.number, block.number[0]))
            own = Own(begin, begin + len(block), first=i == 0, last=i == last)
            events = self._events(rows.chunk)
            events.scope = Scope(self.whole, own, rows.number, self.learned, learning)
            del block, rows
            yield events
            del events

    def _chunks(self, markers: Markers) -> Iterator[RawChunk]:
        source = cast(Source, self._spooled or self.source)
        return plain(source, self.wanted, self.tsc_khz, markers)

    def _blocks(self) -> Iterator[Rows]:
        return blocks(self._chunks(Markers(self.source)), self.slice_rows)

    def _end_of_pass(self, markers: Markers) -> None:
        source = self.source
        self._told = _Told(dict(source.counts), list(source.losses), markers)

    def _events(self, chunk: RawChunk) -> Events:
        assert self._told is not None
        events = as_events(chunk, self.source, self._told.markers)
        events.counts = dict(self._told.counts)
        events.losses = list(self._told.losses)
        if self.tsc_khz is not None and events.info.ts_unit == "cycles":
            return in_ns(events, self.tsc_khz, rows=False)
        return events


def _used_up(chunks: list[RawChunk]) -> Iterator[RawChunk]:
    """The chunks, none of them held on to."""
    while chunks:
        yield chunks.pop(0)
