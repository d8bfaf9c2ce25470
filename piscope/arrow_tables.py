"""The tables of an analysis as Arrow tables, as `schema` declares them.

Numbers become null where piscope holds -1 for unknown, enumerations become names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from piscope import schema
from piscope.model.letters import Letter
from piscope.origins import Evidence, Given, Origin, Target
from piscope.outcomes import Hit, PolicyResult, Row
from piscope.pipeline import Analysis
from piscope.schema import KERNEL_FIELDS, TABLES, arrow_schema
from piscope.sources.raw import Array, Loss
from piscope.tables import (
    Events,
    Intervals,
    Kind,
    Posts,
    PutReason,
    Timeline,
    Vcpus,
    Windows,
)

__all__ = ("EVENTS_AT_ONCE", "arrow_table", "event_tables", "listed_posts")

EVENTS_AT_ONCE = 1 << 18
"""Rows of EVENTS in each of `event_tables`: most of its columns are nulls."""


def arrow_table(analysis: Analysis, name: str) -> pa.Table:
    """One table of an analysis, checked against its declaration.

    Raises KeyError for a name that is no table.
    """
    declared = TABLES[name]
    timeline = analysis.timeline
    if name == "EVENTS":
        return pa.concat_tables(event_tables(analysis.events))
    columns = {
        "LOSSES": lambda: _losses(analysis.events.losses),
        "VCPUS": lambda: _vcpus(timeline.vcpus),
        "INTERVALS": lambda: _intervals(timeline.intervals),
        "WINDOWS": lambda: _windows(timeline.windows),
        "POSTS": lambda: _posts(timeline.posts),
        "STIMULI": lambda: _stimuli(analysis),
        "FINDINGS": lambda: _findings(analysis.results),
    }[name]()
    return _made(declared, columns)


def event_tables(events: Events) -> Iterator[pa.Table]:
    """EVENTS in pieces of at most EVENTS_AT_ONCE rows; at least one, maybe empty."""
    for begin in range(0, max(len(events), 1), EVENTS_AT_ONCE):
        end = min(begin + EVENTS_AT_ONCE, len(events))
        yield _made(TABLES["EVENTS"], _events(events, begin, end))


def _made(declared: schema.Table, columns: Mapping[str, Any]) -> pa.Table:
    shape = arrow_schema(declared)
    arrays = [
        column
        if isinstance(column := columns[field.name], (pa.Array, pa.ChunkedArray))
        else pa.array(column, field.type)
        for field in shape
    ]
    return schema.check(declared.name, pa.Table.from_arrays(arrays, schema=shape))


def _known(values: Array) -> pa.Array:
    """The numbers, null where they are -1."""
    return pa.array(values, mask=values == -1)


def _flag(values: Array) -> pa.Array:
    """int8 of 1, 0 and -1 as true, false and null."""
    return pa.array(values == 1, mask=values == -1)


def _coded(
    codes: Array, names: Sequence[str], null: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int16), mask=null), pa.array(names, pa.string())
    )


def _named(codes: Array, enum: type[IntEnum]) -> pa.Array:
    """Numbers of an enumeration without holes, as its names."""
    return _coded(codes, [_label(member) for member in enum])


def _label(member: IntEnum) -> str:
    label = getattr(member, "label", None)
    return label if isinstance(label, str) else member.name.lower().replace("_", "-")


def _words(words: Sequence[str]) -> pa.Array:
    return (
        pa.array(words, pa.string())
        .dictionary_encode()
        .cast(pa.dictionary(pa.int16(), pa.string()))
    )


def _same_names(rows: object, *names: str) -> dict[str, Any]:
    return {name: getattr(rows, name) for name in names}


def _events(events: Events, begin: int, end: int) -> dict[str, Any]:
    here = slice(begin, end)
    code = events.event[here]
    systems = [system for system, _ in events.names]
    told = np.array([bool(system) for system in systems] or [False], np.bool_)
    flags = events.flags[here]
    columns: dict[str, Any] = {
        "row": np.arange(begin, end),
        "ts_ns": events.ts_ns[here],
        "cpu": events.cpu[here],
        "tid": events.tid[here],
        "flags": (
            flags if events.info.events_flags else pa.nulls(end - begin, pa.uint8())
        ),
        "system": _coded(code, systems, ~told[code]),
        "event": _coded(code, [event for _, event in events.names]),
    }
    for name in KERNEL_FIELDS:
        columns[name] = _field(events, name, begin, end)
    return columns


def _field(events: Events, name: str, begin: int, end: int) -> pa.Array:
    unsigned = name in ("address", "data")
    values = np.zeros(end - begin, np.uint64 if unsigned else np.int64)
    missing = np.ones(end - begin, np.bool_)
    for payload in events.payload.values():
        column = payload.columns.get(name)
        if column is None or column.dtype.kind not in "iub":
            continue
        first, last = np.searchsorted(payload.rows, (begin, end))
        at = payload.rows[first:last] - begin
        values[at] = column[first:last].astype(values.dtype)
        valid = payload.valid.get(name)
        missing[at] = False if valid is None else ~valid[first:last]
    return pa.array(values, mask=missing)


def _losses(losses: Sequence[Loss]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        f.name: [getattr(loss, f.name) for loss in losses] for f in fields(Loss)
    }
    # what a detail quotes of a damaged file may be no text
    columns["detail"] = [_text(detail) for detail in columns["detail"]]
    columns["cause"] = _words(columns["cause"])
    return columns


def _text(text: str | None) -> str | None:
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _vcpus(vcpus: Vcpus) -> dict[str, Any]:
    names = [c.name for c in TABLES["VCPUS"].columns]
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in vcpus.rows] for name in names
    }
    columns["comm"] = [_text(comm) for comm in columns["comm"]]
    columns["evidence"] = _words(columns["evidence"])
    return columns


def _intervals(rows: Intervals) -> dict[str, Any]:
    return {
        **_same_names(rows, "vcpu", "start_ns", "end_ns", "certain"),
        "kind": _named(rows.kind, Kind),
        "cpu": _known(rows.cpu),
        "reason": _known(rows.reason),
        "row": _known(rows.row),
    }


def _windows(rows: Windows) -> dict[str, Any]:
    flat = pa.array(rows.new_pir.reshape(-1))
    item = arrow_schema(TABLES["WINDOWS"]).field("new_pir").type
    return {
        **_same_names(rows, "vcpu", "put_row", "put_ns", "put_cpu"),
        **_same_names(rows, "load_ns", "end_row", "certain", "probed"),
        "window": np.arange(len(rows)),
        "reason": _named(rows.reason, PutReason),
        "load_row": _known(rows.load_row),
        "load_cpu": _known(rows.load_cpu),
        **{
            name: _flag(getattr(rows, name))
            for name in ("on_put", "on_before", "pir_before", "on_load", "pir_load")
        },
        "sn_put": _flag(rows.sn_put),
        "nv_put": _known(rows.nv_put),
        "new_pir": pa.FixedSizeListArray.from_arrays(flat, type=item),
    }


def _posts(rows: Posts) -> dict[str, Any]:
    return {
        **_same_names(rows, "ts_ns", "at", "row", "vcpu_id", "vector", "msi"),
        **_same_names(rows, "unicast", "posted", "certain", "cause", "postable"),
        "cpu": _known(rows.cpu),
        "tid": _known(rows.tid),
        "given": _named(rows.given, Given),
        "post": np.arange(len(rows)),
        "origin": _named(rows.origin, Origin),
        "evidence": _named(rows.evidence, Evidence),
        "target_by": _named(rows.target_by, Target),
        "host_irq": _known(rows.host_irq),
        "device": _coded(rows.device, rows.devices, rows.device < 0),
        "vcpu": _known(rows.vcpu),
    }


def listed_posts(
    events: Events, timeline: Timeline, which: npt.NDArray[np.int64]
) -> pa.Table:
    """The posts of those indices as in POSTS, with the names of whom they concern.

    `target` is the vCPU's label, null where it is not told, `thread` the name and
    number of the thread in whose context it was.
    """
    table = _made(TABLES["POSTS"], _posts(timeline.posts)).take(pa.array(which))
    posts, labels = timeline.posts, [v.label for v in timeline.vcpus.rows]
    tids, at = np.unique(posts.tid[which], return_inverse=True)
    names = [f"{events.info.comms.get(t, '?')}[{t}]" for t in tids.tolist()]
    threads = pa.array([_text(name) for name in names], pa.string())
    words = pa.array([_text(label) for label in labels], pa.string())
    vcpu = posts.vcpu[which]
    for i, field in enumerate(table.schema):  # CSV knows no dictionaries
        if pa.types.is_dictionary(field.type):
            plain = table.column(i).cast(pa.string())
            table = table.set_column(i, field.with_type(pa.string()), plain)
    targets = words.take(pa.array(vcpu, mask=vcpu < 0))
    table = table.append_column("target", targets)
    return table.append_column("thread", threads.take(pa.array(at.reshape(-1))))


def _stimuli(analysis: Analysis) -> dict[str, Any]:
    rows = analysis.stimuli
    return {
        **_same_names(rows, "vcpu", "ts_ns", "row", "cpu"),
        "stimulus": np.arange(len(rows)),
        "letter": _named(rows.letter, Letter),
        "window": _known(rows.window),
        "post": _known(rows.post),
        "vector": _known(rows.vector),
    }


def _findings(results: Mapping[str, PolicyResult]) -> dict[str, Any]:
    found = [result.findings for result in results.values()]

    def column(name: str, dtype: npt.DTypeLike) -> Array:
        parts = [getattr(rows, name) for rows in found]
        return np.concatenate(parts) if parts else np.empty(0, dtype)

    policy = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    possible = column("possible", np.uint16)
    single = (possible != 0) & ((possible & (possible - 1)) == 0)
    which = np.zeros(len(possible), np.int16)
    for hit in Hit:
        which[possible == 1 << hit] = hit
    return {
        "policy": _coded(policy, list(results)),
        "stimulus": column("stimulus", np.int64),
        "hit": _coded(which, [_label(hit) for hit in Hit], ~single),
        "possible": _bit_names(possible, Hit),
        "rows": _bit_names(column("row", np.uint32), Row),
        "certain": column("certain", np.bool_),
        "coalesced": _flag(column("coalesced", np.int8)),
        "wrong_share": column("wrong_share", np.float64),
        "kind": _named(column("kind", np.uint8), Kind),
        "reason": _known(column("reason", np.int32)),
        "window": _known(column("window", np.int64)),
        "cpu": _known(column("cpu", np.int32)),
        "victim": _known(column("victim", np.int32)),
        "idle": column("idle", np.bool_),
    }


def _bit_names(bits: Array, enum: type[IntEnum]) -> pa.Array:
    """Sets of members, bit 1 << member each, as lists of names."""
    sets, at = np.unique(bits, return_inverse=True)
    lists = [[_label(m) for m in enum if s & (1 << m)] for s in sets.tolist()]
    item = pa.list_(pa.field("item", pa.string(), nullable=False))
    return pa.array(lists, item).take(pa.array(at.reshape(-1)))
