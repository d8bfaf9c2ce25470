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
from piscope.outcomes import Findings, Hit, Row
from piscope.pipeline import Analysis
from piscope.replay.stimuli import Stimuli
from piscope.schema import KERNEL_FIELDS, TABLES, arrow_schema
from piscope.sources.raw import Array, Loss
from piscope.tables import (
    Events,
    Intervals,
    Kind,
    Posts,
    PutReason,
    Vcpus,
    Windows,
)

__all__ = (
    "EVENTS_AT_ONCE",
    "arrow_table",
    "event_tables",
    "findings_table",
    "intervals_table",
    "listed_posts",
    "listed_schema",
    "losses_table",
    "posts_table",
    "stimuli_table",
    "vcpus_table",
    "windows_table",
)

Numbers = npt.NDArray[np.int64]

EVENTS_AT_ONCE = 1 << 18
"""Rows of EVENTS in each of `event_tables`: most of its columns are nulls."""


def arrow_table(analysis: Analysis, name: str) -> pa.Table:
    """One table of an analysis, checked against its declaration.

    Raises KeyError for a name that is no table.
    """
    timeline, stimuli = analysis.timeline, analysis.stimuli
    windows, posts = timeline.windows, timeline.posts
    return {
        "EVENTS": lambda: pa.concat_tables(event_tables(analysis.events)),
        "LOSSES": lambda: losses_table(analysis.events.losses),
        "VCPUS": lambda: vcpus_table(timeline.vcpus),
        "INTERVALS": lambda: intervals_table(timeline.intervals),
        "WINDOWS": lambda: windows_table(windows, np.arange(len(windows))),
        "POSTS": lambda: posts_table(posts, np.arange(len(posts))),
        "STIMULI": lambda: stimuli_table(stimuli, np.arange(len(stimuli))),
        "FINDINGS": lambda: findings_table(
            {policy: result.findings for policy, result in analysis.results.items()}
        ),
    }[name]()


def event_tables(
    events: Events,
    begin: int = 0,
    end: int | None = None,
    row: Numbers | None = None,
) -> Iterator[pa.Table]:
    """EVENTS in pieces of at most EVENTS_AT_ONCE rows; at least one, maybe empty.

    Those of the rows begin to end, half-open. `row`, int64[events], is what stands in
    EVENTS.row; without it their own numbers.
    """
    end = len(events) if end is None else end
    for here in range(begin, max(end, begin + 1), EVENTS_AT_ONCE):
        there = min(here + EVENTS_AT_ONCE, end)
        numbers = np.arange(here, there) if row is None else row[here:there]
        yield _made("EVENTS", {"row": numbers, **_events(events, here, there)})


def _made(name: str, columns: Mapping[str, Any]) -> pa.Table:
    shape = arrow_schema(TABLES[name])
    arrays = [
        column
        if isinstance(column := columns[field.name], (pa.Array, pa.ChunkedArray))
        else pa.array(column, field.type)
        for field in shape
    ]
    return schema.check(name, pa.Table.from_arrays(arrays, schema=shape))


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


def losses_table(losses: Sequence[Loss]) -> pa.Table:
    """LOSSES."""
    columns: dict[str, Any] = {
        f.name: [getattr(loss, f.name) for loss in losses] for f in fields(Loss)
    }
    # what a detail quotes of a damaged file may be no text
    columns["detail"] = [_text(detail) for detail in columns["detail"]]
    columns["cause"] = _words(columns["cause"])
    return _made("LOSSES", columns)


def _text(text: str | None) -> str | None:
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def vcpus_table(vcpus: Vcpus) -> pa.Table:
    """VCPUS."""
    names = [c.name for c in TABLES["VCPUS"].columns]
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in vcpus.rows] for name in names
    }
    columns["comm"] = [_text(comm) for comm in columns["comm"]]
    columns["evidence"] = _words(columns["evidence"])
    return _made("VCPUS", columns)


def intervals_table(rows: Intervals) -> pa.Table:
    """INTERVALS."""
    columns = {
        **_same_names(rows, "vcpu", "start_ns", "end_ns", "certain"),
        "kind": _named(rows.kind, Kind),
        "cpu": _known(rows.cpu),
        "reason": _known(rows.reason),
        "row": _known(rows.row),
    }
    return _made("INTERVALS", columns)


def windows_table(rows: Windows, window: Numbers) -> pa.Table:
    """WINDOWS; `window`, int64[windows], are their numbers."""
    flat = pa.array(rows.new_pir.reshape(-1))
    item = arrow_schema(TABLES["WINDOWS"]).field("new_pir").type
    columns = {
        **_same_names(rows, "vcpu", "put_row", "put_ns", "put_cpu"),
        **_same_names(rows, "load_ns", "end_row", "certain", "probed"),
        "window": window,
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
    return _made("WINDOWS", columns)


def posts_table(rows: Posts, post: Numbers) -> pa.Table:
    """POSTS; `post`, int64[posts], are their numbers."""
    columns = {
        **_same_names(rows, "ts_ns", "at", "row", "vcpu_id", "vector", "msi"),
        **_same_names(rows, "unicast", "posted", "certain", "cause", "postable"),
        "cpu": _known(rows.cpu),
        "tid": _known(rows.tid),
        "given": _named(rows.given, Given),
        "post": post,
        "origin": _named(rows.origin, Origin),
        "evidence": _named(rows.evidence, Evidence),
        "target_by": _named(rows.target_by, Target),
        "host_irq": _known(rows.host_irq),
        "device": _coded(rows.device, rows.devices, rows.device < 0),
        "vcpu": _known(rows.vcpu),
    }
    return _made("POSTS", columns)


def listed_posts(posts: pa.Table, vcpus: Vcpus, comms: Mapping[int, str]) -> pa.Table:
    """Rows of POSTS with the names of whom they concern, as `listed_schema` says."""
    shape = listed_schema()
    plain = [
        column.cast(field.type)
        for column, field in zip(posts.columns, shape, strict=False)
    ]
    labels = pa.array([_text(row.label) for row in vcpus.rows], pa.string())
    targets = labels.take(posts["vcpu"].combine_chunks())
    tid = posts["tid"].fill_null(-1).to_numpy()
    tids, at = np.unique(tid, return_inverse=True)
    names = [f"{comms.get(t, '?')}[{t}]" for t in tids.tolist()]
    threads = pa.array([_text(name) for name in names], pa.string())
    threads = threads.take(pa.array(at.reshape(-1)))
    return pa.Table.from_arrays([*plain, targets, threads], schema=shape)


def listed_schema() -> pa.Schema:
    """The columns of POSTS, with names as plain words, and whom they concern.

    `target` is the vCPU's label, null where it is not told, `thread` the name and
    number of the thread in whose context it was.
    """
    posts = arrow_schema(TABLES["POSTS"])
    plain = [  # CSV knows no dictionaries
        field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field
        for field in posts
    ]
    names = [pa.field(name, pa.string()) for name in ("target", "thread")]
    return pa.schema([*plain, *names], posts.metadata)


def stimuli_table(rows: Stimuli, stimulus: Numbers) -> pa.Table:
    """STIMULI; `stimulus`, int64[stimuli], are their numbers."""
    columns = {
        **_same_names(rows, "vcpu", "ts_ns", "row", "cpu"),
        "stimulus": stimulus,
        "letter": _named(rows.letter, Letter),
        "window": _known(rows.window),
        "post": _known(rows.post),
        "vector": _known(rows.vector),
    }
    return _made("STIMULI", columns)


def findings_table(findings: Mapping[str, Findings]) -> pa.Table:
    """FINDINGS of those policies, by name."""
    found = list(findings.values())

    def column(name: str, dtype: npt.DTypeLike) -> Array:
        parts = [getattr(rows, name) for rows in found]
        return np.concatenate(parts) if parts else np.empty(0, dtype)

    policy = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    possible = column("possible", np.uint16)
    single = (possible != 0) & ((possible & (possible - 1)) == 0)
    which = np.zeros(len(possible), np.int16)
    for hit in Hit:
        which[possible == 1 << hit] = hit
    columns = {
        "policy": _coded(policy, list(findings)),
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
    return _made("FINDINGS", columns)


def _bit_names(bits: Array, enum: type[IntEnum]) -> pa.Array:
    """Sets of members, bit 1 << member each, as lists of names."""
    sets, at = np.unique(bits, return_inverse=True)
    lists = [[_label(m) for m in enum if s & (1 << m)] for s in sets.tolist()]
    item = pa.list_(pa.field("item", pa.string(), nullable=False))
    return pa.array(lists, item).take(pa.array(at.reshape(-1)))
