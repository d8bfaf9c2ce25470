"""Each vCPU's own events, in order, as the marks that its life is made of.

A lane is one vCPU's stream: what its thread traced itself, the sched_switch that
brought it in, and the losses that make it uncertain. Some marks need a look ahead:
whether a switch-out belongs to a halt shows only when kvm_vcpu_wakeup ends it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.timeline.halts import mark_halts, mark_racy_sleeps
from piscope.timeline.lanes import Lanes
from piscope.timeline.lifecycle import Mark
from piscope.timeline.losses import Gap, Marked, loss_marks, merged_marks
from piscope.timeline.probes import Probe, probed_vcpus

__all__ = ("build_lanes",)

# arch/x86/include/uapi/asm/vmx.h
EXIT_REASON_EXTERNAL_INTERRUPT = 1

# include/linux/sched.h: TASK_REPORT below TASK_REPORT_MAX; 0 is running. The bit
# above ("R+") says that the switch was a preemption.
_TASK_STATES = 0xFF
_TASK_DEAD = 0x10 | 0x20  # EXIT_DEAD, EXIT_ZOMBIE

# TRACE_FLAG_*, include/linux/trace_events.h
_IRQS_OFF, _HARDIRQ, _SOFTIRQ = 0x01, 0x08, 0x10

_OUT = (Mark.OUT_RUNNABLE, Mark.OUT_SLEEP, Mark.OUT_DEAD)

# Emitted by KVM on behalf of a loaded vCPU, from its own thread.
_IN_KVM = ("kvm_pio", "kvm_mmio", "kvm_page_fault", "kvm_inj_virq", "kvm_eoi")


def build_lanes(
    events: Events, vcpus: Vcpus, probes: list[Probe], gaps: list[Gap]
) -> Lanes:
    """Sort the events of all vCPU threads, and the losses, into lanes of marks."""
    row, lane, mark = merged_marks(*_marks_of_rows(events, vcpus, probes))
    if gaps:
        stays = _stays(events, vcpus, row, lane, mark)
        lost = loss_marks(gaps, (row, lane, mark), events.cpu[row], stays, len(vcpus))
        row, lane, mark = merged_marks(lost, (row, lane, mark))
    losses = mark == Mark.LOST
    # what is lost before an event may lie right behind the one before that
    before = row - losses
    row = np.minimum(row, max(len(events) - 1, 0))
    reason = _exit_reasons(events, row, mark)
    quiet, off_until_ns = _between(events, vcpus, row[~losses], before, lane, reason)
    result = Lanes(
        mark=mark,
        row=row,
        ts_ns=events.ts_ns[np.maximum(before, 0)],
        cpu=events.cpu[row],
        lane=lane,
        starts=np.searchsorted(lane, np.arange(len(vcpus))).astype(np.int64),
        reason=reason,
        unsure=np.zeros(len(row), np.bool_),
        quiet=quiet,
        off_until_ns=off_until_ns,
    )
    mark_racy_sleeps(events, vcpus, result)
    mark_halts(events, result)
    return result


def _stays(
    events: Events, vcpus: Vcpus, row: Array, lane: Array, mark: Array
) -> npt.NDArray[np.bool_]:
    """Behind which marks the thread is on the mark's pCPU until its next mark.

    A switch-out leaves it, and kvm_sched_out puts right behind one: a put stays only
    where the thread's next mark is there too, and does not bring it back. Where
    switches are not traced only a guest can't leave unseen.
    """
    if not events.has("sched_switch"):
        in_guest: npt.NDArray[np.bool_] = mark == Mark.ENTRY
        return in_guest & events.has("kvm_exit")
    # a probe may see another thread load or put the vCPU
    own = (mark == Mark.IN) | (vcpus.of_tid(events.tid[row]) == lane)
    goes_on = np.zeros(len(mark), np.bool_)
    cpu = events.cpu[row]
    goes_on[:-1] = (lane[1:] == lane[:-1]) & (cpu[1:] == cpu[:-1])
    goes_on[:-1] &= own[1:] & (mark[1:] != Mark.IN)
    result: npt.NDArray[np.bool_] = own & ~np.isin(mark, _OUT)
    result &= goes_on | (mark != Mark.PI_PUT)
    # the put of a thread that has left, whatever the next mark that was not lost says
    left = np.zeros(len(mark), np.bool_)
    left[1:] = np.isin(mark[:-1], _OUT) & (lane[1:] == lane[:-1])
    result &= ~(left & (mark == Mark.PI_PUT))
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
    events: Events, vcpus: Vcpus, own: Array, before: Array, lane: Array, reason: Array
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """What the thread traced between each mark and its next one.

    quiet: nothing. off_until_ns: the last instant up to which all of it says that
    IRQs were off. An interrupt handler runs with IRQs off, but they were on when it
    came; only the one that ended the guest's run is called with IRQs still off
    (vmx_handle_exit_irqoff). `own`: the rows of marks. `before`: of each mark the last
    row up to which an event comes before it, -1: none.
    """
    n = len(before)
    is_other = np.empty(len(events), np.bool_)
    for start in range(0, len(events), _ROWS_AT_ONCE):
        some_tids = events.tid[start : start + _ROWS_AT_ONCE]
        is_other[start : start + _ROWS_AT_ONCE] = vcpus.of_tid(some_tids) >= 0
    is_other[own] = False
    other = np.flatnonzero(is_other)
    del is_other
    other_lane = vcpus.of_tid(events.tid[other])
    narrow = np.uint16 if len(vcpus) <= 1 << 16 else np.uint32
    if len(vcpus) > 1:
        other = other[np.argsort(other_lane.astype(narrow), kind="stable")]
    counts = np.bincount(other_lane, minlength=len(vcpus))
    del other_lane
    quiet = np.empty(n, np.bool_)
    off_until_ns = events.ts_ns[np.maximum(before, 0)]
    starts = np.searchsorted(lane, np.arange(len(vcpus) + 1)).tolist()
    other_ends = np.cumsum(counts).tolist()
    for vcpu, (first, last) in enumerate(pairwise(starts)):
        mine = other[other_ends[vcpu] - counts[vcpu] : other_ends[vcpu]]
        here = slice(first, last)
        quiet[here] = _in_one_lane(
            events, before[here], mine, reason[here], off_until_ns[here]
        )
    return quiet, off_until_ns


def _in_one_lane(
    events: Events, before: Array, other: Array, reason: Array, off_until_ns: Array
) -> npt.NDArray[np.bool_]:
    """`quiet` of one lane, from its marks' places and the thread's other rows.

    Sets `off_until_ns`, which holds the marks' own instants, where more is proven.
    """
    first = np.searchsorted(other, before, side="right")
    last = np.append(first[1:], len(other)) if len(before) else first
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
