"""trace.dat version 6: one part after the other, then the data of each pCPU.

    headers | ftrace events | event systems | kallsyms | printk formats | comms |
    u32 CPUs | "options  \\0" options | "flyrecord\\0" ranges [clock] | data ...

To be read beside trace-cmd's Documentation/trace-cmd/trace-cmd.dat.v6.5.txt.
"""

from __future__ import annotations

from piscope.errors import TraceFormatError
from piscope.sources.cursor import ByteFile, Cursor
from piscope.sources.trace_dat_metadata import (
    BufferData,
    Metadata,
    comms_of,
    cpu_count,
    read_event_systems,
    read_ftrace_events,
    read_header_info,
)
from piscope.sources.trace_dat_options import CpuRange, OptionId, selected_clock
from piscope.sources.trace_dat_salvage import find_tag, rescue_formats

__all__ = ("read_v6",)

TAG_BYTES = 10
OPTIONS_TAG = b"options  \0"
LATENCY_TAG = b"latency  \0"
FLYRECORD_TAG = b"flyrecord\0"

_MAX_OPTION_BYTES = 1 << 26
_MAX_CLOCK_BYTES = 4096
_MAX_COMMS_BYTES = 1 << 26


def read_v6(file: ByteFile, cursor: Cursor, metadata: Metadata) -> None:
    """Read all but the events, with `cursor` behind the page size.

    Where a part is damaged, the next that can be recognized is looked for.
    Raises TraceFormatError where none says where the events are.
    """
    try:
        read_header_info(cursor, metadata)
        read_ftrace_events(cursor, metadata)
        read_event_systems(cursor, metadata)
        cursor.skip(cursor.number(4, "the size of kallsyms"), "kallsyms")
        cursor.skip(cursor.number(4, "the size of printk formats"), "printk formats")
        size = cursor.number(8, "the size of the saved comms")
        if size > _MAX_COMMS_BYTES:
            raise cursor.error(f"a possible size of the comms, not {size}")
        metadata.comms = comms_of(cursor.take(size, "the saved comms"))
        count = cpu_count(cursor)
        tag = _tag(cursor)
    except TraceFormatError as error:
        found = find_tag(file, (OPTIONS_TAG, FLYRECORD_TAG, LATENCY_TAG), 0)
        if found is None:
            raise
        metadata.damaged(str(error))
        rescue_formats(file, metadata, found - 4)
        cursor.at = found - 4
        count = cpu_count(cursor)
        tag = _tag(cursor)
    _read_buffer(file, cursor, metadata, tag, count)
    for option in metadata.options.buffers:
        try:
            cursor.at, cursor.end = option.offset, file.size
            tag = _tag(cursor)
            _read_buffer(file, cursor, metadata, tag, count, option.name)
        except TraceFormatError as error:
            metadata.damaged(f"buffer {option.name!r} is lost: {error}")
    metadata.options.cpu_count = metadata.options.cpu_count or count


def _tag(cursor: Cursor) -> bytes:
    tag = cursor.take(TAG_BYTES, "'options', 'flyrecord' or 'latency'")
    if tag not in (OPTIONS_TAG, FLYRECORD_TAG, LATENCY_TAG):
        cursor.at -= TAG_BYTES
        raise cursor.error(f"'options', 'flyrecord' or 'latency', not {tag!r}")
    return tag


def _read_buffer(
    file: ByteFile,
    cursor: Cursor,
    metadata: Metadata,
    tag: bytes,
    count: int,
    name: str = "",
) -> None:
    if tag == OPTIONS_TAG:
        start = cursor.at
        try:
            _read_options(cursor, metadata)
            tag = _tag(cursor)
        except TraceFormatError as error:
            found = find_tag(file, (FLYRECORD_TAG, LATENCY_TAG), start)
            if found is None:
                raise
            metadata.damaged(str(error))
            cursor.at = found
            tag = _tag(cursor)
    if tag == LATENCY_TAG:
        metadata.text_at = cursor.at
        return
    ranges: list[CpuRange] = []
    # A file whose header has no number of CPUs that could be true has it in an option.
    stated = metadata.options.cpu_count or count
    for cpu in range(stated):
        try:
            offset = cursor.number(8, f"the offset of the data of pCPU {cpu}")
            size = cursor.number(8, f"the size of the data of pCPU {cpu}")
        except TraceFormatError as error:
            if not ranges:
                raise
            metadata.damaged(str(error), cut=True)
            break
        ranges.append(CpuRange(cpu, offset, size))
    if count < stated:
        cursor.skip(min(16, cursor.left), "the range of a CPU that does not exist")
    clock = _read_clock(cursor) if metadata.options.clock_seen else None
    if name == "" and metadata.options.clock is None:
        metadata.options.clock = clock
    metadata.add_buffer(
        file,
        BufferData(
            name=name,
            clock=clock or metadata.options.clock,
            page_size=metadata.pages.page_size,
            chunked=False,
            cpus=tuple(ranges),
        ),
    )


def _read_options(cursor: Cursor, metadata: Metadata) -> None:
    while (number := cursor.number(2, "an option")) != OptionId.DONE:
        size = cursor.number(4, f"the size of option {number}")
        if size > _MAX_OPTION_BYTES:
            raise cursor.error(f"a possible size of option {number}, not {size}")
        data = cursor.take(size, f"the data of option {number}")
        metadata.options.add(number, data, cursor.order, metadata.version)


# The text of trace_clock after the ranges. Some writers got its size wrong: then the
# clock is that of the option, or local, as trace-cmd takes it.
def _read_clock(cursor: Cursor) -> str | None:
    try:
        size = cursor.number(8, "the size of trace_clock")
        if size > _MAX_CLOCK_BYTES:
            return None
        text = cursor.take(size, "trace_clock")
    except TraceFormatError:
        return None
    return selected_clock(text.decode("utf-8", "replace"))
