"""Slices of a trace that comes in parts, on their way into Perfetto tracks.

    first part    |-- guest --|-- host --|- guest
    second part                           - guest --|-- host ...
                                              ^ one slice, written with the second

The last slice of each track waits: what comes next may go on with it, or end it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from piscope.report.perfetto_tracks import Track, TrackWriter
from piscope.sources.raw import Array

__all__ = ("HeldSlices",)


@dataclass(slots=True)
class _Slice:
    begin_ns: int
    end_ns: int
    name: str


class HeldSlices:
    """Writes slices, but for the last one of each track."""

    def __init__(self, writer: TrackWriter) -> None:
        self._writer = writer
        self._held: dict[int, tuple[Track, _Slice]] = {}

    def goes_on(self, track: Track, name: str, end_ns: int) -> bool:
        """Make the track's last slice end then, if it has that name."""
        _, held = self._held.get(track.uuid, (track, None))
        if held is None or held.name != name:
            return False
        held.end_ns = end_ns
        return True

    def add(
        self,
        track: Track,
        begin_ns: Array,
        end_ns: Array,
        name: Array,
        names: Sequence[str],
    ) -> None:
        """Add stretches by their begins, as for TrackWriter.slices.

        Each ends where the next one begins, at the latest.
        """
        if not len(begin_ns):
            return
        _, held = self._held.get(track.uuid, (track, None))
        if held is not None:
            begin_ns = np.append(held.begin_ns, begin_ns)
            end_ns = np.append(held.end_ns, end_ns)
            name = np.append(len(names), name)
            names = [*names, held.name]
        last = _Slice(int(begin_ns[-1]), int(end_ns[-1]), names[int(name[-1])])
        self._held[track.uuid] = track, last
        end_ns = np.minimum(end_ns[:-1], begin_ns[1:])
        begin_ns, name = begin_ns[:-1], name[:-1]
        some = end_ns > begin_ns
        self._writer.slices(track, begin_ns[some], end_ns[some], name[some], names)

    def finish(self) -> None:
        """Write the slices that waited."""
        only = np.zeros(1, np.int64)
        for track, held in self._held.values():
            if held.end_ns > held.begin_ns:
                begin_ns, end_ns = only + held.begin_ns, only + held.end_ns
                self._writer.slices(track, begin_ns, end_ns, only, [held.name])
        self._held.clear()
