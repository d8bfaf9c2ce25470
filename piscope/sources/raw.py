"""What every source gives: the trace's own description, and its events in chunks.

A source turns bytes into columns. It knows file formats and event formats, and
nothing about KVM. Text, perf.data and trace.dat sources all give the same
`RawChunk`s, so that no later stage knows which file it came from.

To be read beside `formats.md` of the design notes and, for the field kinds,
libtraceevent's event-parse.c.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = (
    "EventFormat",
    "Field",
    "Loss",
    "Payload",
    "RawChunk",
    "Source",
    "TraceInfo",
    "Wanted",
)

Array = npt.NDArray[Any]

FieldKind = Literal["int", "chars", "array", "dynamic", "relative"]
"""How a field lies in a record.

int       an integer of `size` bytes (signed or not)
chars     char[N]: text up to the first NUL
array     any other T[N], kept as bytes
dynamic   __data_loc T[]: u32 (length << 16 | offset from the record's start)
relative  __rel_loc T[]: the same, offset from the end of this 4-byte field
"""

LossCause = Literal[
    "missed-events",  # ring buffer flag or count: events lost before a sub-buffer
    "overwritten",  # an overwrite-mode buffer wrapped: the older events are gone
    "lost-record",  # PERF_RECORD_LOST, or a LOST line of a text
    "lost-samples",  # PERF_RECORD_LOST_SAMPLES
    "cpustat-mismatch",  # the recorder counted more events than the file holds
    "truncated",  # the file ends before it should
    "damaged",  # bytes that can't be what the format promises were skipped
    "unparsed-line",  # a line of a text that no known shape fits
    "unknown-event",  # events whose format the file does not describe
    "sub-sampled",  # perf -F / -c: not every event was recorded
]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event, as the format description in the trace gives it."""

    name: str
    c_type: str
    offset: int
    size: int
    signed: bool
    kind: FieldKind


@dataclass(frozen=True, slots=True)
class EventFormat:
    """A tracepoint's record layout (tracefs `events/SYSTEM/NAME/format`)."""

    system: str
    name: str
    id: int
    common: tuple[Field, ...]
    fields: tuple[Field, ...]
    print_fmt: str

    @property
    def key(self) -> str:
        """`system:name`, the key of an event within one trace."""
        return f"{self.system}:{self.name}"

    def field(self, name: str) -> Field | None:
        """The field of that name, or None; common fields included."""
        for candidate in (*self.fields, *self.common):
            if candidate.name == name:
                return candidate
        return None


@dataclass(frozen=True, slots=True)
class Loss:
    """One thing that the trace does not know (a row of LOSSES).

    cpu       the pCPU concerned; None: all, or unknown
    start_ns  the loss lies after this instant (None: from the beginning)
    end_ns    and before this one (None: to the end)
    count     events lost; None: unknown
    detail    one clause for people: what, where (byte or line)
    """

    cause: LossCause
    cpu: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    count: int | None = None
    detail: str = ""


@dataclass(slots=True)
class TraceInfo:
    """What the file says of itself.

    format          for people: "trace.dat v7 (zstd)", "perf.data (pipe)", ...
    kind            "trace.dat", "perf.data" or "text"
    kernel_release  uname -r of the traced host, None where unknown
    clock           trace clock name ("local", "mono", "x86-tsc", "perf", ...)
    ts_unit         "ns", or "cycles" / "counter" where ts_ns can't be nanoseconds
    ts_resolution_ns  1, or 1000 for texts that print microseconds
    cpus            pCPUs that have data, ascending
    host_cpus       pCPUs of the host where the file tells, else None
    comms           tid -> comm (last one known)
    tgids           tid -> tgid
    guest_threads   host tid -> vcpu_id, from trace-cmd's GUEST option
    guest_name      names for them: host tid -> guest name
    is_guest        the file says that it was recorded inside a guest
    command         the record command line, where the file tells
    notes           remarks for people, each one clause
    places          what a RawChunk.place is the byte of; "line": its seq is a line
    events_flags    False where the records carry no irq flags (perf without RAW, some
                    texts); then RawChunk.flags is 0 and means nothing
    """

    path: str
    format: str
    kind: Literal["trace.dat", "perf.data", "text"]
    size_bytes: int | None = None
    kernel_release: str | None = None
    clock: str | None = None
    ts_unit: Literal["ns", "cycles", "counter"] = "ns"
    ts_resolution_ns: int = 1
    cpus: tuple[int, ...] = ()
    host_cpus: int | None = None
    comms: dict[int, str] = field(default_factory=dict)
    tgids: dict[int, int] = field(default_factory=dict)
    guest_threads: dict[int, int] = field(default_factory=dict)
    guest_name: dict[int, str] = field(default_factory=dict)
    is_guest: bool = False
    command: str | None = None
    buffers: tuple[str, ...] = ()
    places: Literal["record", "chunk", "line"] = "record"
    events_flags: bool = True
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a caller wants, and which of their fields.

    fields    event name (`kvm_exit`, or `kvm:kvm_exit` where a system is meant) or
              fnmatch pattern of either -> kernel field names to decode; None: all
              of the event's fields. A field that an event lacks is left out of its
              Payload.columns.
    others    also give a row, with common columns only, for events not in `fields`
    ignore    patterns of events to treat as if the trace did not hold them; they are
              not counted either
    cpus      only these pCPUs, None: all
    start_ns, end_ns   only start_ns <= ts < end_ns, None: open
    places  also tell where in the file each event is (RawChunk.place)
    """

    fields: Mapping[str, tuple[str, ...] | None]
    others: bool = False
    ignore: tuple[str, ...] = ()
    cpus: frozenset[int] | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    places: bool = False

    def ignored(self, system: str, name: str) -> bool:
        """Whether the event is to be treated as absent."""
        return any(_matches(p, system, name) for p in self.ignore)

    def fields_of(self, system: str, name: str) -> tuple[str, ...] | bool | None:
        """The fields to decode of an event: names, None for all, False: not wanted."""
        for key in (f"{system}:{name}", name):
            if key in self.fields:
                return self.fields[key]
        for pattern, names in self.fields.items():
            if _matches(pattern, system, name):
                return names
        return False


def _matches(pattern: str, system: str, name: str) -> bool:
    # A text names no systems: there, a pattern with a system can match by name only
    # where the source could tell the system itself.
    subject = f"{system}:{name}" if ":" in pattern else name
    return fnmatch.fnmatchcase(subject, pattern)


@dataclass(slots=True)
class Payload:
    """The decoded fields of one event's rows of a chunk.

    rows     int64[m]: ascending positions in the chunk
    columns  field -> array[m]. Integers keep their width and sign (a bool is uint8);
             char[N] is bytes dtype S<N>, cut at the first NUL; dynamic strings and
             other arrays are object (str, or bytes where not text)
    valid    field -> bool[m], only where some values are missing (a short record, a
             text without the key); the array holds 0 or b"" there
    """

    rows: npt.NDArray[np.int64]
    columns: dict[str, Array]
    valid: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(slots=True)
class RawChunk:
    """Some events, in time order within each pCPU; n is bounded (about 1/4 million).

    ts_ns    int64[n]  trace clock; ns unless TraceInfo.ts_unit says otherwise
    cpu      int32[n]
    seq      int64[n]  the event's number within its pCPU's buffer, from 0, counted
                       over all events of the buffer, wanted or not (texts: the line
                       number; perf.data: the record's number in the file)
    tid      int32[n]  common_pid, i.e. the thread
    flags    uint8[n]  common_flags (0x01 irqs-off, 0x08 hardirq, 0x10 softirq, ...)
    event    uint16[n] index into Source.events
    payload  index into Source.events -> decoded fields; only events of Wanted.fields
    watermark_ns  no later chunk holds an event before this instant; None: unknown
    place    int64[n]  byte of the file at which the record lies, or the compressed
                       chunk that holds it (TraceInfo.places); -1: not told. None: not
                       asked for, or a text, where `seq` is the line
    """

    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    seq: npt.NDArray[np.int64]
    tid: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    event: npt.NDArray[np.uint16]
    payload: dict[int, Payload]
    watermark_ns: int | None = None
    place: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ts_ns)


class Source(Protocol):
    """One open trace. `chunks` may be called more than once, each a full pass,
    except where the input is a pipe.

    info    what the file says of itself
    events  (system, name) of each event, by index; may grow while chunks are read
            (texts learn their events on the way), and never changes an entry
    formats record layouts by `system:name`; empty for texts
    counts  after a pass: `system:name` -> events in the file, wanted or not, over
            the CPUs and times of `Wanted`; without those ignored
    losses  after a pass: what is missing
    """

    info: TraceInfo
    events: list[tuple[str, str]]
    formats: Mapping[str, EventFormat]
    counts: dict[str, int]
    losses: list[Loss]

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        """The trace's events, chunk by chunk, in bounded memory.

        Raises TraceFormatError only where nothing at all could be read; whatever
        goes wrong later ends or skips a part and becomes a row of `losses`.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...
