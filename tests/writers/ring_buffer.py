"""Writes ftrace sub-buffers. From include/linux/ring_buffer.h, not from the reader.

sub-buffer: | ts 8 | commit 4 or 8 | entries ... |
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from writers.trace_events import Endian

Stamps = Literal["delta", "absolute", "extend"]

PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
MAX_DELTA = (1 << 27) - 1
MAX_SHORT_BYTES = 28 * 4


@dataclass(frozen=True)
class PageShape:
    """How sub-buffers are written; `long_size` is that of the traced kernel.

    stamps       how the time of each event is given
    long_length  lengths are always in a word of their own (type_len 0)
    padding      a discarded event of 12 bytes stands before every event
    """

    endian: Endian = "little"
    long_size: int = 8
    page_size: int = 4096
    stamps: Stamps = "delta"
    long_length: bool = False
    padding: bool = False

    @property
    def header_size(self) -> int:
        return 8 + self.long_size

    @property
    def order(self) -> str:
        return "<" if self.endian == "little" else ">"

    def word(self, value: int) -> bytes:
        return struct.pack(self.order + "I", value & 0xFFFFFFFF)

    def head(self, kind: int, delta: int) -> bytes:
        if self.endian == "little":
            return self.word(delta << 5 | kind)
        return self.word(kind << 27 | delta)


def entry_of(shape: PageShape, record: bytes, ts: int, last: int) -> bytes:
    """The entry, or entries, that put a record at `ts` after a time of `last`."""
    out = b""
    delta = ts - last
    if shape.padding and delta:
        # A discarded event keeps its time; libtraceevent adds it.
        out += shape.head(PADDING, 1) + shape.word(12) + bytes(8)
        delta -= 1
    if shape.stamps == "absolute":
        out += shape.head(TIME_STAMP, ts & MAX_DELTA)
        out += shape.word(ts >> 27 & 0xFFFFFFFF)
        delta = 0
    elif shape.stamps == "extend" or delta > MAX_DELTA:
        out += shape.head(TIME_EXTEND, delta & MAX_DELTA) + shape.word(delta >> 27)
        delta = 0
    body = record.ljust(-(-len(record) // 4) * 4, b"\0")
    if shape.long_length or not 0 < len(body) <= MAX_SHORT_BYTES:
        return out + shape.head(0, delta) + shape.word(len(body) + 4) + body
    return out + shape.head(len(body) // 4, delta) + body


def page_of(
    shape: PageShape, ts: int, data: bytes, missed: int | Literal[False] | None = False
) -> bytes:
    """A sub-buffer of the given entries; `missed` events before it, None: unknown."""
    commit = len(data)
    tail = b""
    if missed is not False:
        commit |= 1 << 31
        if missed is not None:
            commit |= 1 << 30
            tail = missed.to_bytes(shape.long_size, shape.endian, signed=True)
        if shape.long_size == 8:
            commit |= 0xFFFFFFFF << 32  # sign-extended, as the kernel leaves it
    head = struct.pack(shape.order + "Q", ts)
    head += commit.to_bytes(shape.long_size, shape.endian)
    page = head + data + tail
    if len(page) > shape.page_size:
        raise ValueError("more data than a sub-buffer holds")
    return page.ljust(shape.page_size, b"\0")


def pages_of(
    shape: PageShape,
    records: Iterable[tuple[int, bytes]],
    *,
    missed: Mapping[int, int | None] | None = None,
    per_page: int | None = None,
) -> Iterator[bytes]:
    """Sub-buffers of (ts, record), at most `per_page` events each.

    `missed` is sub-buffer number -> events lost before it.
    """
    missed = missed or {}
    room = shape.page_size - shape.header_size - shape.long_size
    number, count, start, last, data = 0, 0, 0, 0, b""
    for ts, record in records:
        if count:
            entry = entry_of(shape, record, ts, last)
            if len(data) + len(entry) > room or count == per_page or ts < last:
                yield page_of(shape, start, data, missed.get(number, False))
                number, count, data = number + 1, 0, b""
        if count == 0:
            start = last = max(0, ts - shape.padding)
            entry = entry_of(shape, record, ts, last)
        data += entry
        last, count = ts, count + 1
    if count:
        yield page_of(shape, start, data, missed.get(number, False))
