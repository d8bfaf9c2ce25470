"""What each pCPU was doing when a notification reached it.

A notification goes to the pCPU that NDST names, whoever runs there by then. In guest
mode the CPU takes it as its own vCPU's (pi_semantics, "wrong vCPU"); in the host it
is an IRQ that finds nothing to do.

Source: Intel SDM vol. 3, "Posted-Interrupt Processing".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.replay.near_rows import NearRows
from piscope.replay.row_index import RowIndex, index_rows
from piscope.sources.raw import Array
from piscope.tables import Acts, Events, Intervals, Kind, Vcpus, Windows

__all__ = ("Occupancy", "Stretches", "occupancy")


@dataclass
class Stretches:
    """Half-open stretches of time on pCPUs, by pCPU, then time; none overlap.

    cpu int32[n], start_ns int64[n], end_ns int64[n], vcpu int32[n]
    """

    cpu: npt.NDArray[np.int32]
    start_ns: npt.NDArray[np.int64]
    end_ns: npt.NDArray[np.int64]
    vcpu: npt.NDArray[np.int32]

    def at(self, cpu: Array, ts_ns: Array) -> npt.NDArray[np.int32]:
        """int32[m]: whose stretch each (pCPU, instant) lies in, -1: nobody's."""
        found = self.index_at(cpu, ts_ns)
        if not len(self.cpu):
            return np.full(len(cpu), -1, np.int32)
        return np.where(found >= 0, self.vcpu[np.maximum(found, 0)], np.int32(-1))

    def index_at(self, cpu: Array, ts_ns: Array) -> npt.NDArray[np.int64]:
        """int64[m]: the stretch that each (pCPU, instant) lies in, -1: none."""
        found = self._last_start(cpu, ts_ns)
        got = np.maximum(found, 0)
        if not len(self.cpu):
            return found
        inside = (found >= 0) & (self.cpu[got] == cpu) & (ts_ns < self.end_ns[got])
        return np.where(inside, found, -1)

    def covered_ns(
        self, cpu: Array, start_ns: Array, end_ns: Array
    ) -> npt.NDArray[np.int64]:
        """int64[m]: how much of each interval on a pCPU the stretches cover."""
        if not len(self.cpu):
            return np.zeros(len(cpu), np.int64)
        covered = self._covered_before(cpu, end_ns)
        covered -= self._covered_before(cpu, start_ns)
        result: npt.NDArray[np.int64] = np.maximum(covered, 0)
        return result

    def _covered_before(self, cpu: Array, ts_ns: Array) -> npt.NDArray[np.int64]:
        """Covered time of all stretches (of any pCPU before it) up to the instant."""
        total = self._total
        found = self._last_start(cpu, ts_ns)
        got = np.maximum(found, 0)
        # stretches of smaller pCPUs count in both terms of a difference
        first = np.searchsorted(self.cpu, cpu, side="left")
        inside = (found >= 0) & (self.cpu[got] == cpu)
        length = self.end_ns[got] - self.start_ns[got]
        partial = np.clip(ts_ns - self.start_ns[got], 0, length)
        result: npt.NDArray[np.int64] = np.where(
            inside, total[got] + partial, total[first]
        )
        return result

    def _last_start(self, cpu: Array, ts_ns: Array) -> npt.NDArray[np.int64]:
        """Index of the last stretch of that pCPU or a smaller one begun by then."""
        if not len(self.cpu):
            return np.full(len(cpu), -1, np.int64)
        base, span, key = self._key
        # before the first start, and behind the last end, it is all the same
        wanted = np.clip(ts_ns - base, 0, span - 1)
        wanted += cpu.astype(np.int64) * span
        found: npt.NDArray[np.int64] = np.searchsorted(key, wanted, side="right") - 1
        return found

    @cached_property
    def _key(self) -> tuple[int, int, npt.NDArray[np.int64]]:
        # pCPU after pCPU on one line: all starts lie behind the base
        base = int(self.start_ns.min()) - 1
        span = int(self.end_ns.max()) - base + 2
        return base, span, self.cpu.astype(np.int64) * span + (self.start_ns - base)

    @cached_property
    def _total(self) -> npt.NDArray[np.int64]:
        """int64[n + 1]: the length of all stretches before each one."""
        total = np.zeros(len(self.cpu) + 1, np.int64)
        np.cumsum(self.end_ns - self.start_ns, out=total[1:])
        return total


_IRQS_OFF = 0x01  # TRACE_FLAG_IRQS_OFF, include/linux/trace_events.h

# An interrupt is taken, or will be at once: IRQs went on before the first two, go on
# behind the third, and what is latched at a VM-entry is taken by it.
_ACCEPTING = ("irq_handler_entry", "kvm_exit", "sched_switch", "kvm_entry")


@dataclass
class Occupancy:
    """Who was in guest mode where, who was in KVM, and when a pCPU was idle.

    guest   vCPUs in guest mode
    maybe   exit-to-entry stretches that may be a fast path: IRQs may stay off there,
            so that the entry absorbs what arrived
    kvm     vCPUs loaded, in KVM
    irqs_off  of those the parts in which events prove that IRQs were off
    idle    the idle task runs (from sched_switch); `idle_known` is False where the
            trace has no sched_switch
    events, vcpus  what the indexes of rows are made of, once they are needed
    begin_ns    of a part of a trace, where its own rows begin; None: it is the whole
    earlier_ns  int64[windows]  then of each window's pCPU the time in guest mode before
    reached_ns  and by policy and outcome (the first of those that share a vector) until
                when each pCPU may have had one latched that was sent before
    """

    guest: Stretches
    maybe: Stretches
    kvm: Stretches
    irqs_off: Stretches
    idle: Stretches
    idle_known: bool
    events: Events
    vcpus: Vcpus
    begin_ns: int | None = None
    earlier_ns: npt.NDArray[np.int64] | None = None
    reached_ns: Mapping[tuple[str, Hit], Mapping[int, int]] = field(
        default_factory=dict
    )

    def guest_in_windows(self, w: Windows, at: Array) -> npt.NDArray[np.int64]:
        """int64[m]: how long the pCPU of these windows was in guest mode meanwhile."""
        start_ns = w.put_ns[at]
        if self.begin_ns is None or self.earlier_ns is None:
            return self.guest.covered_ns(w.put_cpu[at], start_ns, w.load_ns[at])
        start_ns = np.maximum(start_ns, self.begin_ns)
        end_ns = np.maximum(w.load_ns[at], start_ns)
        covered = self.guest.covered_ns(w.put_cpu[at], start_ns, end_ns)
        covered += self.earlier_ns[at]
        return covered

    @cached_property
    def own(self) -> NearRows:
        """The rows that each vCPU's thread traced, by vCPU."""
        tid, of_tid, n = self.events.tid, self.vcpus.of_tid, len(self.events)
        return NearRows(
            n,
            lambda rows: of_tid(tid[rows]),
            lambda: index_rows(of_tid(tid), np.arange(n), n),
        )

    @cached_property
    def accepting(self) -> NearRows:
        """By pCPU, the rows between which it has taken what was latched."""
        events = self.events
        shows = np.zeros(len(events), np.bool_)
        if events.info.events_flags:
            shows = (events.flags & _IRQS_OFF) == 0
        for name in _ACCEPTING:
            shows[events.rows(name)] = True

        def index() -> RowIndex:
            row = np.flatnonzero(shows)
            return index_rows(events.cpu[row], row, len(events))

        return NearRows(
            len(events),
            lambda rows: np.where(shows[rows], events.cpu[rows], np.int32(-1)),
            index,
        )

    @cached_property
    def of_cpu(self) -> NearRows:
        """All rows by pCPU."""
        cpu, n = self.events.cpu, len(self.events)
        return NearRows(
            n, lambda rows: cpu[rows], lambda: index_rows(cpu, np.arange(n), n)
        )

    def seen_irqs_off(self, cpu: Array, row: Array) -> npt.NDArray[np.bool_]:
        """bool[m]: the pCPU's last event up to a row does not say that IRQs are on."""
        events = self.events
        if not events.info.events_flags or not len(cpu):
            return np.ones(len(cpu), np.bool_)
        last = self.of_cpu.last_up_to(cpu, row)
        flags = events.flags[np.maximum(last, 0)]
        result: npt.NDArray[np.bool_] = (last < 0) | ((flags & _IRQS_OFF) != 0)
        return result


def occupancy(
    events: Events, vcpus: Vcpus, intervals: Intervals, acts: Acts
) -> Occupancy:
    """Lay the vCPUs' intervals and the idle task onto the pCPUs."""
    loaded = np.isin(intervals.kind, (Kind.HOST, Kind.HOST_IRQS_OFF, Kind.POLL))
    direct = np.flatnonzero(acts.direct)
    ends = np.append(acts.ts_ns[1:], acts.ts_ns[-1:])
    return Occupancy(
        guest=_of(intervals, intervals.kind == Kind.GUEST),
        maybe=_stretches(
            acts.cpu[direct], acts.ts_ns[direct], ends[direct], acts.vcpu[direct]
        ),
        kvm=_of(intervals, loaded),
        irqs_off=_of(intervals, intervals.kind == Kind.HOST_IRQS_OFF),
        idle=_idle(events),
        idle_known=events.has("sched_switch"),
        events=events,
        vcpus=vcpus,
    )


def _of(intervals: Intervals, which: npt.NDArray[np.bool_]) -> Stretches:
    at = np.flatnonzero(which & (intervals.cpu >= 0))
    return _stretches(
        intervals.cpu[at],
        intervals.start_ns[at],
        intervals.end_ns[at],
        intervals.vcpu[at],
    )


def _stretches(cpu: Array, start_ns: Array, end_ns: Array, vcpu: Array) -> Stretches:
    order = np.lexsort((start_ns, cpu))
    cpu, start_ns, end_ns = cpu[order], start_ns[order], end_ns[order].copy()
    # where a trace contradicts itself the later one holds
    if len(cpu) > 1:
        same = cpu[1:] == cpu[:-1]
        end_ns[:-1][same] = np.minimum(end_ns[:-1][same], start_ns[1:][same])
    return Stretches(
        cpu.astype(np.int32),
        start_ns.astype(np.int64),
        end_ns.astype(np.int64),
        vcpu[order].astype(np.int32),
    )


def _idle(events: Events) -> Stretches:
    """From each switch to the idle task (tid 0) to the next switch of the pCPU."""
    rows = events.rows("sched_switch")
    next_tid = events.column("sched_switch", "next_pid", np.int32)
    if next_tid is None:
        rows, next_tid = rows[:0], np.empty(0, np.int32)
    cpu, ts_ns = events.cpu[rows], events.ts_ns[rows]
    order = np.argsort(cpu, kind="stable")
    cpu, ts_ns, next_tid = cpu[order], ts_ns[order], next_tid[order]
    end = np.append(ts_ns[1:], ts_ns[-1:])
    last = np.append(cpu[1:] != cpu[:-1], True) if len(cpu) else np.empty(0, np.bool_)
    end[last] = int(events.ts_ns[-1]) if len(events) else 0
    idle = np.flatnonzero(next_tid == 0)
    return _stretches(cpu[idle], ts_ns[idle], end[idle], np.zeros(len(idle), np.int32))
