"""A block of lines to rows: one per event, whichever way its line was read.

Most lines are read at once by `text_columns`; what that leaves (headers, lost-event
lines, function-tracer and syscall lines, lines of another shape) goes line by line
through `text_shapes`. Both end in the same columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.text_columns import Int64, Prefixes, line_bounds, read_prefixes
from piscope.sources.text_events import EVENTS, event_text
from piscope.sources.text_forms import EventText
from piscope.sources.text_judge import Judgement
from piscope.sources.text_lines import MAX_LINE_BYTES, Block
from piscope.sources.text_names import system_of
from piscope.sources.text_pairs import PROBE_HEAD
from piscope.sources.text_shapes import (
    UNKNOWN,
    EventLine,
    LostLine,
    classify,
    is_event_name,
)

__all__ = ("EventNames", "LineCounts", "Rows", "read_rows")

_MAX_EVENTS = 8192
"""Different events of one file: four times the tracepoints of a 6.17 kernel."""
_MAX_KEYS = 4 * _MAX_EVENTS
_NO_EVENT = -1

# What tracefs prints for an ftrace:print record of trace_marker.
_MARKER = b"tracing_mark_write"


class EventNames:
    """The events of a text, numbered in the order in which they appear.

    events  (system, name) by number; never more than _MAX_EVENTS
    known   by number, the wording of the event if there is one
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.known: list[EventText | None] = []
        self._by_key: dict[bytes, int] = {}
        self._by_name: dict[tuple[str, str, bytes], int] = {}

    def numbers(
        self, keys: list[bytes], text: bytes, starts: Int64, ends: Int64
    ) -> npt.NDArray[np.int64]:
        """int64[n]: the event of each key; _NO_EVENT where it can't be a name."""
        try:
            return np.array(list(map(self._by_key.__getitem__, keys)), np.int64)
        except KeyError:  # a name that is new in this block
            bounds = zip(starts.tolist(), ends.tolist(), strict=True)
            return _int64(
                self.number(key, text[start:end])
                for key, (start, end) in zip(keys, bounds, strict=True)
            )

    def number(self, key: bytes, payload: bytes) -> int:
        """The event of `name` or `system:name`, a new one if need be."""
        number = self._by_key.get(key)
        if number is None:
            number = self._new(key.lstrip(b" "), payload.strip())
            if len(self._by_key) < _MAX_KEYS:
                self._by_key[key] = number
        return number

    def _new(self, key: bytes, payload: bytes) -> int:
        if not is_event_name(key):
            return _NO_EVENT
        system, _, name = key.decode().rpartition(":")
        if not system:
            known = name in EVENTS
            probe = not known and PROBE_HEAD.match(payload) is not None
            system = "kprobes" if probe else system_of(name)
        wording = name
        if key == _MARKER:
            system, name = "ftrace", "print"
        number = self._by_name.get((system, name, wording.encode()))
        if number is None:
            if len(self.events) >= _MAX_EVENTS:
                return _NO_EVENT
            number = len(self.events)
            self._by_name[system, name, wording.encode()] = number
            self.events.append((system, name))
            self.known.append(event_text(wording, system))
        return number


@dataclass(slots=True)
class LineCounts:
    """Every line of a text is counted once."""

    events: int = 0
    headers: int = 0
    continuations: int = 0
    lost: int = 0
    unparsed: int = 0

    @property
    def total(self) -> int:
        """Lines in all."""
        return (
            self.events + self.headers + self.continuations + self.lost + self.unparsed
        )


@dataclass(slots=True)
class Rows:
    """The events of one block, in the order of its lines.

    line   int64[n]  1-based line numbers
    ts_ns, cpu, tid, flags   as raw.RawChunk
    tgid   int32[n]  UNKNOWN where the line shows none
    event  int64[n]  number in EventNames
    lost, unparsed   (line, what) and lines that are no events, ascending
    period_above_one  events that stand for more than themselves
    """

    line: Int64
    ts_ns: Int64
    cpu: npt.NDArray[np.int32]
    tid: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    tgid: npt.NDArray[np.int32]
    event: Int64
    lost: list[tuple[int, LostLine]]
    unparsed: list[int]
    buffers: set[bytes]
    period_above_one: int
    _text: bytes
    _text_start: Int64
    _text_end: Int64
    _comm_start: Int64
    _comm_end: Int64
    _payloads: list[bytes] = field(default_factory=list)
    _comms: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.line)

    def payloads(self, rows: Int64) -> list[bytes]:
        """The payload texts of some rows, with the blanks around them."""
        text, others = self._text, self._payloads
        places = zip(
            self._text_start[rows].tolist(), self._text_end[rows].tolist(), strict=True
        )
        if not others:
            return [text[start:end] for start, end in places]
        return [text[a:b] if a >= 0 else others[b] for a, b in places]

    def comm(self, row: int) -> bytes:
        """The task name that a row's line shows, or b""."""
        start, end = int(self._comm_start[row]), int(self._comm_end[row])
        return (self._text[start:end] if start >= 0 else self._comms[end]).strip()

    def in_order(self, order: Int64) -> None:
        """Put the rows in another order."""
        for name in _ROW_COLUMNS:
            setattr(self, name, getattr(self, name)[order])


_ROW_COLUMNS = (
    "line",
    "ts_ns",
    "cpu",
    "tid",
    "flags",
    "tgid",
    "event",
    "_text_start",
    "_text_end",
    "_comm_start",
    "_comm_end",
)


def read_rows(
    block: Block, judged: Judgement, names: EventNames, counts: LineCounts
) -> Rows:
    """All lines of a block, each counted once in `counts`."""
    text = block.text
    starts, ends = line_bounds(text)
    fast: Prefixes | None = None
    left = np.ones(len(starts), bool)
    event = np.zeros(0, np.int64)
    if judged.layout is not None:
        fast = read_prefixes(text, starts, ends, judged.layout)
        event = names.numbers(fast.key, text, fast.text_start, fast.text_end)
        good = event != _NO_EVENT
        good &= ends[fast.line] - starts[fast.line] <= MAX_LINE_BYTES
        if not good.all():
            fast, event = _kept(fast, good), event[good]
        left[fast.line] = False
    slow: list[tuple[int, EventLine, int]] = []
    lost: list[tuple[int, LostLine]] = []
    unparsed: list[int] = []
    perf = judged.shape == "perf"
    for at in np.flatnonzero(left).tolist():
        start, end = int(starts[at]), int(ends[at])
        if end - start > MAX_LINE_BYTES:
            unparsed.append(block.first_line + at)
            continue
        found = classify(text[start:end], judged.shape, perf)
        if isinstance(found, EventLine):
            key = found.system + b":" + found.name if found.system else found.name
            number = names.number(key, found.payload)
            if number == _NO_EVENT:
                found = "unparsed"
            else:
                slow.append((at, found, number))
                continue
        if isinstance(found, LostLine):
            lost.append((block.first_line + at, found))
        elif found == "header":
            counts.headers += 1
        elif found == "continuation":
            counts.continuations += 1
        else:
            unparsed.append(block.first_line + at)
    rows = _joined(text, fast, event, slow)
    rows.line += block.first_line
    rows.lost, rows.unparsed = lost, unparsed
    counts.events += len(rows)
    counts.lost += len(lost)
    counts.unparsed += len(unparsed)
    return rows


def _kept(fast: Prefixes, good: npt.NDArray[np.bool_]) -> Prefixes:
    return Prefixes(
        line=fast.line[good],
        ts_ns=fast.ts_ns[good],
        cpu=fast.cpu[good],
        tid=fast.tid[good],
        flags=fast.flags[good],
        tgid=None if fast.tgid is None else fast.tgid[good],
        key=[],
        text_start=fast.text_start[good],
        text_end=fast.text_end[good],
        comm_start=fast.comm_start[good],
        comm_end=fast.comm_end[good],
    )


def _joined(
    text: bytes,
    fast: Prefixes | None,
    event: Int64,
    slow: list[tuple[int, EventLine, int]],
) -> Rows:
    lines = [line for _, line, _ in slow]
    places = np.arange(len(slow), dtype=np.int64)
    outside = np.full(len(slow), -1, np.int64)  # not in the block's text: in the lists
    rows = Rows(
        line=_int64(at for at, _, _ in slow),
        ts_ns=_int64(line.ts_ns for line in lines),
        cpu=_int64(line.cpu for line in lines).astype(np.int32),
        tid=_int64(line.tid for line in lines).astype(np.int32),
        flags=_int64(line.flags or 0 for line in lines).astype(np.uint8),
        tgid=_int64(
            UNKNOWN if line.tgid is None else line.tgid for line in lines
        ).astype(np.int32),
        event=_int64(number for _, _, number in slow),
        lost=[],
        unparsed=[],
        buffers={line.buffer for line in lines if line.buffer is not None},
        period_above_one=sum((line.period or 1) > 1 for line in lines),
        _text=text,
        _text_start=outside,
        _text_end=places,
        _comm_start=outside,
        _comm_end=places,
        _payloads=[line.payload for line in lines],
        _comms=[line.comm or b"" for line in lines],
    )
    if fast is None or not len(fast.line):
        return rows
    tgid = fast.tgid
    if tgid is None:
        tgid = np.full(len(fast.line), UNKNOWN, np.int32)
    columns: dict[str, npt.NDArray[Any]] = {
        "line": fast.line,
        "ts_ns": fast.ts_ns,
        "cpu": fast.cpu,
        "tid": fast.tid,
        "flags": fast.flags,
        "tgid": tgid,
        "event": event,
        "_text_start": fast.text_start,
        "_text_end": fast.text_end,
        "_comm_start": fast.comm_start,
        "_comm_end": fast.comm_end,
    }
    if not slow:
        for name, column in columns.items():
            setattr(rows, name, column)
        return rows
    order = np.argsort(np.concatenate((columns["line"], rows.line)), kind="stable")
    for name, column in columns.items():
        setattr(rows, name, np.concatenate((column, getattr(rows, name)))[order])
    return rows


def _int64(values: Iterable[int]) -> Int64:
    return np.fromiter(values, np.int64)
