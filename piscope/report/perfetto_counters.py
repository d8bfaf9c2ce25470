"""Counters of a trace that comes in parts, as Perfetto tracks.

A post that only probes betray is known at the end of its window, and counts at the
begin, so that a part may have steps that come before those of the part before. All
steps wait in a temporary file, 8 bytes each, and are sorted there at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Findings, Hit
from piscope.report.analyzed import UNLOADED
from piscope.report.perfetto_tracks import Track, TrackWriter
from piscope.sources.raw import Array

__all__ = ("COUNTED", "Counters")

COUNTED: dict[str, tuple[Hit, ...]] = {
    "unloaded": UNLOADED,
    "residual": (Hit.HOST,),
}
"""The counters of each policy: known notifications with one of these outcomes."""

_NAMES = [f"{what}, {sure}" for what in COUNTED for sure in ("proven", "not excluded")]
_AT_A_TIME = 1 << 18  # steps


class Counters:
    """How many known notifications of each kind there were so far, by policy."""

    def __init__(self, start_ns: int, files: ExitStack) -> None:
        """`files` closes the temporary ones."""
        self._start_ns = start_ns
        self._files = files
        # a step is (ns from the start) << len(_NAMES) | a bit for each counter
        self._steps: dict[str, IO[bytes]] = {}

    def add(self, policy: str, found: Findings, which: Array, ts_ns: Array) -> None:
        """Count those findings (bool[n]), each at its time (int64[n])."""
        if policy not in self._steps:
            file = tempfile.TemporaryFile()  # noqa: SIM115
            self._steps[policy] = self._files.enter_context(file)
        counters = [
            counts
            for hits in COUNTED.values()
            for counts in (found.surely(*hits), found.maybe(*hits))
        ]
        bits = np.zeros(len(found), np.int64)
        for i, counts in enumerate(counters):
            bits |= (counts & which).astype(np.int64) << i
        some = bits > 0
        steps = (ts_ns[some] - self._start_ns) << len(_NAMES) | bits[some]
        self._steps[policy].write(steps.tobytes())

    def write(self, writer: TrackWriter, parent: Track) -> None:
        """Write all counters, each from 0 at the start."""
        for place, (policy, file) in enumerate(self._steps.items()):
            group = writer.track(policy, parent, rank=place)
            steps = _sorted(file)
            for i, name in enumerate(_NAMES):
                track = writer.track(name, group, rank=i, counter_unit="notifications")
                begin_ns = np.full(1, self._start_ns)
                writer.counter(track, begin_ns, np.zeros(1, np.int64))
                count = 0
                for some in _instants(steps):
                    at_ns = self._start_ns + (some[some >> i & 1 > 0] >> len(_NAMES))
                    # all of one instant are one step
                    at_ns, counts = np.unique(at_ns, return_counts=True)
                    counts = count + np.cumsum(counts)
                    writer.counter(track, at_ns, counts)
                    count = int(counts[-1]) if len(counts) else count


def _sorted(file: IO[bytes]) -> npt.NDArray[np.int64]:
    """The numbers in the file, sorted in place."""
    file.flush()
    if not file.tell():
        return np.empty(0, np.int64)
    numbers = np.memmap(file, np.int64, "r+")
    numbers.sort()
    return numbers


def _instants(steps: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Some steps at a time, all of one instant together."""
    begin = 0
    while begin < len(steps):
        last = steps[min(begin + _AT_A_TIME, len(steps)) - 1] >> len(_NAMES)
        end = int(np.searchsorted(steps, (last + 1) << len(_NAMES)))
        yield np.asarray(steps[begin:end])
        begin = end
