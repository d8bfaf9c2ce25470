"""Whose thread each pCPU ran, at the width of a picture: shares of time, per column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.report.strips import covered_ns
from piscope.sources.raw import Array
from piscope.tables import Events, Timeline

__all__ = ("CpuLanes", "cpu_lanes", "lost_ns")


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


def cpu_lanes(timeline: Timeline, events: Events, edges_ns: Array) -> CpuLanes:
    """Who ran on each pCPU that has an event, in the columns of `edges_ns`.

    From sched_switch. Where a pCPU has none, only the vCPUs' own intervals tell who
    ran, and the time in which no vCPU did is not known. Behind lost events a pCPU is
    not known until its next switch.
    """
    cpus = np.unique(events.cpu)
    shape = (len(cpus), len(edges_ns) - 1)
    width = np.diff(edges_ns)
    vcpu = np.full(shape, _OTHER, np.int32)
    vcpu_ns, idle_ns, other_ns, open_ns = (np.zeros(shape, np.int64) for _ in range(4))
    switches = _switches(timeline, events)
    stays = None
    for line, cpu in enumerate(cpus.tolist()):
        found = _stays_by_switch(switches, timeline, events, cpu)
        if found is None:
            stays = _stays_by_interval(timeline) if stays is None else stays
            found = _Stays(*(column[stays.cpu == cpu] for column in stays.columns()))
        for who in np.unique(found.who).tolist():
            mine = found.who == who
            ran_ns = covered_ns(found.begin_ns[mine], found.end_ns[mine], edges_ns)
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
    return CpuLanes(cpus.astype(np.int32), vcpu, vcpu_ns, idle_ns, other_ns, open_ns)


@dataclass(slots=True)
class _Stays:
    """Who ran where, by time on each pCPU: a vCPU, _OTHER or _IDLE."""

    cpu: Array
    who: Array
    begin_ns: Array
    end_ns: Array

    def columns(self) -> tuple[Array, Array, Array, Array]:
        return self.cpu, self.who, self.begin_ns, self.end_ns


@dataclass(slots=True)
class _Switches:
    """sched_switch: when, where, from whom to whom."""

    ts_ns: Array
    cpu: Array
    before: Array
    after: Array


def _switches(timeline: Timeline, events: Events) -> _Switches | None:
    rows = events.rows("sched_switch")
    prev_tid = events.column("sched_switch", "prev_pid", np.int32)
    next_tid = events.column("sched_switch", "next_pid", np.int32)
    if prev_tid is None or next_tid is None:
        return None

    def who(tid: npt.NDArray[np.int32]) -> Array:
        return np.where(tid == 0, _IDLE, timeline.vcpus.of_tid(tid))

    return _Switches(events.ts_ns[rows], events.cpu[rows], who(prev_tid), who(next_tid))


def _stays_by_switch(
    switches: _Switches | None, timeline: Timeline, events: Events, cpu: int
) -> _Stays | None:
    """From switch to switch of one pCPU, up to a loss; None: it has no switch."""
    if switches is None:
        return None
    own = np.flatnonzero(switches.cpu == cpu)
    if not len(own):
        return None
    first_ns, last_ns = timeline.span_ns
    begin_ns = np.append(first_ns, switches.ts_ns[own])
    end_ns = np.append(switches.ts_ns[own], last_ns)
    who = np.append(switches.before[own[0]], switches.after[own])
    lost_from, lost_to = _lost(events, first_ns, last_ns, cpu)
    if len(lost_from):
        # the first loss that ends behind the begin
        at = np.searchsorted(lost_to, begin_ns, side="right")
        lost_from = np.append(lost_from, last_ns)
        end_ns = np.clip(lost_from[at], begin_ns, end_ns)
    return _Stays(np.full(len(who), cpu), who, begin_ns, end_ns)


def _stays_by_interval(timeline: Timeline) -> _Stays:
    """The vCPUs' stays on pCPUs, as their intervals tell them, by pCPU and time."""
    i = timeline.intervals
    head = np.ones(len(i), np.bool_)
    head[1:] = (i.cpu[1:] != i.cpu[:-1]) | (i.vcpu[1:] != i.vcpu[:-1])
    heads = np.flatnonzero(head)
    tails = np.append(heads[1:], len(i)) - 1
    on = i.cpu[heads] >= 0
    heads, tails = heads[on], tails[on]
    order = np.lexsort((i.start_ns[heads], i.cpu[heads]))
    heads, tails = heads[order], tails[order]
    return _Stays(i.cpu[heads], i.vcpu[heads], i.start_ns[heads], i.end_ns[tails])


def lost_ns(
    events: Events, edges_ns: Array, cpu: int | None = None
) -> npt.NDArray[np.int64]:
    """int64[columns]: the time in which events of a pCPU were lost; None: of any.

    Losses whose place is not known at all are not in it.
    """
    begin_ns, end_ns = _lost(events, int(edges_ns[0]), int(edges_ns[-1]), cpu)
    return covered_ns(begin_ns, end_ns, edges_ns)


def _lost(
    events: Events, first_ns: int, last_ns: int, cpu: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where losses begin and end, ascending, none touching another."""
    spans = sorted(
        (
            first_ns if loss.start_ns is None else loss.start_ns,
            last_ns if loss.end_ns is None else loss.end_ns,
        )
        for loss in events.losses
        if (loss.start_ns, loss.end_ns) != (None, None)
        and (cpu is None or loss.cpu is None or loss.cpu == cpu)
    )
    begins: list[int] = []
    ends: list[int] = []
    for begin, end in spans:
        if ends and begin <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        elif end > begin:
            begins.append(begin)
            ends.append(end)
    return np.array(begins, np.int64), np.array(ends, np.int64)
