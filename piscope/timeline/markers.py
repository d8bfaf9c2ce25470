"""Snapshots of /proc/interrupts that the recording command wrote into the trace.

    vmm-238  [001]  54.977: tracing_mark_write: piscope-interrupts PIN 0=2 1=1

A snapshot is one marker or several: each holds one counter and some of the pCPUs, so
that none is longer than a kernel lets a marker be. A pCPU that comes a second time
begins the next snapshot.

Source: kernel/trace/trace.c, tracing_mark_write.
"""

from __future__ import annotations

from piscope.interrupts import Counts, read_marker
from piscope.tables import Events

__all__ = ("marked_snapshots",)


def marked_snapshots(events: Events) -> tuple[tuple[int, Counts], ...]:
    """The snapshots in the trace, with the instant of each one's last marker."""
    found: list[tuple[int, dict[str, dict[int, int]]]] = []
    for ts_ns, text in events.markers:
        read = read_marker(text)
        if read is None:
            continue
        counter, counts = read
        last = found[-1][1] if found else None
        if last is None or last.get(counter, {}).keys() & counts.keys():
            last = {}
            found.append((0, last))
        last.setdefault(counter, {}).update(counts)
        found[-1] = (ts_ns, last)
    return tuple(found)
