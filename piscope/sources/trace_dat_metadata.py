"""What the readers of trace.dat versions 6 and 7 find before the events.

    byte 0   17 08 44 "tracing"
    byte 10  version, decimal text and NUL; then u8 byte order (0 little, 1 big),
             u8 long size of the recorder's userland, u32 page size

To be read beside trace-cmd's Documentation/trace-cmd/trace-cmd.dat.v{6,7}.5.txt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import zip_longest

from piscope.errors import TraceFormatError, UnsupportedTraceError
from piscope.sources.cursor import ByteFile, Cursor
from piscope.sources.event_format import (
    DEFAULT_PAGE_LAYOUT,
    ByteOrder,
    PageLayout,
    parse_header_page,
)
from piscope.sources.raw import Loss
from piscope.sources.trace_dat_options import MAX_CPUS, CpuRange, Options

__all__ = (
    "BufferData",
    "Metadata",
    "comms_of",
    "read_event_systems",
    "read_ftrace_events",
    "read_header_info",
    "read_start",
)

MAGIC = b"\x17\x08\x44tracing"
_MAX_FORMAT_BYTES = 1 << 24
_MAX_FORMATS = 1 << 16
_MAX_NAME_BYTES = 4096
_MAX_PAGE_BYTES = 1 << 24

_FOREIGN = (
    (b"PERFILE2", "a perf.data file"),
    (b"2ELIFREP", "a perf.data file of another byte order"),
    (b"\x1f\x8b", "gzip data: decompress them first"),
    (b"\x28\xb5\x2f\xfd", "zstd data: decompress them first"),
    (b"\xfd7zXZ", "xz data: decompress them first"),
    (b"BZh", "bzip2 data: decompress them first"),
    (b"\x7fELF", "an ELF file"),
)


@dataclass(frozen=True, slots=True)
class BufferData:
    """One ring buffer whose data are in the file; the top buffer's name is empty.

    page_size  bytes of its sub-buffers
    chunked    its data are compressed, in chunks
    """

    name: str
    clock: str | None
    page_size: int
    chunked: bool
    cpus: tuple[CpuRange, ...]


@dataclass(slots=True)
class Metadata:
    """All that a trace.dat file says, but for its events.

    formats    (system, format text) in the file's order
    text_at    byte of a latency tracer's text, where the file has that and no events
    losses     what could not be read of this
    """

    version: int
    order: ByteOrder
    long_size: int
    page_size: int
    compressor: str = "none"
    pages: PageLayout = DEFAULT_PAGE_LAYOUT
    formats: list[tuple[str, bytes]] = field(default_factory=list)
    comms: dict[int, str] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    buffers: list[BufferData] = field(default_factory=list)
    text_at: int | None = None
    losses: list[Loss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def damaged(self, detail: str, *, cut: bool = False) -> None:
        """Note that a part could not be read."""
        self.losses.append(Loss("truncated" if cut else "damaged", detail=detail))

    def add_buffer(
        self,
        file: ByteFile,
        buffer: BufferData,
        *,
        end: int | None = None,
    ) -> None:
        """Add a buffer, its ranges limited to what the file has and does not share.

        `end` is the byte at which the buffer's section ends.
        """
        page_size = buffer.page_size
        least = self.pages.data_offset + 8
        if not least <= page_size <= _MAX_PAGE_BYTES or page_size % 4:
            self.damaged(
                f"buffer {buffer.name!r} states sub-buffers of {page_size} bytes; "
                f"taken as {self.pages.page_size}"
            )
            page_size = self.pages.page_size
        end = min(file.size, file.size if end is None else end)
        ordered = sorted(
            (r for r in buffer.cpus if r.size), key=lambda r: (r.offset, r.cpu)
        )
        ranges: list[CpuRange] = []
        for cpu, follower in zip_longest(ordered, ordered[1:]):
            limit = end if follower is None else min(end, follower.offset)
            lacking = min(cpu.size, cpu.offset + cpu.size - limit)
            # Some writers leave the count before the chunks out of the size.
            size = cpu.size + (4 if buffer.chunked else 0)
            size = min(size, limit - cpu.offset)
            if lacking > 0 and limit < file.size:
                detail = f"of {cpu.size} bytes of data of pCPU {cpu.cpu} from byte "
                detail += f"{cpu.offset} on, {lacking} are another part's"
                self.losses.append(Loss("damaged", cpu=cpu.cpu, detail=detail))
            missing = lacking if lacking > 0 and limit == file.size else 0
            ranges.append(replace(cpu, size=max(0, size), missing=missing))
        kept = tuple(sorted(ranges, key=lambda r: r.cpu))
        self.buffers.append(replace(buffer, page_size=page_size, cpus=kept))


def read_start(file: ByteFile) -> tuple[Metadata, Cursor]:
    """The first bytes of a trace.dat file, and the cursor behind them.

    Raises TraceFormatError for what is not a trace.dat file, UnsupportedTraceError
    for one of a version that is not read.
    """
    cursor = Cursor(file, "little")
    if file.size == 0:
        raise TraceFormatError("the file is empty")
    head = file.read_at(0, 16)
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise UnsupportedTraceError(f"not a trace.dat file, but {what}", byte=0)
    if not head.startswith(MAGIC):
        raise TraceFormatError(
            f"not a trace.dat file: expected 17 08 44 'tracing', not {head[:10]!r}",
            byte=0,
        )
    cursor.skip(len(MAGIC), "the magic")
    text = cursor.string(16, "a version")
    if not text.isascii() or not text.isdigit():
        raise TraceFormatError(f"expected a version number, not {text!r}", byte=10)
    version = int(text)
    if version not in (6, 7):
        raise UnsupportedTraceError(
            f"trace.dat version {version}; 6 and 7 are read", byte=10
        )
    endian = cursor.number(1, "a byte order")
    metadata = Metadata(
        version=version,
        order="big" if endian & 1 else "little",
        long_size=cursor.number(1, "a long size"),
        page_size=0,
    )
    if endian > 1:
        metadata.damaged(f"byte order {endian} at byte {cursor.at - 2} is not 0 or 1")
    cursor.order = metadata.order
    metadata.page_size = cursor.number(4, "a page size")
    return metadata, cursor


def read_header_info(cursor: Cursor, metadata: Metadata) -> None:
    """Both header texts: | "header_page" NUL | u64 size | text | "header_event" ... |.

    Raises TraceFormatError where they are not there. One that can't be understood is
    replaced by the usual layout, and that is noted.
    """
    if cursor.string(16, "the tag 'header_page'") != "header_page":
        raise cursor.error("the tag 'header_page' before this")
    text = _sized_text(cursor, 8, "the text of header_page")
    try:
        metadata.pages = parse_header_page(text)
    except TraceFormatError as error:
        wide = metadata.long_size != 4
        metadata.pages = replace(
            DEFAULT_PAGE_LAYOUT,
            commit_size=8 if wide else 4,
            data_offset=16 if wide else 12,
            data_size=4080 if wide else 4084,
        )
        metadata.damaged(f"{error}; taken as {metadata.pages}")
    if cursor.string(16, "the tag 'header_event'") != "header_event":
        raise cursor.error("the tag 'header_event' before this")
    # Its contents never change: they describe what ring_buffer.py knows.
    cursor.skip(cursor.number(8, "the size of header_event"), "header_event")


def read_ftrace_events(cursor: Cursor, metadata: Metadata) -> None:
    """The ftrace-internal event formats: | u32 count | count x { u64 size, text } |.

    Raises TraceFormatError where the bytes end first; what came before is kept.
    """
    for _ in range(_count(cursor, "ftrace events")):
        text = _sized_text(cursor, 8, "an ftrace event's format")
        metadata.formats.append(("ftrace", text))


def read_event_systems(cursor: Cursor, metadata: Metadata) -> None:
    """All other event formats: | u32 systems | name NUL | u32 count | formats | ...

    Raises TraceFormatError where the bytes end first; what came before is kept.
    """
    for _ in range(_count(cursor, "event systems")):
        system = cursor.string(_MAX_NAME_BYTES, "the name of an event system")
        for _ in range(_count(cursor, f"events of {system}")):
            text = _sized_text(cursor, 8, f"an event format of {system}")
            metadata.formats.append((system, text))


def comms_of(text: bytes) -> dict[int, str]:
    """tid -> comm, from saved_cmdlines: a line each, split at the first blank only."""
    comms: dict[int, str] = {}
    for line in text.split(b"\n"):
        tid, _, comm = line.strip(b"\0").partition(b" ")
        if tid.isdigit() and len(tid) < 11 and comm:
            comms[int(tid)] = comm.decode("utf-8", "replace")
    return comms


def cpu_count(cursor: Cursor) -> int:
    """A number of CPUs. Raises TraceFormatError where it can't be one."""
    count = cursor.number(4, "a number of CPUs")
    if not count <= MAX_CPUS:
        raise cursor.error(f"at most {MAX_CPUS} CPUs before this, not {count}")
    return count


def _count(cursor: Cursor, what: str) -> int:
    count = cursor.number(4, f"the number of {what}")
    if count > _MAX_FORMATS:
        raise cursor.error(f"a possible number of {what} before this, not {count}")
    return count


def _sized_text(cursor: Cursor, width: int, what: str) -> bytes:
    size = cursor.number(width, f"the size of {what}")
    if size > _MAX_FORMAT_BYTES:
        raise cursor.error(f"a possible size of {what} before this, not {size}")
    return cursor.take(size, what)
