"""Writes trace.dat files of versions 6 and 7, streaming.

Written from trace-cmd's Documentation/trace-cmd/trace-cmd.dat.v6 and .v7, independently
of the reader; the tests make their malformed files with it, too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

import zstandard

__all__ = (
    "Buffer",
    "Compressor",
    "Recording",
    "compress",
    "header_page",
    "write",
)

Endian = Literal["little", "big"]
Compressor = Literal["none", "zlib", "zstd"]

DATE, CPUSTAT, BUFFER, TRACECLOCK, UNAME, OFFSET, CPUCOUNT = 1, 2, 3, 4, 5, 7, 8
VERSION, TRACEID, TIME_SHIFT, GUEST, TSC2NSEC = 9, 11, 12, 13, 14
STRINGS, HEADER_INFO, FTRACE_EVENTS, EVENT_FORMATS, KALLSYMS = 15, 16, 17, 18, 19
PRINTK, CMDLINES, BUFFER_TEXT = 20, 21, 22

HEADER_EVENT = b"# compressed entry header\n\ttype_len    :    5 bits\n"
PAGES_IN_CHUNK = 10


@dataclass
class Buffer:
    """One ring buffer; `cpus` is cpu -> its sub-buffers, consumed when written."""

    name: str = ""
    clock: str = "local"
    page_size: int = 4096
    cpus: Mapping[int, Iterable[bytes]] = field(default_factory=dict)


@dataclass
class Recording:
    """All that goes into a file, in the file's own terms.

    `options` are (id, data); BUFFER and TRACECLOCK options are added by the writer.
    `text`: a latency tracer's output in place of the top buffer.
    `extra_sections` (v7) are (id, body) and lie before the buffers.
    """

    version: int = 7
    endian: Endian = "little"
    user_long_size: int = 8
    page_size: int = 4096
    compressor: Compressor = "none"
    header_page: bytes = b""
    ftrace_formats: Sequence[bytes] = ()
    systems: Sequence[tuple[str, Sequence[bytes]]] = ()
    comms: Mapping[int, str] = field(default_factory=dict)
    cpu_count: int = 2
    clock: str | None = "local"
    options: Sequence[tuple[int, bytes]] = ()
    buffers: Sequence[Buffer] = ()
    text: bytes | None = None
    extra_sections: Sequence[tuple[int, bytes]] = ()

    @property
    def order(self) -> str:
        """The mark of the byte order that struct takes."""
        return "<" if self.endian == "little" else ">"

    def u(self, form: str, *values: int) -> bytes:
        """Numbers in the file's byte order."""
        return struct.pack(self.order + form, *values)

    def z(self, text: str) -> bytes:
        """A text and its NUL."""
        return text.encode() + b"\0"

    def sized(self, text: bytes, form: str = "Q") -> bytes:
        """A text behind its length."""
        return self.u(form, len(text)) + text

    def clock_text(self) -> bytes:
        """The text of trace_clock."""
        words = ["local", "global", "counter", "uptime", "mono", "mono_raw", "x86-tsc"]
        words += [] if self.clock is None or self.clock in words else [self.clock]
        shown = [f"[{w}]" if w == self.clock else w for w in words]
        return " ".join(shown).encode() + b"\n\0"

    def headers(self) -> bytes:
        """header_page and header_event."""
        return (
            b"header_page\0"
            + self.sized(self.header_page)
            + b"header_event\0"
            + self.sized(HEADER_EVENT)
        )

    def ftrace_block(self) -> bytes:
        """The formats of ftrace's own events."""
        return self.u("I", len(self.ftrace_formats)) + b"".join(
            map(self.sized, self.ftrace_formats)
        )

    def systems_block(self) -> bytes:
        """All other formats, system by system."""
        out = self.u("I", len(self.systems))
        for name, texts in self.systems:
            out += self.z(name) + self.u("I", len(texts))
            out += b"".join(map(self.sized, texts))
        return out

    def comms_block(self) -> bytes:
        """The names of tasks by tid."""
        lines = "".join(f"{tid} {comm}\n" for tid, comm in self.comms.items())
        return self.sized(lines.encode() + b"\0")

    def option(self, number: int, data: bytes) -> bytes:
        """One option."""
        return self.u("HI", number, len(data)) + data


def header_page(
    page_size: int = 4096, long_size: int = 8, overwrite: str = "int"
) -> bytes:
    """The text of events/header_page for sub-buffers of a size."""
    rows = (
        ("u64 timestamp", 0, 8, 0),
        ("local_t commit", 8, long_size, 1),
        (f"{overwrite} overwrite", 8, 1, 1),
        ("char data", 8 + long_size, page_size - 8 - long_size, 0),
    )
    return "".join(
        f"\tfield: {name};\toffset:{at};\tsize:{size};\tsigned:{signed};\n"
        for name, at, size, signed in rows
    ).encode()


def write(file: BinaryIO, made: Recording) -> None:
    """Write a recording; its sub-buffers are consumed one by one."""
    file.write(b"\x17\x08\x44tracing" + str(made.version).encode() + b"\0")
    file.write(bytes([made.endian == "big", made.user_long_size]))
    file.write(made.u("I", made.page_size))
    (_write_v6 if made.version == 6 else _write_v7)(file, made)


def _write_v6(file: BinaryIO, made: Recording) -> None:
    file.write(made.headers() + made.ftrace_block() + made.systems_block())
    file.write(made.sized(b"ffff0 T start\n", "I") + made.sized(b"", "I"))
    file.write(made.comms_block() + made.u("I", made.cpu_count))
    file.write(b"options  \0")
    if made.clock:
        file.write(made.option(TRACECLOCK, made.clock_text()))
    for number, data in made.options:
        file.write(made.option(number, data))
    places = {}
    for buffer in made.buffers[1:]:
        data = made.u("Q", 0) + made.z(buffer.name)
        places[buffer.name] = file.tell() + 6
        file.write(made.option(BUFFER, data))
    file.write(made.u("H", 0))
    if made.text is not None:
        file.write(b"latency  \0" + made.text)
        return
    for buffer in made.buffers:
        if buffer.name:
            _patch(file, places[buffer.name], made.u("Q", file.tell()))
        file.write(b"flyrecord\0")
        table = file.tell()
        file.write(bytes(16 * made.cpu_count))
        if made.clock:
            file.write(made.sized(made.clock_text()))
        for cpu, pages in buffer.cpus.items():
            _align(file, buffer.page_size)
            start = file.tell()
            for page in pages:
                file.write(page)
            place = made.u("QQ", start, file.tell() - start)
            _patch(file, table + 16 * cpu, place)


def _write_v7(file: BinaryIO, made: Recording) -> None:
    file.write(made.z(made.compressor) + made.z("1.0"))
    first_options = file.tell()
    file.write(made.u("Q", 0))
    sections = (
        (HEADER_INFO, made.headers()),
        (FTRACE_EVENTS, made.ftrace_block()),
        (EVENT_FORMATS, made.systems_block()),
        (KALLSYMS, made.sized(b"ffff0 T start\n", "I")),
        (PRINTK, made.sized(b"", "I")),
        (CMDLINES, made.comms_block()),
        *made.extra_sections,
    )
    options = []
    for number, body in sections:
        options.append((number, made.u("Q", file.tell())))
        _write_section(file, made, number, body)
    if made.clock:
        options.append((TRACECLOCK, made.clock_text()))
    options += made.options
    options.append((CPUCOUNT, made.u("I", made.cpu_count)))
    _patch(file, first_options, made.u("Q", file.tell()))
    next_options = _write_options(file, made, options)
    described = []
    if made.text is not None:
        start = file.tell()
        described.append((BUFFER_TEXT, made.u("Q", start) + made.z("") + made.z("")))
        _write_section(file, replace(made, compressor="none"), BUFFER_TEXT, made.text)
    for buffer in made.buffers if made.text is None else ():
        described.append((BUFFER, _write_buffer(file, made, buffer)))
    _patch(file, next_options, made.u("Q", file.tell()))
    _write_options(file, made, described)


def _write_section(file: BinaryIO, made: Recording, number: int, body: bytes) -> None:
    packed = made.compressor != "none"
    if packed:
        squeezed = compress(made.compressor, body)
        body = made.u("II", len(squeezed), len(body)) + squeezed
    file.write(made.u("HHIQ", number, int(packed), 0, len(body)) + body)


# The place in the file at which the offset of the next options section belongs.
def _write_options(
    file: BinaryIO, made: Recording, options: Iterable[tuple[int, bytes]]
) -> int:
    body = b"".join(made.option(number, data) for number, data in options)
    body += made.option(0, bytes(8))
    # trace-cmd leaves options uncompressed, so that the chain can be patched.
    file.write(made.u("HHIQ", 0, 0, 0, len(body)) + body)
    return file.tell() - 8


def _write_buffer(file: BinaryIO, made: Recording, buffer: Buffer) -> bytes:
    start = file.tell()
    packed = made.compressor != "none"
    file.write(made.u("HHIQ", BUFFER, int(packed), 0, 0))
    cpus = []
    for cpu, pages in buffer.cpus.items():
        _align(file, made.page_size)
        at = file.tell()
        size = _write_chunks(file, made, pages) if packed else 0
        if not packed:
            for page in pages:
                size += file.write(page)
        if size:
            cpus.append(made.u("IQQ", cpu, at, size))
    _patch(file, start + 8, made.u("Q", file.tell() - start - 16))
    return (
        made.u("Q", start)
        + made.z(buffer.name)
        + made.z(buffer.clock)
        + made.u("II", buffer.page_size, len(cpus))
        + b"".join(cpus)
    )


# Chunks are cut by the file's page size, whatever the size of sub-buffers is.
def _write_chunks(file: BinaryIO, made: Recording, pages: Iterable[bytes]) -> int:
    at = file.tell()
    file.write(made.u("I", 0))
    count = 0
    for chunk in _regrouped(pages, PAGES_IN_CHUNK * made.page_size):
        squeezed = compress(made.compressor, chunk)
        file.write(made.u("II", len(squeezed), len(chunk)) + squeezed)
        count += 1
    _patch(file, at, made.u("I", count))
    # The count itself is left out of the size.
    return file.tell() - at - 4 if count else 0


def _regrouped(pages: Iterable[bytes], size: int) -> Iterator[bytes]:
    held = bytearray()
    for page in pages:
        held += page
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def compress(compressor: Compressor, data: bytes) -> bytes:
    """`data` as trace-cmd would write them; zstd frames carry no content size."""
    if compressor == "zlib":
        return zlib.compress(data)
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def _patch(file: BinaryIO, at: int, data: bytes) -> None:
    end = file.tell()
    file.seek(at)
    file.write(data)
    file.seek(end)


def _align(file: BinaryIO, size: int) -> None:
    file.write(bytes(-file.tell() % size))
