"""Each vCPU's own events, in order, as the marks that its life is made of.

A lane is one vCPU's stream: what its thread traced itself, the sched_switch that
brought it in, and the losses that make it uncertain. Some marks need a look ahead:
whether a switch-out belongs to a halt shows only when kvm_vcpu_wakeup ends it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.timeline.lifecycle import Mark
from piscope.timeline.losses import Gap, loss_marks, sorted_marks
from piscope.timeline.probes import Probe, of_own_vcpu

__all__ = ("EXIT_REASON_HLT", "Lanes", "build_lanes")

EXIT_REASON_HLT = 12  # arch/x86/include/uapi/asm/vmx.h

# include/linux/sched.h: TASK_REPORT below TASK_REPORT_MAX; 0 is running. The bit
# above ("R+") says that the switch was a preemption.
_TASK_STATES = 0xFF
_TASK_INTERRUPTIBLE = 0x01
_TASK_DEAD = 0x10 | 0x20  # EXIT_DEAD, EXIT_ZOMBIE

KVM_RUN = 0xAE80  # include/uapi/linux/kvm.h

# Emitted by KVM on behalf of a loaded vCPU, from its own thread.
_IN_KVM = ("kvm_pio", "kvm_mmio", "kvm_page_fault", "kvm_inj_virq", "kvm_eoi")


@dataclass(slots=True)
class Lanes:
    """All vCPUs' marks, lane after lane, each in time order.

    mark    uint8[n]  lifecycle.Mark
    row     int64[n]  row of EVENTS (for a LOST mark: the next one)
    ts_ns   int64[n]
    cpu     int32[n]  the pCPU on which it happened
    lane    int32[n]  vCPU
    starts  int64[v]  first index of each vCPU's lane; empty lanes included
    reason  int32[n]  exit reason of EXIT marks, else -1
    unsure_sleep  bool[n]  a switch-out whose prev_state may have been read racily
    """

    mark: npt.NDArray[np.uint8]
    row: npt.NDArray[np.int64]
    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    lane: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    reason: npt.NDArray[np.int32]
    unsure_sleep: npt.NDArray[np.bool_]


def build_lanes(
    events: Events, vcpus: Vcpus, probes: list[Probe], gaps: list[Gap]
) -> Lanes:
    """Sort the events of all vCPU threads, and the losses, into lanes of marks."""
    rows: list[Array] = []
    lanes: list[Array] = []
    marks: list[Array] = []

    def add(at: Array, lane: Array, mark: Array | int) -> None:
        mine = lane >= 0
        rows.append(at[mine])
        lanes.append(lane[mine])
        whole = mark if isinstance(mark, np.ndarray) else np.full(len(at), mark)
        marks.append(whole[mine].astype(np.uint8))

    for at, mark in _own_marks(events, vcpus, probes):
        add(at, vcpus.of_tid(events.tid[at]), mark)
    switches = events.rows("sched_switch")
    if len(switches):
        next_tid = events.column("sched_switch", "next_pid", np.int32)
        prev_tid = events.column("sched_switch", "prev_pid", np.int32)
        state = events.column("sched_switch", "prev_state", np.int64)
        if prev_tid is None:
            prev_tid = events.tid[switches]
        if state is not None:
            add(switches, vcpus.of_tid(prev_tid), _switch_out_marks(state))
        if next_tid is not None:
            add(switches, vcpus.of_tid(next_tid), Mark.IN)

    own = (np.concatenate(rows), np.concatenate(lanes), np.concatenate(marks))
    row, lane, mark = sorted_marks([own])
    if gaps:
        lost = loss_marks(gaps, row, lane, mark, events.cpu[row], vcpus)
        row, lane, mark = sorted_marks([lost, (row, lane, mark)])
        row = np.minimum(row, max(len(events) - 1, 0))
    starts = np.searchsorted(lane, np.arange(len(vcpus)))
    result = Lanes(
        mark=mark,
        row=row,
        ts_ns=events.ts_ns[row],
        cpu=events.cpu[row],
        lane=lane,
        starts=starts.astype(np.int64),
        reason=_exit_reasons(events, row, mark),
        unsure_sleep=np.zeros(len(row), np.bool_),
    )
    _mark_racy_sleeps(events, vcpus, result)
    _mark_halts(events, result)
    return result


def _own_marks(
    events: Events, vcpus: Vcpus, probes: list[Probe]
) -> list[tuple[npt.NDArray[np.int64], Array | int]]:
    """(rows, mark) of the events that a vCPU thread traces about itself."""
    found: list[tuple[npt.NDArray[np.int64], Array | int]] = [
        (events.rows("kvm_entry"), Mark.ENTRY),
        (events.rows("kvm_exit"), Mark.EXIT),
        (events.rows("kvm_userspace_exit"), Mark.USERSPACE_EXIT),
        (events.rows("kvm_vcpu_wakeup"), Mark.WAKEUP),
    ]
    load = events.column("kvm_fpu", "load", np.int64)
    if load is not None:
        found.append(
            (
                events.rows("kvm_fpu"),
                np.where(load != 0, Mark.FPU_LOAD, Mark.FPU_UNLOAD).astype(np.uint8),
            )
        )
    for name in _IN_KVM:
        at = events.rows(name)
        # an interrupt may emit some of these for another vCPU
        found.append((at[(events.flags[at] & 0x18) == 0], Mark.IN_KVM))
    for probe in probes:
        if not probe.at_return:
            mark = Mark.PI_LOAD if probe.what == "load" else Mark.PI_PUT
            own = of_own_vcpu(events, vcpus, probe)
            found.append((events.rows(probe.event)[own], mark))
    return found


def _switch_out_marks(prev_state: Array) -> Array:
    state = prev_state & _TASK_STATES
    return np.select(
        [state == 0, (state & _TASK_DEAD) != 0],
        [Mark.OUT_RUNNABLE, Mark.OUT_DEAD],
        Mark.OUT_SLEEP,
    ).astype(np.uint8)


def _exit_reasons(events: Events, row: Array, mark: Array) -> npt.NDArray[np.int32]:
    reason = np.full(len(row), -1, np.int32)
    values = events.column("kvm_exit", "exit_reason", np.int64)
    if values is None:
        return reason
    at = np.flatnonzero(mark == Mark.EXIT)
    exits = events.rows("kvm_exit")
    # bit 31: a failed VM-entry, bits 15:0 the basic reason (SDM vol. 3, 25.9.1)
    reason[at] = values[np.searchsorted(exits, row[at])] & 0xFFFF
    return reason


def _mark_racy_sleeps(events: Events, vcpus: Vcpus, lanes: Lanes) -> None:
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
    lanes.unsure_sleep[out[quiet]] = True


_HALT = {
    Mark.EXIT: Mark.EXIT_HALT,
    Mark.FPU_LOAD: Mark.FPU_LOAD_HALT,
    Mark.OUT_RUNNABLE: Mark.OUT_RUNNABLE_HALT,
    Mark.OUT_SLEEP: Mark.OUT_BLOCK,
}
_BOUNDARY = (
    Mark.ENTRY,
    Mark.EXIT,
    Mark.FPU_LOAD,
    Mark.FPU_UNLOAD,
    Mark.USERSPACE_EXIT,
    Mark.WAKEUP,
)


def _mark_halts(events: Events, lanes: Lanes) -> None:
    """Tell the marks of a halt from the same marks elsewhere.

    A halt ends with kvm_vcpu_wakeup, so a mark belongs to one if that is what comes
    next of all that a halt can't contain. Where the trace lacks the event, or ends
    before it, the last VM-exit's reason (HLT) decides.
    """
    n = len(lanes.mark)
    if n == 0:
        return
    boundary = np.isin(lanes.mark, _BOUNDARY)
    at = np.flatnonzero(boundary)
    # the next boundary after each mark, within its lane
    following = np.searchsorted(at, np.arange(n), side="right")
    inside = following < len(at)
    nxt = at[np.minimum(following, len(at) - 1)] if len(at) else np.zeros(n, np.int64)
    inside &= lanes.lane[nxt] == lanes.lane
    halted = inside & (lanes.mark[nxt] == Mark.WAKEUP)

    last = np.searchsorted(at, np.arange(n), side="right") - 1
    prev = at[np.maximum(last, 0)] if len(at) else np.zeros(n, np.int64)
    since_hlt = (
        (last >= 0)
        & (lanes.lane[prev] == lanes.lane)
        & (lanes.mark[prev] == Mark.EXIT)
        & (lanes.reason[prev] == EXIT_REASON_HLT)
    )
    if events.has("kvm_vcpu_wakeup"):
        since_hlt &= ~inside  # the trace ends before the halt does
    else:
        # HLT goes back to the guest at once where an event is pending: a halt is
        # seen only where the thread is switched out before the next entry
        out = np.isin(lanes.mark, (Mark.OUT_RUNNABLE, Mark.OUT_SLEEP))
        stretch = np.cumsum(boundary)
        slept = np.zeros(int(stretch[-1]) + 1, np.bool_)
        slept[stretch[out]] = True
        since_hlt &= slept[stretch]
    halted |= since_hlt
    halted &= (lanes.mark != Mark.OUT_SLEEP) | _interruptible(events, lanes)
    for plain, in_halt in _HALT.items():
        lanes.mark[halted & (lanes.mark == plain)] = in_halt


def _interruptible(events: Events, lanes: Lanes) -> npt.NDArray[np.bool_]:
    """Which switch-outs may be a halt: those in the state that kvm_vcpu_block sets.

    Source: virt/kvm/kvm_main.c, kvm_vcpu_block: set_current_state(TASK_INTERRUPTIBLE).
    """
    state = events.column("sched_switch", "prev_state", np.int64)
    found = np.zeros(len(lanes.mark), np.bool_)
    out = np.flatnonzero(lanes.mark == Mark.OUT_SLEEP)
    if state is not None:
        at = np.searchsorted(events.rows("sched_switch"), lanes.row[out])
        found[out] = (state[at] & _TASK_INTERRUPTIBLE) != 0
    return found
