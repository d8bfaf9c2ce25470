"""The events of a trace as one table in time order, ready for the timeline.

EVENTS is kept by columns, with each event's own fields apart: one wide table
would be mostly nulls (a sched_switch has no vcpu_id), and ten million rows of
it would not fit in memory.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from piscope.events.ahead import ahead
from piscope.events.gather import Gathered
from piscope.events.markers import Markers
from piscope.events.merge import merged
from piscope.sources.raw import Array, RawChunk, Source, Wanted
from piscope.tables import Events

__all__ = ("as_events", "collect", "cycles_to_ns", "in_ns")


def collect(source: Source, wanted: Wanted, tsc_khz: int | None = None) -> Events:
    """Read the wanted events of a source into one table in time order.

    Events with the same instant keep the order of their pCPU numbers, then of
    their buffers. Memory is about 20 bytes an event and its decoded fields.

    `tsc_khz` turns the cycles of a raw x86-tsc trace into ns; a trace that is in ns
    already is left alone.
    """
    gathered = Gathered()
    markers = Markers(source)
    for chunk in ahead(merged(source, wanted)):
        gathered.extend(markers.without(chunk))
    events = as_events(gathered.whole(), source, markers)
    if tsc_khz is not None and events.info.ts_unit == "cycles":
        events = in_ns(events, tsc_khz)
    return events


def as_events(rows: RawChunk, source: Source, markers: Markers) -> Events:
    """Rows as EVENTS, with what the whole trace's have besides."""
    return Events(
        ts_ns=rows.ts_ns,
        cpu=rows.cpu,
        tid=rows.tid,
        flags=rows.flags,
        event=rows.event,
        names=list(source.events),
        payload=rows.payload,
        info=source.info,
        losses=list(source.losses),
        counts=dict(source.counts),
        markers=markers.found,
    )


def in_ns(events: Events, tsc_khz: int, *, rows: bool = True) -> Events:
    """The same with cycles of a TSC made ns; without `rows` those are ns already."""
    if rows:
        events.ts_ns = cycles_to_ns(events.ts_ns, tsc_khz)
    events.losses = [
        replace(
            loss,
            start_ns=_instant(loss.start_ns, tsc_khz),
            end_ns=_instant(loss.end_ns, tsc_khz),
        )
        for loss in events.losses
    ]
    events.markers = [
        (int(cycles_to_ns(np.array(at), tsc_khz)), text) for at, text in events.markers
    ]
    events.info = replace(events.info, ts_unit="ns")
    return events


def cycles_to_ns(cycles: Array, tsc_khz: int) -> Array:
    """Counts of a TSC of that frequency as ns, rounded down, int64[n]."""
    # ns = cycles * 10**6 / kHz; the product alone would not fit 64 bits
    whole, rest = np.divmod(cycles, tsc_khz)
    result: Array = whole * 1_000_000 + rest * 1_000_000 // tsc_khz
    return result


def _instant(cycles: int | None, tsc_khz: int) -> int | None:
    return None if cycles is None else cycles * 1_000_000 // tsc_khz
