"""A Source made of rows, for tests of what comes after the sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from piscope.sources.raw import (
    EventFormat,
    Loss,
    Payload,
    RawChunk,
    TraceInfo,
    Wanted,
)

Row = tuple[int, int, int, str, dict[str, Any]]
"""ts_ns, cpu, tid, `system:event`, fields; a field None: the record lacks it."""


class FakeSource:
    """Gives its rows in chunks of the given sizes, in the order they were given.

    Obeys every part of Wanted. `watermarks`: after each chunk, the least time of the
    rows to come; otherwise unknown.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        chunk_rows: int = 1 << 30,
        watermarks: bool = False,
        losses: Sequence[Loss] = (),
        **info: Any,
    ) -> None:
        self.info = TraceInfo(
            **{"path": "fake.dat", "format": "fake", "kind": "trace.dat", **info}
        )
        self.events: list[tuple[str, str]] = []
        self.formats: Mapping[str, EventFormat] = {}
        self.counts: dict[str, int] = {}
        self.losses: list[Loss] = []
        self.passes = 0
        self.closed = False
        self._rows = list(rows)
        self._chunk_rows = chunk_rows
        self._watermarks = watermarks
        self._losses = list(losses)
        for *_, key, _fields in self._rows:
            system, _, name = key.partition(":")
            if (system, name) not in self.events:
                self.events.append((system, name))

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        self.passes += 1
        self.counts, self.losses = {}, []
        chosen = [(seq, row) for seq, row in enumerate(self._rows) if _in(row, wanted)]
        for _, row in chosen:
            self.counts[row[3]] = self.counts.get(row[3], 0) + 1
        given = [
            (seq, row)
            for seq, row in chosen
            if wanted.others or wanted.fields_of(*_key(row)) is not False
        ]
        for start in range(0, len(given), self._chunk_rows):
            part = given[start : start + self._chunk_rows]
            later = [row[0] for _, row in given[start + self._chunk_rows :]]
            chunk = self._chunk(part, wanted)
            if self._watermarks:
                chunk.watermark_ns = min(later, default=1 << 62)
            yield chunk
        self.losses = list(self._losses)

    def close(self) -> None:
        self.closed = True

    def _chunk(self, part: list[tuple[int, Row]], wanted: Wanted) -> RawChunk:
        rows = [row for _, row in part]
        index = [self.events.index(_key(row)) for row in rows]
        payload = {}
        for event in dict.fromkeys(index):
            names = wanted.fields_of(*self.events[event])
            if names is not False:
                at = [i for i, found in enumerate(index) if found == event]
                payload[event] = _payload(at, [rows[i][4] for i in at], names)
        return RawChunk(
            ts_ns=np.array([r[0] for r in rows], np.int64),
            cpu=np.array([r[1] for r in rows], np.int32),
            seq=np.array([seq for seq, _ in part], np.int64),
            tid=np.array([r[2] for r in rows], np.int32),
            flags=np.zeros(len(rows), np.uint8),
            event=np.array(index, np.uint16),
            payload=payload,
        )


def _key(row: Row) -> tuple[str, str]:
    system, _, name = row[3].partition(":")
    return system, name


def _in(row: Row, wanted: Wanted) -> bool:
    ts_ns, cpu, *_ = row
    return not (
        wanted.ignored(*_key(row))
        or (wanted.cpus is not None and cpu not in wanted.cpus)
        or (wanted.start_ns is not None and ts_ns < wanted.start_ns)
        or (wanted.end_ns is not None and ts_ns >= wanted.end_ns)
    )


def _payload(at: list[int], records: list[dict[str, Any]], names: Any) -> Payload:
    keys = dict.fromkeys(k for record in records for k in record)
    columns: dict[str, Any] = {}
    valid: dict[str, Any] = {}
    for key in keys:
        if names is not None and key not in names:
            continue
        values = [record.get(key) for record in records]
        known = np.array([v is not None for v in values])
        sample = next(v for v in values if v is not None)
        columns[key] = _column(values, sample)
        if not known.all():
            valid[key] = known
    return Payload(np.array(at, np.int64), columns, valid)


def _column(values: list[Any], sample: Any) -> Any:
    if isinstance(sample, np.generic):
        return np.array([0 if v is None else v for v in values], sample.dtype)
    if isinstance(sample, bytes):
        return np.array([b"" if v is None else v for v in values])
    if isinstance(sample, str):
        return np.array(["" if v is None else v for v in values], object)
    return np.array([0 if v is None else v for v in values], np.int64)
