"""trace.dat version 7: sections, found through a chain of options.

    file:    start | compressor NUL | its version NUL | u64 first options | sections
    section: | u16 id | u16 flags | u32 name | u64 size | body |
    body:    | u32 compressed size | u32 size | data |  where flags has bit 0

To be read beside trace-cmd's Documentation/trace-cmd/trace-cmd.dat.v7.5.txt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from piscope.errors import TraceFormatError
from piscope.sources.compression import MAX_SECTION_BYTES, decompress, known
from piscope.sources.cursor import ByteFile, Cursor
from piscope.sources.trace_dat_metadata import (
    BufferData,
    Metadata,
    comms_of,
    read_event_systems,
    read_ftrace_events,
    read_header_info,
)
from piscope.sources.trace_dat_options import BufferOption, OptionId
from piscope.sources.trace_dat_salvage import find_sections, rescue_buffer

__all__ = ("SECTION_BYTES", "read_v7")

SECTION_BYTES = 16
_COMPRESSED = 1
_MAX_CHAIN = 4096


@dataclass(frozen=True, slots=True)
class _Section:
    id: int
    compressed: bool
    at: int
    size: int

    @property
    def end(self) -> int:
        return self.at + self.size


def read_v7(file: ByteFile, cursor: Cursor, metadata: Metadata) -> None:
    """Read all but the events, with `cursor` behind the page size.

    Where the chain of options is broken, the sections are looked for one after the
    other from the beginning, and the data of a buffer whose option is lost are
    divided among pCPUs by what they look like.
    Raises TraceFormatError where no buffer can be found.
    """
    metadata.compressor = cursor.string(32, "the name of a compressor")
    known(metadata.compressor)
    cursor.string(32, "the compressor's version")
    first = cursor.number(8, "the offset of the first options section")
    reader = _Reader(file, metadata, cursor.at)
    reader.follow_options(first)
    reader.read(OptionId.HEADER_INFO, read_header_info)
    reader.read(OptionId.FTRACE_EVENTS, read_ftrace_events)
    reader.read(OptionId.EVENT_FORMATS, read_event_systems)
    reader.read(OptionId.CMDLINES, _read_comms)
    for option in metadata.options.buffers:
        reader.add_buffer(option)
    reader.rescue_buffers()
    if not metadata.buffers and metadata.text_at is None:
        raise TraceFormatError(
            "no buffer of events: no option describes one, and no section looks like "
            f"one; the file has {file.size} bytes, its first options were expected",
            byte=first,
        )


def _read_comms(cursor: Cursor, metadata: Metadata) -> None:
    size = cursor.number(8, "the size of the saved comms")
    metadata.comms = comms_of(cursor.take(size, "the saved comms"))


class _Reader:
    """The sections of one file."""

    def __init__(self, file: ByteFile, metadata: Metadata, start: int) -> None:
        self._file = file
        self._metadata = metadata
        self._start = start
        self._walked: dict[int, list[int]] | None = None

    # id -> offsets of all sections, found without options; only where need be.
    def _all_sections(self) -> dict[int, list[int]]:
        if self._walked is None:
            self._walked = find_sections(self._file, self._metadata.order, self._start)
        return self._walked

    def _section(self, offset: int, expected: int) -> _Section:
        cursor = Cursor(self._file, self._metadata.order, at=offset)
        name = OptionId(expected).name
        if not self._start <= offset < self._file.size:
            raise cursor.error(f"a section {name}")
        number = cursor.number(2, f"the id of section {name}")
        if number != expected:
            raise cursor.error(f"section {name}, not id {number}, before this")
        flags = cursor.number(2, "section flags")
        cursor.skip(4, "a section's name")
        size = cursor.number(8, "a section's size")
        # Without a compressor the flag can only be damage.
        compressed = flags & _COMPRESSED and self._metadata.compressor != "none"
        return _Section(number, bool(compressed), cursor.at, size)

    # The section's bytes as they were before compression.
    def _body(self, section: _Section) -> Cursor:
        name = OptionId(section.id).name
        order = self._metadata.order
        cursor = Cursor(
            self._file, order, at=section.at, end=section.end, what=f"section {name}"
        )
        if not section.compressed:
            return cursor
        packed = cursor.number(4, "a compressed size")
        size = cursor.number(4, "an uncompressed size")
        if size > MAX_SECTION_BYTES:
            raise cursor.error(f"a section of at most {MAX_SECTION_BYTES} bytes")
        data = cursor.take(packed, "compressed data")
        try:
            body = decompress(self._metadata.compressor, data, size)
        except TraceFormatError as error:
            raise cursor.error(f"readable data before this: {error}") from None
        return Cursor(ByteFile(body), order, what=f"section {name}", base=section.at)

    def follow_options(self, first: int) -> None:
        """Read the chain of options; where it breaks, all options sections."""
        seen: set[int] = set()
        offset = first
        try:
            while offset:
                if offset in seen or len(seen) >= _MAX_CHAIN:
                    raise TraceFormatError(
                        "the chain of options is a loop", byte=offset
                    )
                seen.add(offset)
                offset = self._read_options(offset)
            if seen:
                return
            self._metadata.damaged("the file's start names no options section")
        except TraceFormatError as error:
            cut = max(seen, default=0) >= self._file.size
            self._metadata.damaged(f"the chain of options: {error}", cut=cut)
        for offset in self._all_sections().get(OptionId.DONE, []):
            if offset not in seen:
                try:
                    self._read_options(offset)
                except TraceFormatError as error:
                    self._metadata.damaged(str(error))

    def _read_options(self, offset: int) -> int:
        cursor = self._body(self._section(offset, OptionId.DONE))
        while True:
            number = cursor.number(2, "an option")
            size = cursor.number(4, f"the size of option {number}")
            data = cursor.take(size, f"the data of option {number}")
            if number == OptionId.DONE:
                return int.from_bytes(data[:8], cursor.order)
            self._metadata.options.add(number, data, cursor.order, 7)

    def read(self, number: int, into: Callable[[Cursor, Metadata], None]) -> None:
        """Read one section of metadata, where the options or a walk tell its place."""
        offset = self._metadata.options.sections.get(number)
        try:
            if offset is None:
                offset = self._all_sections()[number][0]
            into(self._body(self._section(offset, number)), self._metadata)
        except KeyError:
            name = OptionId(number).name
            self._metadata.damaged(f"the file has no section {name}")
        except TraceFormatError as error:
            self._metadata.damaged(str(error))

    def add_buffer(self, option: BufferOption) -> None:
        """Add the buffer that an option describes."""
        if option.text:
            self._metadata.text_at = option.offset + SECTION_BYTES
            return
        chunked = self._metadata.compressor != "none"
        end = None
        try:
            section = self._section(option.offset, OptionId.BUFFER)
            chunked = section.compressed
            end = section.end
        except TraceFormatError as error:
            self._metadata.damaged(str(error))
        # A size that leaves out data which the option names can't be right.
        beyond = max((c.offset + c.size for c in option.cpus), default=0)
        if end is not None and end < beyond:
            self._metadata.damaged(
                f"the section at byte {option.offset} ends at byte {end}, "
                f"its data at byte {beyond}"
            )
            end = None
        self._metadata.add_buffer(
            self._file,
            BufferData(
                name=option.name,
                clock=option.clock or self._metadata.options.clock,
                page_size=option.page_size or self._metadata.pages.page_size,
                chunked=chunked,
                cpus=option.cpus,
            ),
            end=end,
        )

    def rescue_buffers(self) -> None:
        """Add the buffers whose option is lost, where the chain of options broke."""
        if self._walked is None:
            return
        known_offsets = {option.offset for option in self._metadata.options.buffers}
        for offset in self._all_sections().get(OptionId.BUFFER, []):
            if offset in known_offsets:
                continue
            section = self._section(offset, OptionId.BUFFER)
            if section.size:
                rescue_buffer(
                    self._file,
                    self._metadata,
                    (section.at, section.end),
                    chunked=section.compressed,
                )
