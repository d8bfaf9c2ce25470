"""How far loads and puts inferred from stock events agree with probes that saw them.

A probe on vmx_vcpu_pi_load or vmx_vcpu_pi_put is the truth about one load or put. The
timeline is built once more without the probes; what it infers lies at the event that
it rests on, shortly before or behind the real thing:

    probes           load         put        load
    stock      fpu=1    fpu=0         ...  fpu=1
                 |        |                  |
    inferred    load     put                load

So an inferred load or put can only mean the probe right before its instant or the one
right behind it, of the same thread; of the two, the one of its kind. That checks
place and order at once, and takes one sorted look-up each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Payload, Wanted
from piscope.tables import Events, Kind, PutReason, Timeline
from piscope.timeline.build import build_timeline
from piscope.timeline.lifecycle import Act
from piscope.timeline.probes import (
    Probe,
    ProbeColumns,
    find_probes,
    probe_columns,
    probed_vcpus,
)

__all__ = ("Agreement", "Difference", "How", "agreement", "stock_events")

How = Literal["missing", "extra", "wrong-cpu", "wrong-flags"]

# What vcpu->preempted and the rcuwait must have been for each reason: bit 0
# preempted, bit 1 blocking. UNKNOWN agrees with nothing.
_PREEMPTED, _BLOCKING = 1, 2
_FLAGS_OF = np.zeros(len(PutReason), np.int8)
_FLAGS_OF[PutReason.UNKNOWN] = _PREEMPTED | _BLOCKING | 4
_FLAGS_OF[PutReason.PREEMPTED] = _PREEMPTED
_FLAGS_OF[[PutReason.BLOCKING, PutReason.BLOCKING_IRQS_BLOCKED]] = _BLOCKING
_FLAGS_OF[PutReason.BLOCKING_PREEMPTED] = _PREEMPTED | _BLOCKING
_NOT_READ = -1


@dataclass(frozen=True, slots=True)
class Difference:
    """One load or put about which probes and inference differ.

    how     missing: seen by a probe, not inferred; extra: inferred, not seen;
            wrong-cpu; wrong-flags: another reason than preempted and blocking tell
    what    "load" or "put"
    ts_ns   of the probe's event, of an extra one where it was inferred
    marked  the timeline itself says that it is not sure there
    """

    how: How
    what: str
    vcpu: str
    cpu: int
    ts_ns: int
    marked: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """Loads and puts of vCPU threads, by probes and by inference.

    seen           how many the probes saw of vCPUs by their own threads
    other_threads  how many by other threads: when a VM is made or destroyed, and by
                   ioctls of the VMM
    agree          how many were inferred at the same place, on the same pCPU
    flags          puts inferred at their place whose preempted and blocking flags a
                   probe read
    differences    by vCPU, then time
    """

    seen: int
    other_threads: int
    agree: int
    flags: int
    differences: tuple[Difference, ...]

    def count(self, *hows: How, marked: bool | None = None) -> int:
        """How many differences are of these kinds; `marked` as given, None: both."""
        return sum(
            d.how in hows and marked in (None, d.marked) for d in self.differences
        )


@dataclass(slots=True)
class _Changes:
    """Loads and puts of vCPU threads, thread after thread, in order.

    vcpu    int64[n]
    row     int64[n]  of EVENTS
    is_put  bool[n]
    cpu     int32[n]
    flags   int8[n]   _PREEMPTED | _BLOCKING of a put, -1: a load, or not read
    certain bool[n]
    """

    vcpu: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    is_put: npt.NDArray[np.bool_]
    cpu: npt.NDArray[np.int32]
    flags: npt.NDArray[np.int8]
    certain: npt.NDArray[np.bool_]


def agreement(events: Events, ignore: tuple[str, ...] = ()) -> Agreement | None:
    """Compare a trace's probes with what its stock events alone let us infer.

    `ignore` are patterns of more events to infer without, as in sources.raw.Wanted.
    None for a trace without probes on both functions.

    Raises UnanswerableError for a trace that has no timeline at all.
    """
    probes = find_probes(events)
    entries = [p for p in probes if not p.at_return]
    if {p.what for p in entries} != {"load", "put"}:
        return None
    stock, kept = _without(events, _probe_names(events) + ignore)
    timeline = build_timeline(stock)
    seen, others = _seen(events, timeline, entries)
    inferred = _inferred(timeline, kept)
    # a load is as sure as the absence that it ends
    loads = ~inferred.is_put
    inferred.certain[loads] &= _sure_of(timeline, events, inferred, before_ns=1)[loads]
    match = _matches(seen, inferred, len(events))

    found = np.flatnonzero(match >= 0)
    at = match[found]
    wrong_cpu = seen.cpu[at] != inferred.cpu[found]
    read = (seen.flags[at] != _NOT_READ) & seen.is_put[at]
    wrong_flags = read & (seen.flags[at] != inferred.flags[found])
    missed = np.ones(len(seen.row), np.bool_)
    missed[at] = False
    seen.certain[missed] = _sure_of(timeline, events, seen)[missed]
    # a difference at a place that both have is as sure as the inference there
    seen.certain[at] = inferred.certain[found]
    differences: list[Difference] = []
    for how, where, which in (
        ("missing", seen, np.flatnonzero(missed)),
        ("extra", inferred, np.flatnonzero(match < 0)),
        ("wrong-cpu", seen, at[wrong_cpu]),
        ("wrong-flags", seen, at[wrong_flags]),
    ):
        differences += _differences(how, where, which, events, timeline)  # type: ignore[arg-type]
    return Agreement(
        seen=len(seen.row),
        other_threads=others,
        agree=int((~wrong_cpu).sum()),
        flags=int(read.sum()),
        differences=tuple(sorted(differences, key=lambda d: (d.vcpu, d.ts_ns, d.how))),
    )


def _differences(
    how: How,
    where: _Changes,
    which: npt.NDArray[np.int64],
    events: Events,
    timeline: Timeline,
) -> list[Difference]:
    return [
        Difference(
            how=how,
            what="put" if where.is_put[i] else "load",
            vcpu=timeline.vcpus.rows[where.vcpu[i]].label,
            cpu=int(where.cpu[i]),
            ts_ns=int(events.ts_ns[where.row[i]]),
            marked=not where.certain[i],
        )
        for i in which.tolist()
    ]


def stock_events(events: Events, ignore: tuple[str, ...] = ()) -> Events:
    """The events as if the trace held no probes, nor what matches a pattern."""
    return _without(events, _probe_names(events) + ignore)[0]


def _probe_names(events: Events) -> tuple[str, ...]:
    return tuple(p.event for p in find_probes(events))


def _without(
    events: Events, ignore: tuple[str, ...]
) -> tuple[Events, npt.NDArray[np.int64]]:
    """Fewer events, and for each of their rows the row of `events`."""
    wanted = Wanted({}, ignore=ignore)
    absent = np.array([wanted.ignored(*name) for name in events.names], np.bool_)
    kept = np.flatnonzero(~absent[events.event])
    payload = {
        index: Payload(np.searchsorted(kept, p.rows), p.columns, p.valid)
        for index, p in events.payload.items()
        if not absent[index]
    }
    counts = {
        key: count
        for key, count in events.counts.items()
        if not wanted.ignored(*key.split(":", 1))
    }
    fewer = replace(
        events,
        ts_ns=events.ts_ns[kept],
        cpu=events.cpu[kept],
        tid=events.tid[kept],
        flags=events.flags[kept],
        event=events.event[kept],
        payload=payload,
        counts=counts,
    )
    return fewer, kept


def _seen(
    events: Events, timeline: Timeline, probes: list[Probe]
) -> tuple[_Changes, int]:
    """What the probes saw of vCPU threads, and how often they saw other threads."""
    own = np.zeros(len(events), np.bool_)
    for probe in probes:
        rows = events.rows(probe.event)
        thread = timeline.vcpus.of_tid(events.tid[rows])
        own[rows] = thread == probed_vcpus(events, timeline.vcpus, probe)
        own[rows] &= thread >= 0
    parts: list[_Changes] = []
    others = 0
    for what in ("load", "put"):
        hits = probe_columns(events, probes, what, at_return=False)
        assert hits is not None
        mine = own[hits.rows]
        others += int((~mine).sum())
        rows = hits.rows[mine]
        vcpu = timeline.vcpus.of_tid(events.tid[rows])
        parts.append(
            _Changes(
                vcpu=vcpu.astype(np.int64),
                row=rows,
                is_put=np.full(len(rows), what == "put"),
                cpu=events.cpu[rows],
                flags=_flags_read(hits)[mine],
                certain=np.ones(len(rows), np.bool_),
            )
        )
    return _in_order(parts), others


def _flags_read(hits: ProbeColumns) -> npt.NDArray[np.int8]:
    if hits.preempted is None or hits.blocking is None:
        return np.full(len(hits.rows), _NOT_READ, np.int8)
    flags = hits.preempted * _PREEMPTED + hits.blocking * _BLOCKING
    return flags.astype(np.int8)


def _inferred(timeline: Timeline, kept: npt.NDArray[np.int64]) -> _Changes:
    """What the timeline without probes has; its rows become rows of all events."""
    acts, w = timeline.acts, timeline.windows
    loads = np.flatnonzero((acts.act & Act.LOAD) != 0)
    return _in_order(
        [
            _Changes(
                vcpu=acts.vcpu[loads].astype(np.int64),
                row=kept[acts.row[loads]],
                is_put=np.zeros(len(loads), np.bool_),
                cpu=acts.cpu[loads],
                flags=np.full(len(loads), _NOT_READ, np.int8),
                certain=(acts.act[loads] & Act.UNSURE) == 0,
            ),
            _Changes(
                vcpu=w.vcpu.astype(np.int64),
                row=kept[w.put_row],
                is_put=np.ones(len(w), np.bool_),
                cpu=w.put_cpu,
                flags=_FLAGS_OF[w.reason],
                certain=w.certain,
            ),
        ]
    )


def _in_order(parts: list[_Changes]) -> _Changes:
    """All parts by vCPU, then row; of one row, in the order of the parts."""
    vcpu = np.concatenate([p.vcpu for p in parts])
    row = np.concatenate([p.row for p in parts])
    order = np.lexsort((row, vcpu))
    return _Changes(
        *(
            np.concatenate([getattr(p, f.name) for p in parts])[order]
            for f in fields(_Changes)
        )
    )


def _matches(
    seen: _Changes, inferred: _Changes, n_events: int
) -> npt.NDArray[np.int64]:
    """int64[inferred]: which of the seen ones each inferred one means, or -1.

    Where two mean the same, the second is one too many.
    """
    n = len(seen.row)
    match = np.full(len(inferred.row), -1, np.int64)
    if not n:
        return match
    behind = np.searchsorted(
        seen.vcpu * n_events + seen.row, inferred.vcpu * n_events + inferred.row
    )
    for neighbor in (behind - 1, behind):
        at = np.clip(neighbor, 0, n - 1)
        fits = (neighbor == at) & (match < 0)
        fits &= seen.vcpu[at] == inferred.vcpu
        fits &= seen.is_put[at] == inferred.is_put
        match[fits] = at[fits]
    taken, first = np.unique(match, return_index=True)
    only = np.full(len(match), -1, np.int64)
    only[first] = taken
    return only


def _sure_of(
    timeline: Timeline, events: Events, changes: _Changes, before_ns: int = 0
) -> npt.NDArray[np.bool_]:
    """Whether the timeline claims to know what each vCPU did there, or before it."""
    i = timeline.intervals
    base, end = timeline.span_ns
    span = end - base + 2
    key = i.vcpu.astype(np.int64) * span + (i.start_ns - base)
    ts_ns = events.ts_ns[changes.row] - before_ns
    wanted = changes.vcpu * span + np.clip(ts_ns, base, end) - base
    at = np.searchsorted(key, wanted, side="right") - 1
    sure: npt.NDArray[np.bool_] = i.certain[at] & (i.kind[at] != Kind.UNKNOWN)
    return sure & (base <= ts_ns) & (ts_ns <= end)
