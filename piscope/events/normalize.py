"""The events of a trace as one table in time order, ready for the timeline.

EVENTS is kept by columns, with each event's own fields apart: one wide table
would be mostly nulls (a sched_switch has no vcpu_id), and ten million rows of
it would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array, Payload, RawChunk, Source, Wanted
from piscope.tables import Events

__all__ = ("collect",)


def collect(source: Source, wanted: Wanted, tsc_khz: int | None = None) -> Events:
    """Read the wanted events of a source into one table in time order.

    Events with the same instant keep the order of their pCPU numbers, then of
    their buffers. Memory is about 20 bytes an event and its decoded fields.

    `tsc_khz` turns the cycles of a raw x86-tsc trace into ns; a trace that is in ns
    already is left alone.
    """
    chunks = [chunk for chunk in source.chunks(wanted) if len(chunk)]
    events = _assemble(chunks, source)
    if tsc_khz is not None and events.info.ts_unit == "cycles":
        events.ts_ns = _cycles_to_ns(events.ts_ns, tsc_khz)
        events.losses = [
            replace(
                loss,
                start_ns=_instant(loss.start_ns, tsc_khz),
                end_ns=_instant(loss.end_ns, tsc_khz),
            )
            for loss in events.losses
        ]
        events.info = replace(events.info, ts_unit="ns")
    return events


def _cycles_to_ns(cycles: Array, tsc_khz: int) -> Array:
    # ns = cycles * 10**6 / kHz; the product alone would not fit 64 bits
    whole, rest = np.divmod(cycles, tsc_khz)
    result: Array = whole * 1_000_000 + rest * 1_000_000 // tsc_khz
    return result


def _instant(cycles: int | None, tsc_khz: int) -> int | None:
    return None if cycles is None else cycles * 1_000_000 // tsc_khz


def _assemble(chunks: list[RawChunk], source: Source) -> Events:
    def joined(column: str, dtype: npt.DTypeLike) -> Array:
        arrays = [getattr(c, column) for c in chunks]
        return np.concatenate(arrays) if arrays else np.empty(0, dtype)

    ts_ns = joined("ts_ns", np.int64)
    cpu = joined("cpu", np.int32)
    order = _time_order(ts_ns, cpu, joined("seq", np.int64))
    place: Array | None = None
    if order is not None:
        ts_ns, cpu = ts_ns[order], cpu[order]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))

    def column(name: str, dtype: npt.DTypeLike) -> Array:
        whole = joined(name, dtype)
        return whole if order is None else whole[order]

    return Events(
        ts_ns=ts_ns,
        cpu=cpu,
        tid=column("tid", np.int32),
        flags=column("flags", np.uint8),
        event=column("event", np.uint16),
        names=list(source.events),
        payload=dict(_payloads(chunks, place)),
        info=source.info,
        losses=list(source.losses),
        counts=dict(source.counts),
    )


def _time_order(ts_ns: Array, cpu: Array, seq: Array) -> Array | None:
    """The stable order by (ts, cpu, seq); None where the rows have it already."""
    if len(ts_ns) < 2:
        return None
    step = np.diff(ts_ns)
    tie = step == 0
    if not (step < 0).any() and not (tie & (np.diff(cpu) < 0)).any():
        return None
    # Chunks keep the order within a pCPU, so two stable sorts do: the first puts
    # each pCPU's rows together, which leaves few long runs to merge by time.
    by_cpu = np.argsort(cpu.astype(np.uint16), kind="stable")
    if (np.diff(ts_ns[by_cpu])[np.diff(cpu[by_cpu]) == 0] < 0).any():
        # perf.data: file order is not time order, nor is it within a pCPU
        return np.lexsort((seq, cpu, ts_ns))
    result: Array = by_cpu[np.argsort(ts_ns[by_cpu], kind="stable")]
    return result


def _payloads(
    chunks: list[RawChunk], place: Array | None
) -> Iterator[tuple[int, Payload]]:
    """Each event's fields over all chunks, rows renumbered to the whole table."""
    starts = np.cumsum([0, *(len(c) for c in chunks)])
    for index in sorted({i for c in chunks for i in c.payload}):
        parts = [
            (start, c.payload[index])
            for start, c in zip(starts, chunks, strict=False)
            if index in c.payload
        ]
        rows = np.concatenate([p.rows + start for start, p in parts])
        order: Array | None = None
        if place is not None:
            rows = place[rows]
            if (np.diff(rows) < 0).any():
                order = np.argsort(rows, kind="stable")
                rows = rows[order]
        columns: dict[str, Array] = {}
        valid: dict[str, npt.NDArray[np.bool_]] = {}
        for name in sorted({n for _, p in parts for n in p.columns}):
            whole, known = _column(name, [p for _, p in parts])
            columns[name] = whole if order is None else whole[order]
            if not known.all():
                valid[name] = known if order is None else known[order]
        yield index, Payload(rows, columns, valid)


def _column(name: str, parts: list[Payload]) -> tuple[Array, npt.NDArray[np.bool_]]:
    # Only texts change from chunk to chunk: a key may be missing from some lines.
    first = next(p.columns[name] for p in parts if name in p.columns)
    arrays, known = [], []
    for p in parts:
        m = len(p.rows)
        if name in p.columns:
            arrays.append(p.columns[name])
            known.append(p.valid.get(name, np.ones(m, np.bool_)))
        else:
            arrays.append(np.zeros(m, first.dtype))
            known.append(np.zeros(m, np.bool_))
    return np.concatenate(arrays), np.concatenate(known)
