"""The events around a notification: the trace read once more, with every field."""

from __future__ import annotations

import json

import numpy as np

from piscope.commands.event_text import comm_of, json_fields, text_fields
from piscope.commands.selection import kept
from piscope.events.merge import merged
from piscope.events.normalize import cycles_to_ns
from piscope.explain.account import EventLine
from piscope.explain.near_events import Near
from piscope.sources.raw import Payload, RawChunk, Source, Wanted
from piscope.tables import Events

__all__ = ("near_events",)


def near_events(
    source: Source,
    events: Events,
    near: Near,
    *,
    ignore: tuple[str, ...] = (),
    tsc_khz: int | None = None,
) -> list[EventLine]:
    """The events that `near` asks for, by time.

    `events` are those of the analysis, in ns; the source may count cycles, and then
    `tsc_khz` turned those into ns.
    """
    khz = tsc_khz if source.info.ts_unit == "cycles" else None
    start, end = near.span_ns
    wanted = Wanted(
        {"*": None},
        ignore=ignore,
        start_ns=start if khz is None else start * khz // 10**6,
        end_ns=end + 1 if khz is None else (end + 1) * khz // 10**6 + 1,
        places=True,
    )
    lines: list[EventLine] = []
    for chunk in merged(source, wanted):
        if khz is not None:
            chunk.ts_ns = cycles_to_ns(chunk.ts_ns, khz)
        told = near.told(chunk)
        if told.any():
            lines += _lines(kept(chunk, told), source, near.zero_ns)
    return near.lines(lines, events)


def _lines(chunk: RawChunk, source: Source, zero_ns: int) -> list[EventLine]:
    texts = np.full(len(chunk), "", object)
    fields = np.full(len(chunk), "{}", object)
    for payload in chunk.payload.values():
        told = {k: v for k, v in payload.columns.items() if not k.startswith("__")}
        shown = Payload(payload.rows, told, payload.valid)
        texts[payload.rows] = [text.lstrip() for text in text_fields(shown)]
        fields[payload.rows] = json_fields(payload)
    return [
        EventLine(
            position=_position(chunk, i, source),
            ts_ns=ts_ns,
            offset_ns=ts_ns - zero_ns,
            cpu=int(chunk.cpu[i]),
            tid=int(chunk.tid[i]),
            comm=comm_of(source.info.comms, int(chunk.tid[i])),
            seq=int(chunk.seq[i]),
            event=source.events[int(chunk.event[i])][1],
            fields=json.loads(fields[i]),
            text=texts[i],
            steps=[],
            gap=False,
        )
        for i, ts_ns in enumerate(chunk.ts_ns.tolist())
    ]


def _position(chunk: RawChunk, i: int, source: Source) -> str:
    if source.info.places == "line":
        return f"line {int(chunk.seq[i])}"
    place = -1 if chunk.place is None else int(chunk.place[i])
    if place < 0:
        return f"record {int(chunk.seq[i])}"
    return f"{'chunk at ' if source.info.places == 'chunk' else ''}byte {place}"
