"""Each vCPU's own events, in order, as the marks that its life is made of.

A lane is one vCPU's stream: what its thread traced itself, the sched_switch that
brought it in, and the losses that make it uncertain. Some marks need a look ahead:
whether a switch-out belongs to a halt shows only when kvm_vcpu_wakeup ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.timeline.lifecycle import Mark
from piscope.timeline.losses import Gap, Marked, loss_marks, merged_marks
from piscope.timeline.probes import Probe, probed_vcpus

__all__ = ("EXIT_REASON_HLT", "Lanes", "build_lanes")

# arch/x86/include/uapi/asm/vmx.h
EXIT_REASON_EXTERNAL_INTERRUPT = 1
EXIT_REASON_HLT = 12

# include/linux/sched.h: TASK_REPORT below TASK_REPORT_MAX; 0 is running. The bit
# above ("R+") says that the switch was a preemption.
_TASK_STATES = 0xFF
_TASK_INTERRUPTIBLE = 0x01
_TASK_DEAD = 0x10 | 0x20  # EXIT_DEAD, EXIT_ZOMBIE

# TRACE_FLAG_*, include/linux/trace_events.h
_IRQS_OFF, _HARDIRQ, _SOFTIRQ = 0x01, 0x08, 0x10

# Emitted by KVM on behalf of a loaded vCPU, from its own thread.
_IN_KVM = ("kvm_pio", "kvm_mmio", "kvm_page_fault", "kvm_inj_virq", "kvm_eoi")


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
    unsure_sleep  bool[n]  a switch-out whose prev_state may have been read racily
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
    unsure_sleep: npt.NDArray[np.bool_]
    quiet: npt.NDArray[np.bool_]
    off_until_ns: npt.NDArray[np.int64]


def build_lanes(
    events: Events, vcpus: Vcpus, probes: list[Probe], gaps: list[Gap]
) -> Lanes:
    """Sort the events of all vCPU threads, and the losses, into lanes of marks."""
    row, lane, mark = merged_marks(*_marks_of_rows(events, vcpus, probes))
    losses = np.zeros(len(row), np.bool_)
    ts_ns = events.ts_ns[row]
    if gaps:
        lost = loss_marks(gaps, (row, lane, mark), events.cpu[row], len(vcpus))
        row, lane, mark = merged_marks(lost, (row, lane, mark))
        # what is lost before an event may lie right behind the one before that
        losses = np.isin(mark, (Mark.LOST_HERE, Mark.LOST_ELSEWHERE))
        ts_ns = events.ts_ns[np.maximum(row - losses, 0)]
        row = np.minimum(row, max(len(events) - 1, 0))
    starts = np.searchsorted(lane, np.arange(len(vcpus)))
    reason = _exit_reasons(events, row, mark)
    quiet, off_until_ns = _between(events, vcpus, row, lane, reason)
    off_until_ns[losses] = ts_ns[losses]
    result = Lanes(
        mark=mark,
        row=row,
        ts_ns=ts_ns,
        cpu=events.cpu[row],
        lane=lane,
        starts=starts.astype(np.int64),
        reason=reason,
        unsure_sleep=np.zeros(len(row), np.bool_),
        quiet=quiet,
        off_until_ns=off_until_ns,
    )
    _mark_racy_sleeps(events, vcpus, result)
    _mark_halts(events, result)
    return result


_NO_MARK = 0xFF

# Rows whose threads are looked up together: what that takes stays in the cache.
_ROWS_AT_ONCE = 1 << 16


def _marks_of_rows(
    events: Events, vcpus: Vcpus, probes: list[Probe]
) -> tuple[Marked, Marked]:
    """The vCPU threads' own marks, and the switches that bring one in, by row."""
    mark = np.full(len(events), _NO_MARK, np.uint8)
    for at, what in _own_marks(events):
        mark[at] = what
    probes = [p for p in probes if not p.at_return]
    for probe in probes:
        what = Mark.PI_LOAD if probe.what == "load" else Mark.PI_PUT
        mark[events.rows(probe.event)] = what
    switches = events.rows("sched_switch")
    next_tid = events.column("sched_switch", "next_pid", np.int32)
    prev_tid = events.column("sched_switch", "prev_pid", np.int32)
    state = events.column("sched_switch", "prev_state", np.int64)
    if state is not None:
        mark[switches] = _switch_out_marks(state)
    row = np.flatnonzero(mark != _NO_MARK)
    mark = mark[row]
    lane = vcpus.of_tid(events.tid[row])

    def correct(rows: Array, lanes: Array) -> None:
        # mostly it is the thread's own
        other = np.flatnonzero(lanes != vcpus.of_tid(events.tid[rows]))
        lane[np.searchsorted(row, rows[other])] = lanes[other]

    if prev_tid is not None and state is not None:
        # of the task that is switched out, whoever the trace says was running
        correct(switches, vcpus.of_tid(prev_tid))
    for probe in probes:  # not always of the vCPU whose thread it is
        correct(events.rows(probe.event), probed_vcpus(events, vcpus, probe))
    mine = lane >= 0
    own = (row[mine], lane[mine], mark[mine])
    if next_tid is None:
        return own, (row[:0], lane[:0], mark[:0])
    lane = vcpus.of_tid(next_tid)
    mine = lane >= 0
    return own, (
        switches[mine],
        lane[mine],
        np.full(int(mine.sum()), Mark.IN, np.uint8),
    )


def _between(
    events: Events, vcpus: Vcpus, row: Array, lane: Array, reason: Array
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """What the thread traced between each mark and its next one.

    quiet: nothing. off_until_ns: the last instant up to which all of it says that
    IRQs were off. An interrupt handler runs with IRQs off, but they were on when it
    came; only the one that ended the guest's run is called with IRQs still off
    (vmx_handle_exit_irqoff).
    """
    n = len(row)
    is_other = np.empty(len(events), np.bool_)
    for start in range(0, len(events), _ROWS_AT_ONCE):
        some_tids = events.tid[start : start + _ROWS_AT_ONCE]
        is_other[start : start + _ROWS_AT_ONCE] = vcpus.of_tid(some_tids) >= 0
    is_other[row] = False
    other = np.flatnonzero(is_other)
    del is_other
    other_lane = vcpus.of_tid(events.tid[other])
    narrow = np.uint16 if len(vcpus) <= 1 << 16 else np.uint32
    if len(vcpus) > 1:
        other = other[np.argsort(other_lane.astype(narrow), kind="stable")]
    counts = np.bincount(other_lane, minlength=len(vcpus))
    del other_lane
    quiet = np.empty(n, np.bool_)
    off_until_ns = events.ts_ns[row]
    starts = np.searchsorted(lane, np.arange(len(vcpus) + 1)).tolist()
    other_ends = np.cumsum(counts).tolist()
    for vcpu, (first, last) in enumerate(pairwise(starts)):
        own = other[other_ends[vcpu] - counts[vcpu] : other_ends[vcpu]]
        here = slice(first, last)
        quiet[here] = _in_one_lane(
            events, row[here], own, reason[here], off_until_ns[here]
        )
    return quiet, off_until_ns


def _in_one_lane(
    events: Events, row: Array, other: Array, reason: Array, off_until_ns: Array
) -> npt.NDArray[np.bool_]:
    """`quiet` of one lane, from its marks' rows and the thread's other ones.

    Sets `off_until_ns`, which holds the marks' own instants, where more is proven.
    """
    first = np.searchsorted(other, row)
    last = np.append(first[1:], len(other)) if len(row) else first
    some = np.flatnonzero(last > first)
    quiet: npt.NDArray[np.bool_] = last == first
    if len(some) and events.info.events_flags:
        flags = events.flags[other]
        on = ((flags & _IRQS_OFF) == 0) | ((flags & _SOFTIRQ) != 0)
        inline = reason[some] == EXIT_REASON_EXTERNAL_INTERRUPT
        nxt = np.where(
            inline,
            _next_true(on)[first[some]],
            _next_true(on | ((flags & _HARDIRQ) != 0))[first[some]],
        )
        end = np.minimum(nxt, last[some])
        proven = end > first[some]
        some, end = some[proven], end[proven]
        off_until_ns[some] = events.ts_ns[other[end - 1]]
    return quiet


def _next_true(values: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The first true index from each index on; the length where there is none."""
    n = len(values)
    at = np.where(values, np.arange(n), n)
    result: npt.NDArray[np.int64] = np.minimum.accumulate(at[::-1])[::-1]
    return result


def _own_marks(
    events: Events,
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
    return found


_SWITCH_OUT_MARK = np.full(_TASK_STATES + 1, Mark.OUT_SLEEP, np.uint8)
_SWITCH_OUT_MARK[(np.arange(_TASK_STATES + 1) & _TASK_DEAD) != 0] = Mark.OUT_DEAD
_SWITCH_OUT_MARK[0] = Mark.OUT_RUNNABLE


def _switch_out_marks(prev_state: Array) -> Array:
    state = (prev_state & _TASK_STATES).astype(np.uint8)
    return _SWITCH_OUT_MARK[state]


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
    ]
] = True


def _mark_halts(events: Events, lanes: Lanes) -> None:
    """Tell the marks of a halt from the same marks elsewhere.

    A halt ends with kvm_vcpu_wakeup, so a mark belongs to one if that is what comes
    next of all that a halt can't contain. Where the trace lacks the event, or ends
    before it, the last VM-exit's reason (HLT) decides.
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
    since_hlt = (behind > 0) & (lanes.lane[prev] == lane)
    since_hlt &= (lanes.mark[prev] == Mark.EXIT) & (
        lanes.reason[prev] == EXIT_REASON_HLT
    )
    if events.has("kvm_vcpu_wakeup"):
        since_hlt &= ~inside  # the trace ends before the halt does
    else:
        # HLT goes back to the guest at once where an event is pending: a halt is
        # seen only where the thread is switched out before the next entry
        out = (mark == Mark.OUT_RUNNABLE) | (mark == Mark.OUT_SLEEP)
        slept = np.zeros(len(boundaries) + 1, np.bool_)
        slept[behind[out]] = True
        since_hlt &= slept[behind]
    halted |= since_hlt
    asleep = halted & (mark == Mark.OUT_SLEEP)
    halted[asleep] = _interruptible(events, lanes.row[at[asleep]])
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
