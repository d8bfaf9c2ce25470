"""Notification interrupts of the captured kernel that left an event of their own.

What passes from the timeline to the report; timeline.observed finds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = ("ObservedIrqs", "Sign")


class Sign(IntEnum):
    """What shows an interrupt."""

    VM_EXIT = 0  # kvm_exit EXTERNAL_INTERRUPT with its vector
    HANDLER = 1  # a probe on pi_wakeup_handler
    WAKING = 2  # a vCPU woken in an interrupt that nothing else explains


@dataclass(slots=True)
class ObservedIrqs:
    """Signs of notification interrupts, by row of EVENTS; [n] each.

    row     int64   the event
    sign    uint8   Sign
    vector  uint8   0xF2 or 0xF1
    vcpu    int32   of a WAKING: who was woken, else -1
    window  int64   of a WAKING: the window that this vCPU was in, -1: it was loaded
    again   bool    the interrupt of an earlier row: one IRQ may leave several signs
    wakings_told  the trace has the events that would explain a waking otherwise
    vectors_told  kvm_exit tells the vector
    probed        it has a probe on pi_wakeup_handler
    """

    row: npt.NDArray[np.int64]
    sign: npt.NDArray[np.uint8]
    vector: npt.NDArray[np.uint8]
    vcpu: npt.NDArray[np.int32]
    window: npt.NDArray[np.int64]
    again: npt.NDArray[np.bool_]
    wakings_told: bool
    vectors_told: bool
    probed: bool

    def __len__(self) -> int:
        return len(self.row)
