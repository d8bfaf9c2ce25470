"""The TRACING_DATA of a perf.data: the formats of the tracepoints recorded in it.

    17 08 44 "tracing" "0.6\\0" | endian 1 | long size 1 | page size 4
    "header_page\\0" u64 size, text | "header_event\\0" u64 size, text
    u32 count, count x { u64 size, text }                        ftrace's own events
    u32 systems, systems x { z name, u32 count, count x { u64 size, text } }
    u32 size, kallsyms | u32 size, printk formats | u64 size, saved comms

To be read beside tools/perf/util/trace-event-info.c, which writes it; it is the
header of the oldest trace.dat.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from piscope.errors import TraceFormatError
from piscope.sources.event_format import parse_event_format
from piscope.sources.perf_abi import ByteOrder
from piscope.sources.perf_header import printable
from piscope.sources.raw import EventFormat

__all__ = ("TracingData", "read_tracing_data")

_MAGIC = b"\x17\x08\x44tracing"
_MAX_PROBLEMS = 16  # of single formats: enough to show


@dataclass(slots=True)
class TracingData:
    """What TRACING_DATA tells.

    order      byte order of the tracepoint records
    formats    id -> format, in the order of the blob
    comms      tid -> comm, saved when the recording ended
    problems   (offset in the blob, what is wrong there)
    """

    order: ByteOrder = "little"
    formats: dict[int, EventFormat] = field(default_factory=dict)
    comms: dict[int, str] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


class _Cursor:
    def __init__(self, data: bytes, order: ByteOrder) -> None:
        self.data = data
        self.at = 0
        self.order = order

    def take(self, count: int, what: str) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise TraceFormatError(
                f"{what}: {len(part)} of {count} bytes", byte=self.at
            )
        self.at += count
        return part

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), self.order)

    def name(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + 256)
        if end < 0:
            raise TraceFormatError("a name without end", byte=self.at)
        part = self.data[self.at : end]
        self.at = end + 1
        return part.decode("utf-8", "replace")


def read_tracing_data(blob: bytes) -> TracingData:
    """The event formats and saved comms of a TRACING_DATA blob.

    What follows a damaged place is left out, and `problems` says so.

    Source: tools/perf/util/trace-event-read.c, trace_report().
    """
    result = TracingData()
    cursor = _Cursor(blob, "little")
    try:
        _read_events(cursor, result)
        cursor.take(cursor.number(4, "kallsyms"), "kallsyms")
        cursor.take(cursor.number(4, "printk formats"), "printk formats")
        if cursor.at < len(blob):  # 0.5 ends here
            _read_comms(cursor.take(cursor.number(8, "comms"), "comms"), result)
    except TraceFormatError as error:
        result.problems.append((error.byte or 0, error.message))
    return result


def _read_events(cursor: _Cursor, result: TracingData) -> None:
    if cursor.take(len(_MAGIC), "magic") != _MAGIC:
        raise TraceFormatError("magic 17 08 44 'tracing' was expected", byte=0)
    cursor.name()  # version: "0.5" or "0.6"
    result.order = cursor.order = "big" if cursor.take(1, "endian")[0] else "little"
    cursor.take(1 + 4, "long and page size")
    for title in (b"header_page\0", b"header_event\0"):
        at = cursor.at
        if cursor.take(len(title), "title") != title:
            raise TraceFormatError(f"{title!r} was expected", byte=at)
        cursor.take(cursor.number(8, "size"), "header text")
    for _ in range(cursor.number(4, "count of ftrace events")):
        _read_event(cursor, "ftrace", result)
    for _ in range(cursor.number(4, "count of systems")):
        system = cursor.name()
        for _ in range(cursor.number(4, f"count of events of {system!r}")):
            _read_event(cursor, system, result)


def _read_event(cursor: _Cursor, system: str, result: TracingData) -> None:
    at = cursor.at
    text = cursor.take(cursor.number(8, "size"), f"a format of {system!r}")
    try:
        layout = parse_event_format(text, system)
    except TraceFormatError as error:
        if len(result.problems) < _MAX_PROBLEMS:
            result.problems.append((at, printable(error.message)))
        return
    result.formats.setdefault(layout.id, layout)


# "pid comm" lines; a comm may hold blanks.
def _read_comms(text: bytes, result: TracingData) -> None:
    for line in text.split(b"\n"):
        tid, _, comm = line.partition(b" ")
        if tid.isdigit() and len(tid) <= 10 and comm:
            result.comms[int(tid)] = comm.decode("utf-8", "replace")
