"""A chunk of events as lines: for people, like trace-cmd's, or as JSON.

       CPU 0/KVM-1893  [002]  54.943601370: kvm_entry: vcpu_id=0 rip=0xfff0
      {"ts_ns":54943601370,"cpu":2,...,"fields":{"vcpu_id":0,"rip":65520}}

A field that a record lacks is left out of its line. Bytes of the trace never reach
a terminal as they are: what can't be printed is escaped.

Lines are built a column at a time, since a Python call per field is most of the
time that a reader of ten million events waits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array, Payload, RawChunk, Source

__all__ = (
    "comm_of",
    "json_fields",
    "json_lines",
    "seconds_text",
    "text_fields",
    "text_lines",
)

_UNKNOWN_COMM = "<...>"  # what the kernel prints for a thread whose name it lost


def comm_of(comms: Mapping[int, str], tid: int) -> str | None:
    """The thread's name; None: the trace does not tell. tid 0 is every idle thread."""
    return "<idle>" if tid == 0 else comms.get(tid)


def seconds_text(ts_ns: int, digits: int = 9) -> str:
    """Nanoseconds as seconds with so many decimals (1 to 9), cut, not rounded."""
    seconds, rest = divmod(abs(ts_ns), 10**9)
    sign = "-" if ts_ns < 0 else ""
    return f"{sign}{seconds}.{rest // 10 ** (9 - digits):0{digits}d}"


def text_lines(chunk: RawChunk, source: Source) -> Iterator[str]:
    """One line an event, without newline: who, where, when, what and the fields.

    Times are seconds with the digits that the trace has, or counts where the clock
    does not count nanoseconds; unsigned 64-bit fields are hexadecimal.
    """
    bodies = _bodies(chunk, text_fields)
    names = [name for _, name in source.events]
    who = _Cache(
        lambda tid: (
            f"{_printable(comm_of(source.info.comms, tid) or _UNKNOWN_COMM):>16}"
            f"-{tid:<7d}"
        )
    )
    for tid, cpu, when, event, body in zip(
        chunk.tid.tolist(),
        chunk.cpu.tolist(),
        _instants(chunk.ts_ns, source),
        chunk.event.tolist(),
        bodies,
        strict=True,
    ):
        yield f"{who[tid]} [{cpu:03d}] {when}: {names[event]}:{body}"


def json_lines(chunk: RawChunk, source: Source) -> Iterator[str]:
    """One JSON object an event, without newline.

    Keys: ts_ns (counts where the clock does not count nanoseconds), cpu, tid, comm
    (null: unknown), system (null: a text does not tell), event, seq, flags (null: the
    trace does not tell), fields (an object). Integers are exact, up to 64 bits.
    """
    events = [
        f'"system":{json.dumps(system or None)},"event":{json.dumps(name)}'
        for system, name in source.events
    ]
    who = _Cache(
        lambda tid: f'"tid":{tid},"comm":{json.dumps(comm_of(source.info.comms, tid))}'
    )
    flags = chunk.flags.tolist() if source.info.events_flags else ["null"] * len(chunk)
    bodies = _bodies(chunk, json_fields, empty="{}")
    for ts_ns, cpu, tid, event, seq, flag, body in zip(
        chunk.ts_ns.tolist(),
        chunk.cpu.tolist(),
        chunk.tid.tolist(),
        chunk.event.tolist(),
        chunk.seq.tolist(),
        flags,
        bodies,
        strict=True,
    ):
        yield (
            f'{{"ts_ns":{ts_ns},"cpu":{cpu},{who[tid]},{events[event]},'
            f'"seq":{seq},"flags":{flag},"fields":{body}}}'
        )


def json_fields(payload: Payload) -> list[str]:
    """The fields of each row of a payload as a JSON object.

    An array that is not text is a string of hexadecimal digits, in the trace's order.
    """
    columns = [
        (f"{json.dumps(name)}:", payload.valid.get(name), _json_values(values))
        for name, values in payload.columns.items()
    ]
    return [f"{{{row}}}" for row in _rows(columns, len(payload.rows), ",")]


def text_fields(payload: Payload) -> list[str]:
    """The fields of each row of a payload as text, a blank before each."""
    columns = [
        (f" {_printable(name)}=", payload.valid.get(name), _text_values(values))
        for name, values in payload.columns.items()
    ]
    return _rows(columns, len(payload.rows), "")


def _bodies(
    chunk: RawChunk, body: Callable[[Payload], list[str]], empty: str = ""
) -> list[str]:
    result = np.full(len(chunk), empty, object)
    for payload in chunk.payload.values():
        result[payload.rows] = body(payload)
    return result.tolist()


def _rows(
    columns: list[tuple[str, npt.NDArray[np.bool_] | None, list[str]]],
    n: int,
    separator: str,
) -> list[str]:
    # Each column: what stands before a value, which rows have one, the values.
    if not columns:
        return [""] * n
    if all(known is None for _, known, _ in columns):
        template = separator.join(
            f"{before.replace('%', '%%')}%s" for before, _, _ in columns
        )
        return [template % row for row in zip(*(v for _, _, v in columns), strict=True)]
    cells: list[list[str | None]] = []
    for before, known, values in columns:
        has = [True] * n if known is None else known.tolist()
        cells.append(
            [before + v if h else None for h, v in zip(has, values, strict=True)]
        )
    return [
        separator.join(cell for cell in row if cell is not None)
        for row in zip(*cells, strict=True)
    ]


def _text_values(values: Array) -> list[str]:
    if values.dtype.kind == "u" and values.dtype.itemsize == 8:
        return [f"0x{v:x}" for v in values.tolist()]
    if values.dtype.kind in "iu":
        return list(map(str, values.tolist()))
    cache = _Cache(_printable)
    return [cache[v] for v in _plain_values(values)]


def _json_values(values: Array) -> list[str]:
    if values.dtype.kind in "iu":
        return list(map(str, values.tolist()))
    cache = _Cache(json.dumps)
    return [cache[v] for v in _plain_values(values)]


def _plain_values(values: Array) -> list[str | int | None]:
    if values.dtype.kind == "S":
        # char[N] is text by its type, whatever bytes a hostile comm holds.
        text = _Cache(lambda v: v.decode("utf-8", "replace"))
        return [text[v] for v in values.tolist()]
    return [v.hex() if isinstance(v, bytes) else v for v in values.tolist()]


def _printable(value: object) -> str:
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _instants(ts_ns: npt.NDArray[np.int64], source: Source) -> list[str]:
    if source.info.ts_unit != "ns":
        return [f"{ts:12d}" for ts in ts_ns.tolist()]
    digits = 6 if source.info.ts_resolution_ns == 1000 else 9
    seconds, rest = np.divmod(ts_ns, 10**9)
    # divmod rounds down: -0.25 s is -1 s and 0.75 s.
    if (seconds < 0).any():
        return [f"{seconds_text(ts, digits):>{digits + 6}}" for ts in ts_ns.tolist()]
    rest //= 10 ** (9 - digits)
    template = f"%5d.%0{digits}d"
    return [
        template % pair for pair in zip(seconds.tolist(), rest.tolist(), strict=True)
    ]


class _Cache(dict[Any, str]):
    """The text of each distinct value, made once; it forgets all when it grows."""

    def __init__(self, text_of: Callable[[Any], str]) -> None:
        super().__init__()
        self._text_of = text_of

    def __missing__(self, value: Any) -> str:
        if len(self) >= 1 << 16:
            self.clear()
        text = self[value] = self._text_of(value)
        return text
