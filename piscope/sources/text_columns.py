"""The prefixes of a whole block of lines at once, by columns, with numpy.

Lines of the two common shapes are found by what every one of them has: the colon
behind the time, the bracket behind the pCPU. Each is then read leftwards from there.

                      bracket |                stamp |     | name_end
     CPU 0/KVM-264     [001] d..1.   100.676105810: kvm_entry: vcpu 0, rip ...
     CPU 0/KVM   232 [000]    52.756459:   kvm:kvm_entry: vcpu 0, rip ...

A line where anything is not as expected is left to `text_shapes.classify`, so this
module decides nothing: it is the fast form of that one for well-formed lines, and
a property test holds the two to the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.text_names import common_flags
from piscope.sources.text_shapes import MAX_CPU, MAX_TID, UNKNOWN

__all__ = ("Layout", "Prefixes", "line_bounds", "read_prefixes")

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_BLANK, _MINUS, _POINT, _SLASH, _COLON = 0x20, 0x2D, 0x2E, 0x2F, 0x3A
_OPEN, _CLOSE, _LPAREN, _RPAREN, _NEWLINE = 0x5B, 0x5D, 0x28, 0x29, 0x0A
_MAX_BLANKS = 24  # between two columns; report and tracefs use at most 13


_CALL = re.compile(rb" [A-Za-z_][\w.]* <-")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns the lines of a file have.

    perf             "sys:name:" and a blank before the tid, else "name:" and "-"
    flags_width      flag columns between the pCPU and the time: 0, 4 to 8
    fraction_digits  6 (us) or 9 (ns); 0: a bare number, which may touch the flags
    has_tid          False for a perf script without a tid column
    has_tgid         tracefs with record-tgid: "(  123)" before the pCPU
    """

    perf: bool
    flags_width: int
    fraction_digits: int
    has_tid: bool = True
    has_tgid: bool = False


@dataclass(slots=True)
class Prefixes:
    """What the prefixes of a block's well-formed lines say, line by line.

    line           int64[m]  ascending positions among the block's lines
    ts_ns          int64[m]
    cpu, tid       int32[m]; UNKNOWN where there is no such column
    flags          uint8[m]  common_flags
    tgid           int32[m]; UNKNOWN where the line shows none; None: no such column
    key            m names, as `name` or `system:name`, perhaps with blanks before
    text_start, text_end   int64[m]  the payload's place in the block
    comm_start, comm_end   int64[m]  likewise, the task's name
    """

    line: Int64
    ts_ns: Int64
    cpu: npt.NDArray[np.int32]
    tid: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    tgid: npt.NDArray[np.int32] | None
    key: list[bytes]
    text_start: Int64
    text_end: Int64
    comm_start: Int64
    comm_end: Int64


def line_bounds(text: bytes) -> tuple[Int64, Int64]:
    """int64[n] twice: where each line starts, and where its newline is."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == _NEWLINE)
    starts = np.empty_like(ends)
    if len(ends):
        starts[0] = 0
        starts[1:] = ends[:-1] + 1
    return starts, ends


def read_prefixes(text: bytes, starts: Int64, ends: Int64, layout: Layout) -> Prefixes:
    """The prefixes of all lines that are exactly of that layout."""
    data = np.frombuffer(text, np.uint8)
    colons = np.flatnonzero(data == _COLON)
    stamps = np.flatnonzero(
        (_digit(_at(data, colons - 1)) < 10) & (data[colons + 1] == _BLANK)
    )
    first = np.searchsorted(colons[stamps], starts)
    line = np.flatnonzero(first < len(stamps))
    stamp_index = stamps[first[line]]
    # The name ends at the first colon behind the stamp, in perf at the second.
    name_colon = stamp_index + (2 if layout.perf else 1)
    # A last line may have no second colon; then any beyond its end will do.
    colons = np.append(colons, (len(text), len(text) + 1))
    rows = _Rows(data, line, starts[line], ends[line])
    rows.add(stamp=colons[stamp_index], name_end=colons[name_colon])
    if not layout.perf:
        _mark_calls(rows, text)
    rows.keep(rows["name_end"] < rows["end"])
    after = data[rows["name_end"] + 1]
    is_call = rows["name_end"] == rows["stamp"] + 1
    rows.keep((after == _BLANK) | (after == _NEWLINE) | is_call)

    _read_bracket(rows, layout)
    _read_time(rows, layout)
    _read_task(rows, layout)
    name_starts, name_ends = (rows["stamp"] + 2).tolist(), rows["name_end"].tolist()
    return Prefixes(
        line=rows["line"],
        ts_ns=rows["ts_ns"],
        cpu=rows["cpu"].astype(np.int32),
        tid=rows["tid"].astype(np.int32),
        flags=_flags(rows, layout),
        tgid=rows["tgid"].astype(np.int32) if "tgid" in rows else None,
        key=[
            text[a:b] or b"function"
            for a, b in zip(name_starts, name_ends, strict=True)
        ],
        text_start=rows["name_end"] + 1,
        text_end=rows["end"],
        comm_start=rows["start"],
        comm_end=rows["comm_end"],
    )


def _mark_calls(rows: _Rows, text: bytes) -> None:
    """Lines of the function tracer have no name: " func <-parent" is their payload.

    Their name is taken to end before it starts, at the stamp's own blank.
    """
    end, stamp = rows["end"], rows["stamp"]
    for row in np.flatnonzero(rows["name_end"] > end).tolist():
        if _CALL.match(text, int(stamp[row]) + 1, int(end[row])):
            rows["name_end"][row] = stamp[row] + 1


class _Rows:
    """Columns of the lines that are still well-formed; `keep` drops the others."""

    def __init__(self, data: Bytes, line: Int64, start: Int64, end: Int64) -> None:
        self.data = data
        self._columns: dict[str, npt.NDArray[Any]] = {
            "line": line,
            "start": start,
            "end": end,
        }

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def add(self, **columns: npt.NDArray[Any]) -> None:
        self._columns.update(columns)

    def keep(self, good: Bool) -> None:
        if not good.all():
            for name, column in self._columns.items():
                self._columns[name] = column[good]


def _read_bracket(rows: _Rows, layout: Layout) -> None:
    """The pCPU: the number in the last brackets before the time."""
    data = rows.data
    closes = np.flatnonzero(data == _CLOSE)
    if not len(closes):
        rows.add(close=rows["start"])
        rows.keep(np.zeros(len(rows["line"]), bool))
    else:
        at = np.searchsorted(closes, rows["stamp"]) - 1
        rows.add(close=closes[at])
        rows.keep((at >= 0) & (rows["close"] > rows["start"]))
    cpu, start, good = _number_before(data, rows["close"], 5)
    good &= _at(data, start - 1) == _OPEN
    good &= (start - 1 >= rows["start"]) & (rows["close"] - start >= 3)
    good &= cpu <= MAX_CPU
    rows.add(cpu=cpu, open=start - 1)
    rows.keep(good & (data[rows["close"] + 1] == _BLANK))


def _read_time(rows: _Rows, layout: Layout) -> None:
    """The time between the bracket, the flags if any, and the stamp's colon."""
    data, digits, width = rows.data, layout.fraction_digits, layout.flags_width
    low = rows["close"] + 1 + (1 + width if width else 0)
    if digits:
        point = rows["stamp"] - digits - 1
        fraction, start, good = _number_before(data, rows["stamp"], digits)
        good &= (start == point + 1) & (_at(data, point) == _POINT)
        seconds, time_start, fits = _number_before(data, point, 10)
        good &= fits & (time_start < point)
        good &= seconds < 9_000_000_000  # in int64 ns
        scale = 10 ** (9 - digits)
        ts_ns = np.where(good, seconds, 0) * 1_000_000_000 + fraction * scale
    else:
        # Up to 18 digits: 19 may not fit int64, and those few lines can be slow.
        ts_ns, time_start, good = _number_before(data, rows["stamp"], 18, low)
    blank_start = _skip_blanks(data, time_start, low)
    good &= blank_start == low
    good &= (time_start > low) | (width > 0 and digits == 0)
    for column in range(width):
        flag = data[np.minimum(rows["close"] + 2 + column, rows["end"])]
        good &= flag > _BLANK
        if column == 0:
            good &= _digit(flag) >= 10
    rows.add(ts_ns=ts_ns)
    rows.keep(good)


def _read_task(rows: _Rows, layout: Layout) -> None:
    """Left of the bracket: tgid if shown, thread, and what is left is its name."""
    data, start = rows.data, rows["start"]
    at = _skip_blanks(data, rows["open"], start)
    if not layout.has_tid:
        rows.add(tid=np.full(len(at), UNKNOWN, np.int64), comm_end=at)
        rows.keep(at == start)
        return
    good = at < rows["open"]
    if layout.has_tgid:
        good &= _at(data, at - 1) == _RPAREN
        tgid, left, fits = _number_before(data, at - 1, 10)
        dashes = left == at - 1  # "(-------)": not recorded
        for column in range(7):
            dashes &= _at(data, at - 2 - column) == _MINUS
        good &= dashes | (left < at - 1)
        tgid[dashes] = UNKNOWN
        left = np.where(dashes, at - 1 - 7, _skip_blanks(data, left, start))
        good &= fits & (left > start) & (_at(data, left - 1) == _LPAREN)
        good &= tgid <= MAX_TID
        rows.add(tgid=tgid)
        paren = np.where(good, left - 1, start)
        at = _skip_blanks(data, paren, start)
        good &= at < paren
    tid, left, fits = _number_before(data, at, 10)
    good &= fits & (left < at) & (tid <= MAX_TID) & (left > start)
    separator = _at(data, left - 1)
    if layout.perf:
        # "pid/tid", "tid", each behind a blank; signs and others are for the slow way
        slash = separator == _SLASH
        tgid, before, fits = _number_before(data, np.where(slash, left - 1, left), 10)
        good &= ~slash | (fits & (before < left - 1) & (tgid <= MAX_TID))
        left = np.where(slash, before, left)
        good &= (left > start) & (_at(data, left - 1) == _BLANK)
        if slash.any():
            rows.add(tgid=np.where(slash, tgid, UNKNOWN))
    else:
        good &= separator == _MINUS
    comm_end = _skip_blanks(data, left - 1, start) if layout.perf else left - 1
    # A name has up to 16 characters; only blanks may be before it. An "instance: "
    # is read line by line.
    comm_start = comm_end - 16
    for column in range(_MAX_BLANKS):
        good &= (start + column >= comm_start) | (_at(data, start + column) == _BLANK)
    good &= start + _MAX_BLANKS >= comm_start
    rows.add(tid=tid, comm_end=comm_end)
    rows.keep(good)


def _flags(rows: _Rows, layout: Layout) -> npt.NDArray[np.uint8]:
    flags = np.zeros(len(rows["line"]), np.uint8)
    if layout.flags_width:
        at = rows["close"] + 2
        context = 3 if layout.flags_width >= 7 else 2
        for column, table in zip((0, 1, context), _FLAG_TABLES, strict=True):
            flags |= table[rows.data[at + column]]
    return flags


def _flag_table(column: int) -> npt.NDArray[np.uint8]:
    """The bits of each letter in one column, asked of `common_flags` itself."""
    letters: Iterable[bytes] = (bytes([letter]) for letter in range(256))
    lines = (b"." * column + letter + b"." * (3 - column) for letter in letters)
    return np.fromiter((common_flags(line) for line in lines), np.uint8, 256)


_FLAG_TABLES = tuple(_flag_table(column) for column in (0, 1, 2))


def _at(data: Bytes, index: Int64) -> Bytes:
    """The bytes at `index`; left of the block there are newlines."""
    return data[np.maximum(index, -1)]


def _digit(byte: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The value of a decimal digit; 10 or more for any other byte."""
    return byte - np.uint8(0x30)  # wraps below "0"


def _number_before(
    data: Bytes, end: Int64, max_digits: int, low: Int64 | None = None
) -> tuple[Int64, Int64, Bool]:
    """The decimal number that ends before `end`, where it starts, and whether it fits.

    Where no digit is before `end` the start is `end`. Nothing left of `low` is read.
    """
    value = np.zeros(len(end), np.int64)
    start = end.copy()
    alive = np.ones(len(end), bool)
    for place in range(max_digits + 1):
        digit = _digit(_at(data, end - 1 - place))
        alive &= digit < 10
        if low is not None:
            alive &= end - 1 - place >= low
        if not alive.any() or place == max_digits:
            break
        value += np.where(alive, digit, 0).astype(np.int64) * 10**place
        start -= alive
    return value, start, ~alive if place == max_digits else np.ones(len(end), bool)


def _skip_blanks(data: Bytes, end: Int64, low: Int64) -> Int64:
    """Where the run of blanks that ends before `end` starts, not left of `low`."""
    start = end.copy()
    alive = np.ones(len(end), bool)
    for back in range(1, _MAX_BLANKS + 1):
        alive &= (_at(data, end - back) == _BLANK) & (end - back >= low)
        if not alive.any():
            break
        start -= alive
    return start
