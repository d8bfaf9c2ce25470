"""Whose thread each pCPU ran, at the width of a picture: shares of time, per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.report.cpu_stays import CpuStays
from piscope.report.strips import covered_ns
from piscope.sources.raw import Array

__all__ = ("CpuLanes", "LanesTally", "cpu_lanes")


@dataclass(slots=True)
class CpuLanes:
    """What each pCPU ran in each column; the four times sum to the column's width.

    cpus      int32[p]  which pCPUs
    vcpu      int32[p, columns]  the vCPU whose thread ran there longest, -1: none did
    vcpu_ns   int64[p, columns]  how long that one did
    idle_ns   int64[p, columns]  the idle task ran
    other_ns  int64[p, columns]  another vCPU or another task ran
    open_ns   int64[p, columns]  not known
    """

    cpus: npt.NDArray[np.int32]
    vcpu: npt.NDArray[np.int32]
    vcpu_ns: npt.NDArray[np.int64]
    idle_ns: npt.NDArray[np.int64]
    other_ns: npt.NDArray[np.int64]
    open_ns: npt.NDArray[np.int64]


_OTHER, _IDLE = -1, -2  # who runs, where it is no vCPU


class LanesTally:
    """Lanes of stays that come part by part.

    It holds a column of numbers for each pCPU and each vCPU that ran there.
    """

    def __init__(self, edges_ns: Array) -> None:
        """The columns are as in Strips."""
        self._edges_ns = edges_ns
        # by pCPU and CpuStays.by_switch, then by who: int64[columns]
        self._ran: dict[tuple[int, bool], dict[int, npt.NDArray[np.int64]]] = {}

    def add(self, stays: dict[int, CpuStays]) -> None:
        """Add stays on each pCPU."""
        edges_ns = self._edges_ns
        for cpu, found in stays.items():
            ran = self._ran.setdefault((cpu, found.by_switch), {})
            begin_ns, end_ns, of = _within(found, int(edges_ns[0]), int(edges_ns[-1]))
            for who in np.unique(of).tolist():
                mine = of == who
                ran_ns = covered_ns(begin_ns[mine], end_ns[mine], edges_ns)
                ran[who] = ran[who] + ran_ns if who in ran else ran_ns

    def lanes(self, cpus: Mapping[int, bool]) -> CpuLanes:
        """Who ran on each of these pCPUs; True: only the stays by switch hold."""
        shape = (len(cpus), len(self._edges_ns) - 1)
        width = np.diff(self._edges_ns)
        vcpu = np.full(shape, _OTHER, np.int32)
        vcpu_ns, idle_ns, other_ns, open_ns = (
            np.zeros(shape, np.int64) for _ in range(4)
        )
        for line, key in enumerate(cpus.items()):
            for who, ran_ns in sorted(self._ran.get(key, {}).items()):
                if who == _IDLE:
                    idle_ns[line] = ran_ns
                    continue
                more = (ran_ns > vcpu_ns[line]) & (who >= 0)
                other_ns[line] += np.where(more, vcpu_ns[line], ran_ns)
                vcpu[line, more] = who
                vcpu_ns[line, more] = ran_ns[more]
            # a trace that contradicts itself may have two vCPUs on one pCPU
            known_ns = vcpu_ns[line] + idle_ns[line]
            other_ns[line] = np.minimum(other_ns[line], width - known_ns)
            open_ns[line] = width - known_ns - other_ns[line]
        return CpuLanes(
            np.array(list(cpus), np.int32), vcpu, vcpu_ns, idle_ns, other_ns, open_ns
        )


def cpu_lanes(stays: dict[int, CpuStays], edges_ns: Array) -> CpuLanes:
    """Who ran on each pCPU, in the columns of `edges_ns`."""
    tally = LanesTally(edges_ns)
    tally.add(stays)
    return tally.lanes({cpu: found.by_switch for cpu, found in stays.items()})


def _within(stays: CpuStays, first_ns: int, last_ns: int) -> tuple[Array, Array, Array]:
    """Begin, end and who of the stays that may touch this time."""
    low = 0
    if stays.by_switch:  # only then the ends ascend
        low = int(np.searchsorted(stays.end_ns, first_ns, side="right"))
    at = slice(low, int(np.searchsorted(stays.begin_ns, last_ns, side="left")))
    idle = (stays.tid[at] == 0) & (stays.vcpu[at] < 0)
    return stays.begin_ns[at], stays.end_ns[at], np.where(idle, _IDLE, stays.vcpu[at])
