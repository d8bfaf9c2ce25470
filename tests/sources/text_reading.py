"""Reads a text into rows that are easy to compare."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from piscope.sources.ftrace_text import TextSource, open_text
from piscope.sources.raw import Source, Wanted

ALL = Wanted({"*": None})


@dataclass
class Row:
    """One event; `fields` has only those that are valid."""

    ts_ns: int
    cpu: int
    tid: int
    flags: int
    seq: int
    system: str
    name: str
    fields: dict[str, Any]


def rows_of(source: Source, wanted: Wanted = ALL) -> list[Row]:
    rows: list[Row] = []
    for chunk in source.chunks(wanted):
        base = len(rows)
        for i in range(len(chunk)):
            system, name = source.events[int(chunk.event[i])]
            head = (chunk.ts_ns, chunk.cpu, chunk.tid, chunk.flags, chunk.seq)
            rows.append(Row(*(int(column[i]) for column in head), system, name, {}))
        for payload in chunk.payload.values():
            for field, column in payload.columns.items():
                valid = payload.valid.get(field)
                for at, row in enumerate(payload.rows.tolist()):
                    if valid is None or valid[at]:
                        value = column[at]
                        plain = value.item() if hasattr(value, "item") else value
                        rows[base + row].fields[field] = plain
    return rows


def read_text(text: str | bytes) -> tuple[TextSource, list[Row]]:
    data = text.encode() if isinstance(text, str) else text
    source = open_text(io.BytesIO(data))
    return source, rows_of(source)
