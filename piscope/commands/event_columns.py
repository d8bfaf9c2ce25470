"""A chunk of events as an Arrow table, for Parquet and CSV.

    | ts_ns | cpu | seq | tid | comm | flags | system | event | vcpu_id | ... | fields |
      what every event has                                      typed        the rest

The kernel fields that piscope itself reads (piscope/events/catalog.py) have a typed,
nullable column each, filled from the catalog's events only. All other fields are a
JSON object in `fields`: which ones there are differs from kernel to kernel, and a
file's columns must be known before its first row is written.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from piscope.commands.event_text import comm_of, json_fields
from piscope.events.catalog import CATALOG
from piscope.sources.raw import Array, Payload, RawChunk, Source, TraceInfo

__all__ = ("TYPED_FIELDS", "event_schema", "event_table")

_UNSIGNED = {"address", "cmd", "data", "info2", "pi_desc_addr", "val"}
# u64 and unsigned long in the kernel; every other integer fits in int64.
_TEXT = {"name"}

TYPED_FIELDS: dict[str, pa.DataType] = {
    name: pa.uint64()
    if name in _UNSIGNED
    else pa.string()
    if name in _TEXT
    # one type for a name, although its width differs from event to event
    else pa.int64()
    for tracepoint in CATALOG
    for name in tracepoint.fields
}
"""Kernel field -> type of its column, in the order of the catalog."""

_CATALOG_EVENTS = {t.name: frozenset(t.fields) for t in CATALOG}

_BASE: tuple[tuple[str, pa.DataType, str], ...] = (
    (
        "ts_ns",
        pa.int64(),
        "trace clock; ns unless the metadata has another ts_unit",
    ),
    ("cpu", pa.int32(), "physical CPU that recorded the event"),
    ("seq", pa.int64(), "number of the event within its CPU's buffer, file or text"),
    ("tid", pa.int32(), "thread that ran"),
    ("comm", pa.string(), "last known name of that thread; null: unknown"),
    (
        "flags",
        pa.uint8(),
        "common_flags: 1 IRQs off, 8 hardirq, 16 softirq",
    ),
    ("system", pa.string(), "tracepoint's system; null: a text does not tell"),
    ("event", pa.string(), "tracepoint's name"),
)


def event_schema(info: TraceInfo) -> pa.Schema:
    """The columns of every file of events; what the trace says of itself is metadata.

    The schema's metadata has one key, `piscope`: JSON of the trace's format,
    kernel_release, clock, ts_unit and ts_resolution_ns.
    """
    about = {
        "format": info.format,
        "kernel_release": info.kernel_release,
        "clock": info.clock,
        "ts_unit": info.ts_unit,
        "ts_resolution_ns": info.ts_resolution_ns,
    }
    columns = [
        *_BASE,
        *((n, t, f"kernel field {n}") for n, t in TYPED_FIELDS.items()),
        ("fields", pa.string(), "the event's other fields, a JSON object"),
    ]
    return pa.schema(
        [pa.field(n, t, metadata={"meaning": meaning}) for n, t, meaning in columns],
        metadata={"piscope": json.dumps(about)},
    )


def event_table(chunk: RawChunk, source: Source, schema: pa.Schema) -> pa.Table:
    """One row an event, in the chunk's order, with the columns of `event_schema`.

    Null where the event has no such field, or its record lacks it. A typed field
    whose value does not fit its column (a text's name where binary traces have a
    number) is in `fields` instead.
    """
    n = len(chunk)
    columns: dict[str, Any] = {
        "ts_ns": chunk.ts_ns,
        "cpu": chunk.cpu,
        "seq": chunk.seq,
        "tid": chunk.tid,
        "comm": _comms(chunk, source),
        "flags": chunk.flags if source.info.events_flags else pa.nulls(n, pa.uint8()),
        "system": _of_event(chunk, [system or None for system, _ in source.events]),
        "event": _of_event(chunk, [name for _, name in source.events]),
    }
    typed: dict[str, list[tuple[npt.NDArray[np.int64], Array]]] = {}
    rest = np.full(n, None, object)
    for index, payload in chunk.payload.items():
        other = _split(payload, source.events[index][1], typed)
        if other.columns:
            rest[other.rows] = json_fields(other)
    for name in TYPED_FIELDS:
        columns[name] = _typed_column(name, typed.get(name, []), n)
    columns["fields"] = pa.array(rest, pa.string())
    return pa.Table.from_arrays(
        [pa.array(columns[f.name], f.type) for f in schema], schema=schema
    )


def _split(
    payload: Payload,
    event: str,
    typed: dict[str, list[tuple[npt.NDArray[np.int64], Array]]],
) -> Payload:
    # Moves what has a column of its own to `typed` and gives the others.
    others: dict[str, Array] = {}
    for name, values in payload.columns.items():
        if name not in _CATALOG_EVENTS.get(event, ()) or not _fits(name, values):
            others[name] = values
            continue
        known = payload.valid.get(name)
        if known is None:
            typed.setdefault(name, []).append((payload.rows, values))
        else:
            typed.setdefault(name, []).append((payload.rows[known], values[known]))
    return Payload(
        payload.rows, others, {n: v for n, v in payload.valid.items() if n in others}
    )


def _fits(name: str, values: Array) -> bool:
    if name in _TEXT:
        return values.dtype.kind in "SO"
    if values.dtype.kind not in "iu":
        return False
    if not len(values):
        return True
    if name in _UNSIGNED:
        return bool(values.min() >= 0)
    return bool(values.max() <= np.iinfo(np.int64).max)


def _typed_column(
    name: str, parts: list[tuple[npt.NDArray[np.int64], Array]], n: int
) -> pa.Array:
    if not parts:
        return pa.nulls(n, TYPED_FIELDS[name])
    if name in _TEXT:
        texts = np.full(n, None, object)
        for rows, values in parts:
            texts[rows] = [
                v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)
                for v in values.tolist()
            ]
        return pa.array(texts, pa.string())
    numbers = np.zeros(n, np.uint64 if name in _UNSIGNED else np.int64)
    missing = np.ones(n, np.bool_)
    for rows, values in parts:
        numbers[rows] = values
        missing[rows] = False
    return pa.array(numbers, mask=missing)


def _comms(chunk: RawChunk, source: Source) -> pa.Array:
    tids, index = np.unique(chunk.tid, return_inverse=True)
    names = [comm_of(source.info.comms, tid) for tid in tids.tolist()]
    return _looked_up(names, index)


def _of_event(chunk: RawChunk, names: list[str | None]) -> pa.Array:
    return _looked_up(names, chunk.event)


def _looked_up(names: list[str | None], index: Array) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(index))
