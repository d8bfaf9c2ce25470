"""The head of a perf.data: its attrs, where its records lie, its feature sections.

    | header 104 | ids | attrs | records ... | {offset, size} of each feature | ... |

To be read beside tools/perf/util/header.c (perf_session__read_header and, for the
sections, perf_header__process_sections) and Documentation/perf.data-file-format.txt.
The pipe form has 16 bytes here, and its attrs and features as records instead
(perf_pipe.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Literal

from piscope.errors import TraceFormatError, UnsupportedTraceError
from piscope.sources.perf_abi import ByteOrder, Feature, PerfAttr, read_attr
from piscope.sources.perf_bytes import PerfBytes

__all__ = (
    "FILE_HEADER_BYTES",
    "PIPE_HEADER_BYTES",
    "PerfHeader",
    "printable",
    "read_header",
)

FILE_HEADER_BYTES = 104
PIPE_HEADER_BYTES = 16
_MAX_ATTRS = 1 << 16
_MAX_IDS = 1 << 22  # events times pCPUs
_FEATURE_BITS = 256
# The event formats of a whole kernel are about 7 MiB.
_MAX_FEATURE_BYTES = {Feature.TRACING_DATA: 256 << 20, Feature.EVENT_DESC: 256 << 20}
_MAX_SMALL_FEATURE_BYTES = 16 << 20


def printable(text: str) -> str:
    """A text of a file for a message: on one line, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


@dataclass(slots=True)
class PerfHeader:
    """What a perf.data says of itself before its records.

    data_size    bytes of records; None: up to the end of the input
    attr_of_id   sample id -> index into `attrs`
    attr_names   index into `attrs` -> perf's name of the event, where told
    features     feature number -> its section's bytes
    problems     (byte offset, what is wrong), for the losses
    """

    form: Literal["file", "pipe"]
    order: ByteOrder
    data_offset: int
    data_size: int | None
    attrs: list[PerfAttr] = field(default_factory=list)
    attr_of_id: dict[int, int] = field(default_factory=dict)
    attr_names: dict[int, str] = field(default_factory=dict)
    features: dict[int, bytes] = field(default_factory=dict)
    interrupted: bool = False
    problems: list[tuple[int, str]] = field(default_factory=list)

    @property
    def mark(self) -> Literal["<", ">"]:
        """The byte order as struct and numpy write it."""
        return "<" if self.order == "little" else ">"

    def add_attr(self, data: bytes, ids: tuple[int, ...]) -> None:
        """One more recorded event, with the ids its samples may carry."""
        self.attrs.append(read_attr(data, self.order))
        if len(self.attrs) > _MAX_ATTRS or len(self.attr_of_id) + len(ids) > _MAX_IDS:
            raise TraceFormatError("more attrs or ids than any recording has")
        for number in ids:
            self.attr_of_id.setdefault(number, len(self.attrs) - 1)

    def text(self, feature: Feature) -> str | None:
        """A feature that is one string (host name, kernel release, ...)."""
        strings = self._strings(self.features.get(feature, b""), 1)
        return strings[0] if strings else None

    def command(self) -> str | None:
        """The record command line, its words joined by blanks."""
        data = self.features.get(Feature.CMDLINE, b"")
        if len(data) < 4:
            return None
        (count,) = struct.unpack_from(self.mark + "I", data)
        return " ".join(self._strings(data[4:], count)) or None

    def online_cpus(self) -> int | None:
        """pCPUs that were online; the section's other number is the possible ones.

        Source: tools/perf/util/header.c, write_nrcpus(): available, then online
        (perf's own format document has them the other way round).
        """
        data = self.features.get(Feature.NRCPUS, b"")
        return struct.unpack_from(self.mark + "II", data)[1] if len(data) >= 8 else None

    # struct perf_header_string: u32 length, then text padded with NULs.
    def _strings(self, data: bytes, count: int) -> list[str]:
        strings: list[str] = []
        at = 0
        while len(strings) < count and at + 4 <= len(data):
            (length,) = struct.unpack_from(self.mark + "I", data, at)
            raw = data[at + 4 : at + 4 + length]
            strings.append(raw.split(b"\0", 1)[0].decode("utf-8", "replace"))
            at += 4 + length
        return strings

    def learn_event_names(self) -> None:
        """Names and ids of the attrs, from EVENT_DESC.

            u32 n, u32 attr_size, n x { attr, u32 ids, string name, ids x u64 }

        The ids are those of the attr table too; a table cut short misses some.
        """
        data = self.features.get(Feature.EVENT_DESC, b"")
        if len(data) < 8:
            return
        count, attr_size = struct.unpack_from(self.mark + "II", data)
        at = 8
        for index in range(min(count, len(self.attrs))):
            at += attr_size
            if at + 8 > len(data):
                return
            ids, length = struct.unpack_from(self.mark + "II", data, at)
            names = self._strings(data[at + 4 : at + 8 + length], 1)
            if names:
                self.attr_names[index] = printable(names[0])
            at += 8 + length
            if at + 8 * ids > len(data):
                return
            for number in struct.unpack_from(f"{self.mark}{ids}Q", data, at):
                self.attr_of_id.setdefault(number, index)
            at += 8 * ids


def read_header(source: PerfBytes) -> PerfHeader:
    """The header, attr table and feature sections; of a pipe only the form and order.

    Raises TraceFormatError where the input isn't a perf.data or has no usable attr
    table, UnsupportedTraceError for the format of perf before 2.6.32.
    Source: tools/perf/util/header.c, perf_session__read_header().
    """
    head = source.read(0, FILE_HEADER_BYTES)
    if head[:8] == b"PERFFILE":
        raise UnsupportedTraceError(
            "perf.data of version 1 (perf before Linux 2.6.32) is not read",
            path=source.path,
        )
    orders: dict[bytes, ByteOrder] = {b"PERFILE2": "little", b"2ELIFREP": "big"}
    order = orders.get(head[:8])
    if order is None:
        raise TraceFormatError(
            "not a perf.data: PERFILE2 was expected", path=source.path, byte=0
        )
    mark = "<" if order == "little" else ">"
    size = struct.unpack_from(mark + "Q", head, 8)[0] if len(head) >= 16 else 0
    if size == PIPE_HEADER_BYTES:
        return PerfHeader("pipe", order, PIPE_HEADER_BYTES, None)
    if size != FILE_HEADER_BYTES or len(head) < FILE_HEADER_BYTES:
        raise TraceFormatError(
            f"header of {min(size, len(head))} bytes; {FILE_HEADER_BYTES} (a file) or"
            f" {PIPE_HEADER_BYTES} (a pipe) were expected",
            path=source.path,
            byte=8,
        )
    (entry_size, attrs_at, attrs_size, data_at, data_size, _, _) = struct.unpack_from(
        mark + "7Q", head, 16
    )
    header = PerfHeader("file", order, data_at, data_size)
    _read_attrs(source, header, attrs_at, attrs_size, entry_size)
    if source.size is not None and data_at > source.size:
        header.problems.append((source.size, "the file ends before its records"))
    if data_size == 0:
        # perf writes the size, and all feature sections, only when it ends.
        header.interrupted = True
        header.data_size = None
    else:
        _read_features(source, header, data_at + data_size, head[72:104])
        header.learn_event_names()
    return header


# attrs: entries of { perf_event_attr, u64 offset of ids, u64 size of ids }
def _read_attrs(
    source: PerfBytes, header: PerfHeader, offset: int, size: int, entry_size: int
) -> None:
    entry_size = entry_size or 80  # 0 in files of perf before 2.6.33
    if not 80 <= entry_size <= 8192 or size > _MAX_ATTRS * entry_size:
        raise TraceFormatError(
            f"attr table of {size} bytes in entries of {entry_size}",
            path=source.path,
            byte=16,
        )
    table = source.read(offset, size)
    for at in range(0, len(table) - entry_size + 1, entry_size):
        entry = table[at : at + entry_size]
        ids_at, ids_size = struct.unpack_from(
            header.mark + "QQ", entry, entry_size - 16
        )
        count = ids_size // 8
        if count > _MAX_IDS:
            raise TraceFormatError(
                f"an attr with {count} ids", path=source.path, byte=offset + at
            )
        raw = source.read(ids_at, 8 * count)
        header.add_attr(
            entry[:-16],
            struct.unpack(f"{header.mark}{len(raw) // 8}Q", raw[: len(raw) & -8]),
        )
    if not header.attrs:
        raise TraceFormatError(
            "no perf_event_attr can be read", path=source.path, byte=offset
        )


def _read_features(
    source: PerfBytes, header: PerfHeader, table_at: int, flags: bytes
) -> None:
    numbers = _feature_numbers(flags, header)
    table = source.read(table_at, 16 * len(numbers))
    if len(table) < 16 * len(numbers):
        header.problems.append(
            (table_at + len(table), "the table of feature sections is cut off")
        )
    for i, number in enumerate(numbers[: len(table) // 16]):
        if number not in Feature.__members__.values():
            continue
        offset, size = struct.unpack_from(header.mark + "QQ", table, 16 * i)
        limit = _MAX_FEATURE_BYTES.get(Feature(number), _MAX_SMALL_FEATURE_BYTES)
        data = source.read(offset, min(size, limit))
        if len(data) < size:
            name = Feature(number).name
            header.problems.append(
                (offset + len(data), f"feature {name}: {len(data)} of {size} bytes")
            )
        header.features[number] = data


# The bitmap is an array of the recorder's `unsigned long`. A big-endian 32-bit one
# has its words swapped; HOSTNAME is set by every perf since 2010 and tells which.
def _feature_numbers(flags: bytes, header: PerfHeader) -> list[int]:
    for words in (header.mark + "4Q", header.mark + "8I"):
        values = struct.unpack(words, flags)
        width = 8 * len(flags) // len(values)
        bits = sum(value << (width * i) for i, value in enumerate(values))
        if bits >> Feature.HOSTNAME & 1:
            break
    return [n for n in range(_FEATURE_BITS) if bits >> n & 1]
