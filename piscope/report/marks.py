"""The notifications that a picture marks: what they hit, counted per column.

edges_ns   |  column 0  |  column 1       | ...     as strips has them
Marks       3 unloaded     1 wakeup
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.report.analyzed import UNLOADED, Analyzed, removed_by
from piscope.report.own_part import ChosenPart, WholePart
from piscope.report.selection import Selection
from piscope.report.strips import Strips
from piscope.sources.raw import Array

__all__ = ("Mark", "Marked", "Marks", "MarksTally", "marked", "marks")


class Mark(IntEnum):
    """The notifications that a picture marks, by what they hit."""

    UNLOADED_HOST = 0  # an IRQ in the host, the vCPU not loaded
    WRONG_VCPU = 1  # taken in another vCPU's guest mode
    WAKEUP = 2  # wakes the blocked vCPU
    RESIDUAL = 3  # an IRQ in the host, the vCPU loaded
    REMOVED = 4  # one of the first two that the other policy does not send

    @property
    def label(self) -> str:
        """The mark as users read it: `unloaded-host`."""
        return self.name.lower().replace("_", "-")


_HIT_OF_MARK = {
    Mark.UNLOADED_HOST: Hit.UNLOADED_HOST,
    Mark.WRONG_VCPU: Hit.WRONG_VCPU,
    Mark.WAKEUP: Hit.WAKEUP,
    Mark.RESIDUAL: Hit.HOST,
}


@dataclass(slots=True)
class Marks:
    """How many notifications of each Mark are in each column, under one policy.

    Only those of known posts; `Summary` counts those that merely can't be excluded.
    A post that only probes betray has no instant but a window of the vCPU; it is
    placed where that window begins.

    certain   int64[v, columns, len(Mark)]  what the trace proves
    possible  int64[v, columns, len(Mark)]  those, and what it does not exclude
    undated   int64[v, columns]  of all notifications that may be any of these: known
              by their window only
    """

    certain: npt.NDArray[np.int64]
    possible: npt.NDArray[np.int64]
    undated: npt.NDArray[np.int64]


@dataclass(slots=True)
class Marked:
    """A part's own findings that have some mark, under one policy.

    vcpu      int32[n]  the target
    ts_ns     int64[n]
    certain   uint8[n]  bits of Mark: what the trace proves
    possible  uint8[n]  that, and what it does not exclude; never 0
    undated   bool[n]   known by its window only
    """

    vcpu: npt.NDArray[np.int32]
    ts_ns: npt.NDArray[np.int64]
    certain: npt.NDArray[np.uint8]
    possible: npt.NDArray[np.uint8]
    undated: npt.NDArray[np.bool_]


def marked(part: ChosenPart, policy: str, *, other: str | None = None) -> Marked:
    """What a policy's notifications are marked with.

    `other` is the policy that may not send some of them; None: nothing is REMOVED.

    Raises KeyError for a policy that was not replayed.
    """
    results, stimuli = part.analysis.results, part.analysis.stimuli
    found = results[policy].findings
    some = part.findings(found) & found.maybe(*_HIT_OF_MARK.values())
    at = np.flatnonzero(some)
    certain, possible = (np.zeros(len(at), np.uint8) for _ in range(2))

    def mark(
        which: Mark, surely: npt.NDArray[np.bool_], maybe: npt.NDArray[np.bool_]
    ) -> None:
        certain[surely[at]] |= np.uint8(1 << which)
        possible[maybe[at]] |= np.uint8(1 << which)

    for which, hit in _HIT_OF_MARK.items():
        mark(which, found.surely(hit), found.maybe(hit))
    if other is not None:
        mark(Mark.REMOVED, *removed_by(found, results[other].findings, *UNLOADED))
    stimulus = found.stimulus[at]
    return Marked(
        stimuli.vcpu[stimulus],
        stimuli.ts_ns[stimulus],
        certain,
        possible,
        stimuli.post[stimulus] < 0,
    )


class MarksTally:
    """Marks of parts that are added one after another; 4 bytes for each number."""

    def __init__(
        self, vcpus: Array, edges_ns: Array, policy: str, *, other: str | None = None
    ) -> None:
        """The columns and vCPUs are as in Strips, the policies as for `marked`."""
        self._vcpus = vcpus
        self._edges_ns = edges_ns
        self._policies = policy, other
        shape = (len(vcpus), len(edges_ns) - 1)
        self._certain = np.zeros((*shape, len(Mark)), np.uint32)
        self._possible = np.zeros_like(self._certain)
        self._undated = np.zeros(shape, np.uint32)

    def add(self, part: ChosenPart) -> None:
        """Count a part's own notifications, by target vCPU."""
        policy, other = self._policies
        found = marked(part, policy, other=other)
        line_of = np.full(len(part.analysis.timeline.vcpus), -1, np.int64)
        line_of[self._vcpus] = np.arange(len(self._vcpus))
        line = line_of[found.vcpu]
        column = np.searchsorted(self._edges_ns, found.ts_ns, side="right") - 1
        inside = (line >= 0) & (column >= 0) & (column < self._undated.shape[1])

        def count(sums: npt.NDArray[np.uint32], what: npt.NDArray[np.bool_]) -> None:
            these = np.flatnonzero(what & inside)
            np.add.at(sums, (line[these], column[these]), 1)

        for mark in Mark:
            bit = np.uint8(1 << mark)
            count(self._certain[:, :, mark], (found.certain & bit) != 0)
            count(self._possible[:, :, mark], (found.possible & bit) != 0)
        count(self._undated, found.undated)

    def marks(self, columns: slice = slice(None)) -> Marks:
        """What was counted, in these columns."""
        counts = (self._certain, self._possible, self._undated)
        return Marks(*(count[:, columns].astype(np.int64) for count in counts))


def marks(
    analysis: Analyzed, strip: Strips, policy: str, *, other: str | None = None
) -> Marks:
    """A whole analysis's marks in the columns and for the vCPUs of `strip`."""
    tally = MarksTally(strip.vcpus, strip.edges_ns, policy, other=other)
    tally.add(ChosenPart(WholePart(analysis), Selection()))
    return tally.marks()
