"""The marks of all vCPUs as one table: what build_lanes gives and the others read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ("Lanes",)


@dataclass(slots=True)
class Lanes:
    """All vCPUs' marks, lane after lane, each in time order.

    mark    uint8[n]  lifecycle.Mark
    row     int64[n]  row of EVENTS (for a LOST mark: the next one)
    ts_ns   int64[n]  for a LOST mark: of the event before it
    cpu     int32[n]  the pCPU on which it happened
    lane    int32[n]  vCPU
    starts  int64[v]  first index of each vCPU's lane; empty lanes included
    reason  int32[n]  exit reason of EXIT marks, else -1
    unsure  bool[n]   a switch-out whose prev_state may have been read racily, or what
                      may be a halt whose end the trace does not show
    quiet   bool[n]   the thread traced nothing else until its next mark
    off_until_ns  int64[n]  events show that IRQs were off from here up to then
    """

    mark: npt.NDArray[np.uint8]
    row: npt.NDArray[np.int64]
    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    lane: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    reason: npt.NDArray[np.int32]
    unsure: npt.NDArray[np.bool_]
    quiet: npt.NDArray[np.bool_]
    off_until_ns: npt.NDArray[np.int64]
