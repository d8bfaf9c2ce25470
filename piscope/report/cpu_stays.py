"""Which thread each pCPU ran, from switch to switch, as far as a trace tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.parts import Own
from piscope.tables import Events, Timeline

__all__ = ("CpuStays", "LostTimes", "cpu_stays")


@dataclass(slots=True)
class CpuStays:
    """Stays of threads on one pCPU, by time.

    tid       int32[n]  0: the idle task
    vcpu      int32[n]  whose thread that is, -1: no vCPU's
    begin_ns, end_ns  int64[n]  half-open
    row       int64[n]  the row of EVENTS that began it, -1: the trace's start
    by_switch the pCPU has sched_switch events, so that all stays are known; otherwise
              only those of vCPUs, and they may overlap where a trace contradicts itself
    """

    tid: npt.NDArray[np.int32]
    vcpu: npt.NDArray[np.int32]
    begin_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    by_switch: bool

    def only(self, which: npt.NDArray[np.bool_]) -> CpuStays:
        """Those stays (bool[n])."""
        return CpuStays(
            tid=self.tid[which],
            vcpu=self.vcpu[which],
            begin_ns=self.begin_ns[which],
            end_ns=self.end_ns[which],
            row=self.row[which],
            by_switch=self.by_switch,
        )


def cpu_stays(
    timeline: Timeline, events: Events, own: Own | None = None
) -> dict[int, CpuStays]:
    """Who ran on each pCPU that has an event; what is not known is in no stay.

    From sched_switch. Where a pCPU has none, the vCPUs' own intervals tell when they
    were there. Behind lost events a pCPU is not known until its next switch.

    Of a part of a trace, those that its `own` rows begin: its context has each pCPU's
    next switch. Those by intervals are cut where the part's own intervals are.
    """
    own = Own(0, len(events)) if own is None else own
    rows = events.rows("sched_switch")
    before = events.column("sched_switch", "prev_pid", np.int32)
    after = events.column("sched_switch", "next_pid", np.int32)
    if before is None or after is None:
        rows = rows[:0]
        before = after = np.empty(0, np.int32)
    cpu = events.cpu[rows]
    found: dict[int, CpuStays] = {}
    by_interval: dict[int, CpuStays] | None = None
    lost_times = LostTimes(events, *timeline.span_ns)
    nobody = np.empty(0, np.int32)
    never = np.empty(0, np.int64)
    for number in events.cpus:
        here = np.flatnonzero(cpu == number)
        if len(here):
            tid = np.append(before[here[0]], after[here])
            lost = lost_times.of_cpu(number)
            stays = _between(timeline, events, tid, rows[here], lost)
            found[number] = stays.only(own.rows(stays.row))
            continue
        if by_interval is None:
            by_interval = _by_interval(timeline, own)
        none = CpuStays(nobody, nobody, never, never, never, by_switch=False)
        found[number] = by_interval.get(number, none)
    return found


def _between(
    timeline: Timeline,
    events: Events,
    tid: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    lost: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> CpuStays:
    """The stays between switches, each up to a loss of that pCPU's events."""
    first_ns, last_ns = timeline.span_ns
    at_ns = events.ts_ns[rows]
    begin_ns, end_ns = np.append(first_ns, at_ns), np.append(at_ns, last_ns)
    lost_from, lost_to = lost
    if len(lost_from):
        # the first loss that ends behind the begin
        at = np.searchsorted(lost_to, begin_ns, side="right")
        lost_from = np.append(lost_from, last_ns)
        end_ns = np.clip(lost_from[at], begin_ns, end_ns)
    some = end_ns > begin_ns
    tid = tid[some]
    vcpu = np.where(tid == 0, np.int32(-1), timeline.vcpus.of_tid(tid))
    return CpuStays(
        tid=tid,
        vcpu=vcpu,
        begin_ns=begin_ns[some],
        end_ns=end_ns[some],
        row=np.append(-1, rows)[some],
        by_switch=True,
    )


def _by_interval(timeline: Timeline, own: Own) -> dict[int, CpuStays]:
    i = timeline.intervals
    rows = np.flatnonzero(own.intervals(i))
    if not len(rows):
        return {}
    cpu, vcpu = i.cpu[rows], i.vcpu[rows]
    head = np.ones(len(rows), np.bool_)
    head[1:] = (cpu[1:] != cpu[:-1]) | (vcpu[1:] != vcpu[:-1])
    first = np.flatnonzero(head)
    heads, tails = rows[first], rows[np.append(first[1:], len(rows)) - 1]
    on = i.cpu[heads] >= 0
    heads, tails = heads[on], tails[on]
    order = np.lexsort((i.row[heads], i.start_ns[heads], i.cpu[heads]))
    heads, tails = heads[order], tails[order]
    tids = np.array([row.tid for row in timeline.vcpus.rows], np.int32)
    cpus, firsts = np.unique(i.cpu[heads], return_index=True)
    if not len(cpus):
        return {}
    return {
        number: CpuStays(
            tid=tids[i.vcpu[mine]],
            vcpu=i.vcpu[mine],
            begin_ns=i.start_ns[mine],
            end_ns=i.end_ns[until],
            row=i.row[mine],
            by_switch=False,
        )
        for number, mine, until in zip(
            cpus.tolist(),
            np.split(heads, firsts[1:]),
            np.split(tails, firsts[1:]),
            strict=True,
        )
    }


class LostTimes:
    """When events of each pCPU were lost, between `first_ns` and `last_ns`.

    These stand in for an end that is open. A loss whose place is not known at all is
    in none.
    """

    def __init__(self, events: Events, first_ns: int, last_ns: int) -> None:
        self._spans: dict[int | None, list[tuple[int, int]]] = {}
        for loss in events.losses:
            if loss.start_ns is None and loss.end_ns is None:
                continue
            begin_ns = first_ns if loss.start_ns is None else loss.start_ns
            end_ns = last_ns if loss.end_ns is None else loss.end_ns
            span = max(begin_ns, first_ns), min(end_ns, last_ns)
            self._spans.setdefault(loss.cpu, []).append(span)

    def of_cpu(self, cpu: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """int64[n] twice: begins and ends, ascending, none touching another.

        Those that may be any pCPU's are each one's.
        """
        return _joined(self._spans.get(cpu, []) + self._spans.get(None, []))

    def of_any(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The same of all pCPUs together."""
        return _joined([span for spans in self._spans.values() for span in spans])


def _joined(
    spans: list[tuple[int, int]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    begins: list[int] = []
    ends: list[int] = []
    for begin_ns, end_ns in sorted(spans):
        if ends and begin_ns <= ends[-1]:
            ends[-1] = max(ends[-1], end_ns)
        elif end_ns > begin_ns:
            begins.append(begin_ns)
            ends.append(end_ns)
    return np.array(begins, np.int64), np.array(ends, np.int64)
