"""What the probes read, vCPU after vCPU, each in the order of its life.

    ctl, 64 bits at PID+32:  [ NDST 63:32 |  | NV 23:16 |  | SN 1 | ON 0 ]

A hit that read no control word still tells that a load or put was there; it keeps the
chain together, and two readings are compared across it. Where a hit is missing, where
events were lost, or where a probe hit a vCPU that can't be told, the chain is cut: what
lies across a cut is counted, not compared.

Source: arch/x86/include/asm/posted_intr.h (struct pi_desc).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.verify.probe_names import Point, point_of_event

__all__ = ("CUTS", "UNREAD", "Hits", "read_hits")

UNREAD = -1
"""An argument that a probe does not have; vcpu_cpu has -2, since -1 is KVM's."""

_VCPU_CPU_UNREAD = -2


@dataclass(slots=True)
class Hits:
    """All probe hits, by vCPU, then by row.

    row        int64[n]  of EVENTS
    ts_ns      int64[n]
    vcpu       int32[n]  of VCPUS
    named      int64[n]  the argument `vcpu`, vcpu_id or address; UNREAD
    cpu        int32[n]  the pCPU it ran on
    point      uint8[n]  Point
    read       bool[n]   the control word was read
    ctl        uint64[n]
    ndst_read  bool[n]   its upper half too
    pir        uint64[n, 4]
    pir_read   bool[n]
    preempted  int8[n]   at PUT: 0, 1 or UNREAD
    blocking   int8[n]   likewise
    vcpu_cpu   int32[n]  at LOAD: vcpu->cpu, the pCPU of the last load, -1 before the
                         first one; -2: not read
    joined     bool[n]   nothing is missing between the hit before, of this vCPU, and
                         this one
    cut_by     uint8[n]  where not joined: Cut
    """

    row: npt.NDArray[np.int64]
    ts_ns: npt.NDArray[np.int64]
    vcpu: npt.NDArray[np.int32]
    named: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    point: npt.NDArray[np.uint8]
    read: npt.NDArray[np.bool_]
    ctl: npt.NDArray[np.uint64]
    ndst_read: npt.NDArray[np.bool_]
    pir: npt.NDArray[np.uint64]
    pir_read: npt.NDArray[np.bool_]
    preempted: npt.NDArray[np.int8]
    blocking: npt.NDArray[np.int8]
    vcpu_cpu: npt.NDArray[np.int32]
    joined: npt.NDArray[np.bool_]
    cut_by: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def on(self) -> npt.NDArray[np.bool_]:
        """bool[n]: ON."""
        return _bit(self.ctl, 0)

    @property
    def sn(self) -> npt.NDArray[np.bool_]:
        """bool[n]: SN."""
        return _bit(self.ctl, 1)

    @property
    def nv(self) -> npt.NDArray[np.int16]:
        """int16[n]: NV."""
        return ((self.ctl >> np.uint64(16)) & np.uint64(0xFF)).astype(np.int16)

    @property
    def ndst(self) -> npt.NDArray[np.int64]:
        """int64[n]: NDST as it stands in the descriptor, an APIC id in either form."""
        return (self.ctl >> np.uint64(32)).astype(np.int64)


def _bit(ctl: npt.NDArray[np.uint64], bit: int) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = (ctl >> np.uint64(bit)) & np.uint64(1) != 0
    return result


CUTS = ("begins", "lost events", "missing hit", "unknown vCPU", "created anew")
"""Why a hit is not joined to the one before, by `cut_by`."""

_BEGINS, _LOST, _MISSING, _UNKNOWN_VCPU, _CREATED = range(len(CUTS))


def read_hits(
    events: Events,
    vcpus: Vcpus,
    blind: npt.NDArray[np.int64],
    vcpu_of: Callable[[str], npt.NDArray[np.int32]],
) -> tuple[Hits, int]:
    """The probe hits of a trace, and how many were of vCPUs that can't be told.

    `blind` are the rows from which events are missing, as Timeline.blind; `vcpu_of`
    gives the vCPU (-1: not known) of each row of an event, by its name.
    """
    points: dict[str, Point] = {}
    for system, name in events.names:
        point = point_of_event(name)
        if point is not None and events.counts.get(f"{system}:{name}"):
            points[name] = point
    parts = [_hits_of(events, name, p, vcpu_of(name)) for name, p in points.items()]
    if not parts:
        return _empty(), 0
    hits = Hits(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Hits))
    )
    _returns_by_their_entries(events, hits)
    unknown = np.flatnonzero(hits.vcpu < 0)
    strays = _strays(hits, vcpus, unknown)
    order = np.lexsort((hits.row, hits.vcpu))
    order = order[hits.vcpu[order] >= 0]
    hits = _taken(hits, order)
    hits = _taken(hits, _usable(hits))
    _join(hits, blind, strays)
    return hits, len(unknown)


def _empty() -> Hits:
    none = np.empty(0, np.int64)
    return Hits(
        row=none,
        ts_ns=none,
        vcpu=none.astype(np.int32),
        named=none,
        cpu=none.astype(np.int32),
        point=none.astype(np.uint8),
        read=none.astype(np.bool_),
        ctl=none.astype(np.uint64),
        ndst_read=none.astype(np.bool_),
        pir=np.empty((0, 4), np.uint64),
        pir_read=none.astype(np.bool_),
        preempted=none.astype(np.int8),
        blocking=none.astype(np.int8),
        vcpu_cpu=none.astype(np.int32),
        joined=none.astype(np.bool_),
        cut_by=none.astype(np.uint8),
    )


def _taken(hits: Hits, which: Array) -> Hits:
    return Hits(*(getattr(hits, f.name)[which] for f in fields(Hits)))


def _hits_of(events: Events, name: str, point: Point, vcpu: Array) -> Hits:
    rows = events.rows(name)
    n = len(rows)

    def column(key: str, dtype: npt.DTypeLike) -> tuple[Array, Array]:
        values = events.column(name, key, dtype)
        if values is None:
            return np.zeros(n, dtype), np.zeros(n, np.bool_)
        return values, events.valid(name, key)

    ctl, read = column("ctl", np.uint64)
    ndst, ndst_read = column("ndst", np.uint64)
    ctl = np.where(
        ndst_read, (ctl & np.uint64(0xFFFFFFFF)) | ndst << np.uint64(32), ctl
    )
    words = [column(f"pir{i}", np.uint64) for i in range(4)]
    preempted, preempted_read = column("preempted", np.uint64)
    blocking, blocking_read = column("blocking", np.uint64)
    vcpu_cpu, vcpu_cpu_read = column("vcpu_cpu", np.int64)
    named, named_read = column("vcpu", np.int64)
    at_put, at_load = point is Point.PUT, point is Point.LOAD
    return Hits(
        row=rows,
        ts_ns=events.ts_ns[rows],
        vcpu=vcpu.astype(np.int32),
        named=np.where(named_read, named, UNREAD),
        cpu=events.cpu[rows],
        point=np.full(n, point, np.uint8),
        read=read,
        ctl=ctl,
        ndst_read=ndst_read | (read & (_width_bytes(events, name) == 8)),
        pir=np.stack([word for word, _ in words], axis=1),
        pir_read=np.logical_and.reduce([known for _, known in words]),
        preempted=np.where(preempted_read & at_put, preempted != 0, UNREAD).astype(
            np.int8
        ),
        blocking=np.where(blocking_read & at_put, blocking != 0, UNREAD).astype(
            np.int8
        ),
        vcpu_cpu=np.where(
            vcpu_cpu_read & at_load, np.clip(vcpu_cpu, -1, 1 << 20), _VCPU_CPU_UNREAD
        ).astype(np.int32),
        joined=np.zeros(n, np.bool_),
        cut_by=np.zeros(n, np.uint8),
    )


def _width_bytes(events: Events, name: str) -> int:
    """The least width of the control word as recorded: 4 bytes hold no NDST."""
    widths = [
        p.columns["ctl"].dtype.itemsize
        for index, p in events.payload.items()
        if events.names[index][1] == name and "ctl" in p.columns
    ]
    return min(widths, default=0)


def _returns_by_their_entries(events: Events, hits: Hits) -> None:
    """A return is of the vCPU whose entry its thread traced last.

    A return probe often has no argument to tell; preemption is off in between.
    """
    tid = events.tid[hits.row].astype(np.int64)
    order = np.lexsort((hits.row, tid))
    point, vcpu = hits.point[order], hits.vcpu[order]
    same_thread = np.zeros(len(order), np.bool_)
    same_thread[1:] = tid[order][1:] == tid[order][:-1]
    for entry, done in ((Point.LOAD, Point.LOAD_DONE), (Point.PUT, Point.PUT_DONE)):
        mine = np.flatnonzero((point == done) & same_thread)
        mine = mine[point[mine - 1] == entry]
        vcpu[mine] = vcpu[mine - 1]
    hits.vcpu[order] = vcpu


def _strays(hits: Hits, vcpus: Vcpus, unknown: Array) -> tuple[Array, Array]:
    """vCPUs and rows: each hit of an unknown vCPU, for all that it may have been."""
    row, named = hits.row[unknown], hits.named[unknown]
    vcpu_parts, row_parts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for vcpu in vcpus.rows:
        maybe = (named == UNREAD) | (vcpu.vcpu_id is None) | (named == vcpu.vcpu_id)
        row_parts.append(row[maybe])
        vcpu_parts.append(np.full(int(maybe.sum()), vcpu.vcpu))
    return np.concatenate(vcpu_parts), np.concatenate(row_parts)


def _usable(hits: Hits) -> Array:
    """All but those SYNC hits that were not of a loaded vCPU's own thread."""
    other = np.flatnonzero(hits.point != Point.SYNC)
    sync = np.flatnonzero(hits.point == Point.SYNC)
    usable = np.ones(len(hits), np.bool_)
    if len(sync):
        before = np.searchsorted(other, sync) - 1
        last = other[np.maximum(before, 0)] if len(other) else np.zeros_like(sync)
        ok = (before >= 0) & (hits.vcpu[last] == hits.vcpu[sync])
        ok &= (hits.point[last] == Point.LOAD) | (hits.point[last] == Point.LOAD_DONE)
        ok &= hits.cpu[last] == hits.cpu[sync]
        usable[sync] = ok
    return np.flatnonzero(usable)


def _join(hits: Hits, blind: Array, strays: tuple[Array, Array]) -> None:
    """Tell where each vCPU's chain holds together, and what cuts it elsewhere."""
    n = len(hits)
    if not n:
        return
    cut = np.zeros(n, np.uint8)
    joined = np.zeros(n, np.bool_)
    joined[1:] = hits.vcpu[1:] == hits.vcpu[:-1]
    previous = np.maximum(np.arange(n) - 1, 0)

    def cuts(where: Array, why: int) -> None:
        cut[joined & where] = why
        joined[joined & where] = False

    # a row in [first, end) lacks events of some pCPU; an empty range: between two
    begun = np.searchsorted(blind[:, 0], hits.row, side="right")
    over = np.searchsorted(blind[:, 1], hits.row[previous], side="right")
    cuts(begun > over, _LOST)
    stray_vcpu, stray_row = strays
    span = int(max(hits.row.max(), stray_row.max(initial=0))) + 2
    key = np.sort(stray_vcpu * span + stray_row)
    here = np.searchsorted(key, hits.vcpu.astype(np.int64) * span + hits.row)
    cuts(here != np.append(0, here[:-1]), _UNKNOWN_VCPU)
    cuts((hits.point == Point.LOAD) & (hits.vcpu_cpu == -1), _CREATED)
    cuts(~_follows(hits), _MISSING)
    hits.joined, hits.cut_by = joined, cut


def _follows(hits: Hits) -> npt.NDArray[np.bool_]:
    """Whether each hit is the one that comes next of the points that are probed."""
    probed = sorted({int(p) for p in np.unique(hits.point)} - {Point.SYNC})
    after = np.full(len(Point), -1, np.int64)
    for here, following in zip(probed, [*probed[1:], *probed[:1]], strict=True):
        after[here] = following
    result = np.ones(len(hits), np.bool_)
    sync = hits.point == Point.SYNC
    chain = np.flatnonzero(~sync)
    # SYNC hits lie behind a load, as `_usable` has seen to
    follows = np.ones(len(chain), np.bool_)
    follows[1:] = after[hits.point[chain[:-1]]] == hits.point[chain[1:]]
    # a SYNC behind an entry whose return is probed: the return is missing
    result[chain] = follows
    between = np.searchsorted(chain, np.flatnonzero(sync)) - 1
    if len(between) and Point.LOAD_DONE in probed:
        result[sync] = hits.point[chain[np.maximum(between, 0)]] != Point.LOAD
    return result
