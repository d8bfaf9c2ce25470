"""Which VM-exits go straight back to the guest, and which more-fastpath would shelter.

A fast path keeps IRQs off from the VM-exit to the re-entry, so that the CPU absorbs in
the guest what was latched meanwhile. It is possible only where the handler neither
sleeps nor needs userspace:

    exit          entry          straight back: nothing is put or synced in between
      |.............|
    exit   put  load   entry     not: the handler slept, or went to userspace

Source: arch/x86/kvm/x86.c, vcpu_enter_guest (EXIT_FASTPATH_REENTER_GUEST).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.events.vmx_exits import VmxExit
from piscope.replay.row_index import RowIndex
from piscope.sources.raw import Array
from piscope.tables import Acts

__all__ = (
    "DEFAULT_FASTPATH",
    "ActIndex",
    "sheltered_entries",
    "straight_back",
)

DEFAULT_FASTPATH = frozenset({VmxExit.EPT_MISCONFIG, VmxExit.IO_INSTRUCTION})
"""Exit reasons that more-fastpath shelters unless told: device accesses, the frequent
ones that a handler in the kernel can finish at once."""

# piscope.timeline.lifecycle.Act: the bits are part of the ACTS table
_LOAD, _PUT, _ENTER, _EXIT = 1, 2, 4, 8


def straight_back(acts: Acts) -> npt.NDArray[np.bool_]:
    """bool[n]: VM-exits whose vCPU's next act is the entry, and nothing else."""
    result = np.zeros(len(acts.act), np.bool_)
    enters = (acts.act & (_LOAD | _PUT | _ENTER | _EXIT)) == _ENTER
    result[:-1] = enters[1:] & (acts.vcpu[1:] == acts.vcpu[:-1])
    result &= (acts.act & _EXIT) != 0
    return result


def sheltered_entries(acts: Acts, reasons: frozenset[int]) -> npt.NDArray[np.int64]:
    """int64[m]: rows of the entries that end a stretch which these reasons shelter."""
    exits = np.flatnonzero(straight_back(acts) & np.isin(acts.reason, list(reasons)))
    rows: npt.NDArray[np.int64] = acts.row[exits + 1]
    return rows


class ActIndex:
    """ACTS by vCPU and row: which act came last, which one comes next."""

    def __init__(self, acts: Acts, rows: int) -> None:
        # ACTS are vCPU after vCPU, in order: no sort is needed
        span = rows + 1
        self._index = RowIndex(acts.vcpu.astype(np.int64) * span + acts.row, span)
        self._acts = acts

    def last(self, vcpu: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: index of each vCPU's last act up to a row, -1: none."""
        return self._of(self._index.place_of(vcpu, row), vcpu)

    def following(self, vcpu: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: index of each vCPU's first act behind a row, -1: none."""
        return self._of(self._index.place_of(vcpu, row) + 1, vcpu)

    def _of(self, at: Array, vcpu: Array) -> npt.NDArray[np.int64]:
        n = len(self._acts.act)
        if not n:
            return np.full(len(vcpu), -1, np.int64)
        inside = (at >= 0) & (at < n)
        inside &= self._acts.vcpu[np.clip(at, 0, n - 1)] == vcpu
        return np.where(inside, at, -1)
