"""Marks that need a look ahead: what belongs to a halt, and a sleep that was none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.timeline.lanes import Lanes
from piscope.timeline.lifecycle import Mark

__all__ = ("EXIT_REASON_HLT", "mark_halts", "mark_racy_sleeps")

# arch/x86/include/uapi/asm/vmx.h
EXIT_REASON_HLT = 12

# include/linux/sched.h
_TASK_INTERRUPTIBLE = 0x01


def mark_racy_sleeps(events: Events, vcpus: Vcpus, lanes: Lanes) -> None:
    """A sleep that nothing ended was none.

    From 5.18 to 6.15 sched_switch may print "S" for a task that stays on the run
    queue because a signal is pending: "sched/tracing: Report TASK_RTLOCK_WAIT
    tasks ..." and its fix 8feb053d5319 (6.16). KVM then sees `preempted`.
    """
    wakes = [events.rows(n) for n in ("sched_waking", "sched_wakeup")]
    if not any(len(w) for w in wakes):
        return
    woken = np.concatenate(
        [
            np.stack([vcpus.of_tid(tid).astype(np.int64), rows])
            for name, rows in zip(("sched_waking", "sched_wakeup"), wakes, strict=True)
            if (tid := events.column(name, "pid", np.int32)) is not None
        ],
        axis=1,
    )
    woken = woken[:, woken[0] >= 0]
    span = len(events) + 1
    key = np.sort(woken[0] * span + woken[1])
    out = np.flatnonzero(lanes.mark == Mark.OUT_SLEEP)
    out = out[out + 1 < len(lanes.mark)]
    back = (lanes.mark[out + 1] == Mark.IN) & (lanes.lane[out + 1] == lanes.lane[out])
    out = out[back]
    first = lanes.lane[out].astype(np.int64) * span + lanes.row[out]
    last = lanes.lane[out].astype(np.int64) * span + lanes.row[out + 1]
    quiet = np.searchsorted(key, first) == np.searchsorted(key, last)
    lanes.mark[out[quiet]] = Mark.OUT_RUNNABLE
    lanes.unsure[out[quiet]] = True


_HALT = {
    Mark.EXIT: Mark.EXIT_HALT,
    Mark.FPU_LOAD: Mark.FPU_LOAD_HALT,
    Mark.OUT_RUNNABLE: Mark.OUT_RUNNABLE_HALT,
    Mark.OUT_SLEEP: Mark.OUT_BLOCK,
}
_MAY_HALT = np.zeros(len(Mark), np.bool_)
_MAY_HALT[list(_HALT)] = True
_IN_HALT = np.zeros(len(Mark), np.uint8)
_IN_HALT[list(_HALT)] = list(_HALT.values())
_IS_BOUNDARY = np.zeros(len(Mark), np.bool_)
_IS_BOUNDARY[
    [
        Mark.ENTRY,
        Mark.EXIT,
        Mark.FPU_LOAD,
        Mark.FPU_UNLOAD,
        Mark.USERSPACE_EXIT,
        Mark.WAKEUP,
        Mark.LOST,
    ]
] = True


def mark_halts(events: Events, lanes: Lanes) -> None:
    """Tell the marks of a halt from the same marks elsewhere.

    A halt ends with kvm_vcpu_wakeup, so a mark belongs to one if that is what comes
    next of all that a halt can't contain. Where the trace lacks the event, ends before
    it or may have lost it, the last VM-exit's reason (HLT) decides.
    """
    n = len(lanes.mark)
    if n == 0:
        return
    boundary = _IS_BOUNDARY[lanes.mark]
    boundaries = np.flatnonzero(boundary)
    if not len(boundaries):
        return
    stretch = np.cumsum(boundary, dtype=np.int32)
    at = np.flatnonzero(_MAY_HALT[lanes.mark])
    mark, lane = lanes.mark[at], lanes.lane[at]
    # the next boundary behind each mark, and the last one up to it, within its lane
    behind = stretch[at]
    nxt = boundaries[np.minimum(behind, len(boundaries) - 1)]
    prev = boundaries[np.maximum(behind - 1, 0)]
    inside = (behind < len(boundaries)) & (lanes.lane[nxt] == lane)
    halted = inside & (lanes.mark[nxt] == Mark.WAKEUP)
    exited = (behind > 0) & (lanes.lane[prev] == lane) & (lanes.mark[prev] == Mark.EXIT)
    since_hlt = exited & (lanes.reason[prev] == EXIT_REASON_HLT)
    asleep = mark == Mark.OUT_SLEEP
    out = (mark == Mark.OUT_RUNNABLE) | asleep
    slept = np.zeros(len(boundaries) + 1, np.bool_)
    slept[behind[since_hlt & out]] = True
    # the trace ends before the halt does, or may have lost its end
    open_ = ~inside | (lanes.mark[nxt] == Mark.LOST)
    # HLT goes back to the guest at once where an event is pending: surely a halt is
    # only what the thread is switched out in
    lanes.unsure[at[since_hlt & open_ & ~slept[behind]]] = True
    shown = events.has("kvm_vcpu_wakeup")
    halted |= since_hlt & (open_ if shown else slept[behind])
    may_halt = ~asleep
    may_halt[asleep] = _interruptible(events, lanes.row[at[asleep]])
    halted &= may_halt
    # KVM_RUN may go on with a halt: without an exit only the halt's end tells
    behind_loss = (behind == 0) | (lanes.lane[prev] != lane)
    behind_loss |= lanes.mark[prev] == Mark.LOST
    untold = open_ if shown else behind_loss | (lanes.mark[nxt] == Mark.LOST)
    lanes.unsure[at[out & may_halt & ~halted & ~exited & untold]] = True
    lanes.mark[at[halted]] = _IN_HALT[mark[halted]]


def _interruptible(events: Events, switches: Array) -> npt.NDArray[np.bool_]:
    """Which switch-outs may be a halt: those in the state that kvm_vcpu_block sets.

    Source: virt/kvm/kvm_main.c, kvm_vcpu_block: set_current_state(TASK_INTERRUPTIBLE).
    """
    state = events.column("sched_switch", "prev_state", np.int64)
    if state is None:
        return np.zeros(len(switches), np.bool_)
    at = np.searchsorted(events.rows("sched_switch"), switches)
    found: npt.NDArray[np.bool_] = (state[at] & _TASK_INTERRUPTIBLE) != 0
    return found
