"""Which thread each pCPU ran, from switch to switch, as far as a trace tells."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.parts import Own
from piscope.report.own_part import rows_of
from piscope.tables import Events, Intervals, Timeline, Vcpus

__all__ = ("CpuStays", "CpuStaysTally", "LostTimes", "cpu_stays")


@dataclass(slots=True)
class CpuStays:
    """Stays of threads on one pCPU, by time.

    tid       int32[n]  0: the idle task
    vcpu      int32[n]  whose thread that is, -1: no vCPU's
    begin_ns, end_ns  int64[n]  half-open
    by_switch the pCPU has sched_switch events, so that all stays are known; otherwise
              only those of vCPUs, and they may overlap where a trace contradicts itself
    """

    tid: npt.NDArray[np.int32]
    vcpu: npt.NDArray[np.int32]
    begin_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    by_switch: bool


def cpu_stays(timeline: Timeline, events: Events) -> dict[int, CpuStays]:
    """Who ran on each pCPU that has an event; what is not known is in no stay.

    From sched_switch. Where a pCPU has none, the vCPUs' own intervals tell when they
    were there. Behind lost events a pCPU is not known until its next switch.
    """
    found = CpuStaysTally().add(timeline, events, Own(0, len(events)))
    nobody, never = np.empty(0, np.int32), np.empty(0, np.int64)
    none = CpuStays(nobody, nobody, never, never, by_switch=False)
    return {number: found.get(number, none) for number in events.cpus}


class CpuStaysTally:
    """The stays of one part after another; a stay is in the part where it ended."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, int]] = {}  # thread and begin_ns, by pCPU

    @property
    def switched(self) -> Collection[int]:
        """The pCPUs that had a switch up to here: of them only stays by switch hold."""
        return self._open.keys()

    def add(self, timeline: Timeline, events: Events, own: Own) -> dict[int, CpuStays]:
        """The stays that a part adds, by pCPU; the trace's end ends the last ones.

        Of a pCPU without a switch up to here those that the part's own intervals tell
        of.
        """
        found = self._by_switch(timeline, events, own)
        i = timeline.intervals
        mine = own.intervals(i)
        intervals = i if mine.all() else rows_of(i, mine)
        return found | _by_interval(intervals, timeline.vcpus, without=list(found))

    def _by_switch(
        self, timeline: Timeline, events: Events, own: Own
    ) -> dict[int, CpuStays]:
        rows = events.rows("sched_switch")
        before = events.column("sched_switch", "prev_pid", np.int32)
        after = events.column("sched_switch", "next_pid", np.int32)
        if before is None or after is None:
            rows = rows[:0]
            before = after = np.empty(0, np.int32)
        mine = own.rows(rows)
        rows, before, after = rows[mine], before[mine], after[mine]
        cpu, ts_ns = events.cpu[rows], events.ts_ns[rows]
        first_ns, last_ns = timeline.span_ns
        lost_times = LostTimes(events, first_ns, last_ns)
        found: dict[int, CpuStays] = {}
        for number in sorted({*np.unique(cpu).tolist(), *self._open}):
            at = np.flatnonzero(cpu == number)
            if number not in self._open:
                self._open[number] = int(before[at[0]]), first_ns
            who, since_ns = self._open[number]
            tid = np.append(np.int32(who), after[at])
            begin_ns = np.append(since_ns, ts_ns[at])
            end_ns = np.append(ts_ns[at], last_ns)
            if not own.last:
                self._open[number] = int(tid[-1]), int(begin_ns[-1])
                tid, begin_ns, end_ns = tid[:-1], begin_ns[:-1], end_ns[:-1]
            lost = lost_times.of_cpu(number)
            end_ns = _up_to_a_loss(begin_ns, end_ns, lost, last_ns)
            some = end_ns > begin_ns
            tid = tid[some]
            vcpu = np.where(tid == 0, np.int32(-1), timeline.vcpus.of_tid(tid))
            found[number] = CpuStays(
                tid, vcpu, begin_ns[some], end_ns[some], by_switch=True
            )
        return found


def _up_to_a_loss(
    begin_ns: npt.NDArray[np.int64],
    end_ns: npt.NDArray[np.int64],
    lost: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    last_ns: int,
) -> npt.NDArray[np.int64]:
    """The ends of stays, each up to a loss of that pCPU's events."""
    lost_from, lost_to = lost
    if not len(lost_from):
        return end_ns
    # the first loss that ends behind the begin
    at = np.searchsorted(lost_to, begin_ns, side="right")
    lost_from = np.append(lost_from, last_ns)
    return np.clip(lost_from[at], begin_ns, end_ns)


def _by_interval(
    i: Intervals, vcpus: Vcpus, *, without: list[int]
) -> dict[int, CpuStays]:
    """The vCPUs' stays on other pCPUs than those."""
    if not len(i):
        return {}
    head = np.ones(len(i), np.bool_)
    head[1:] = (i.cpu[1:] != i.cpu[:-1]) | (i.vcpu[1:] != i.vcpu[:-1])
    heads = np.flatnonzero(head)
    tails = np.append(heads[1:], len(i)) - 1
    on = (i.cpu[heads] >= 0) & ~np.isin(i.cpu[heads], without)
    heads, tails = heads[on], tails[on]
    order = np.lexsort((i.start_ns[heads], i.cpu[heads]))
    heads, tails = heads[order], tails[order]
    tids = np.array([row.tid for row in vcpus.rows], np.int32)
    cpus, firsts = np.unique(i.cpu[heads], return_index=True)
    if not len(cpus):
        return {}
    return {
        number: CpuStays(
            tid=tids[i.vcpu[mine]],
            vcpu=i.vcpu[mine],
            begin_ns=i.start_ns[mine],
            end_ns=i.end_ns[until],
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
