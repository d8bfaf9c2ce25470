"""What can still be found in a trace.dat file whose structure is damaged or cut.

Everything here recognizes parts by what they look like, so that all of it is noted
in the losses: a reader of the result must know that the file did not say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from piscope.sources.compression import MAGIC, MAX_CHUNK_BYTES
from piscope.sources.cursor import ByteFile
from piscope.sources.event_format import ByteOrder
from piscope.sources.raw import Loss
from piscope.sources.trace_dat_metadata import BufferData, Metadata
from piscope.sources.trace_dat_options import MAX_CPUS, CpuRange, OptionId

__all__ = ("find_sections", "find_tag", "rescue_buffer", "rescue_formats")

_WINDOW_BYTES = 1 << 20
_MAX_METADATA_BYTES = 1 << 28
# Recorders write a dozen sections; in a damaged file a few more may seem to be there.
_MAX_SECTIONS = 1000
_MAX_SKIPS = 100
_FORMAT_START = re.compile(rb"name: (\S+)\nID: (\d{1,5})\nformat:\n")
_SYSTEM = re.compile(rb"([A-Za-z0-9_.-]{1,64})\0[\0-\xff]{4}\Z", re.DOTALL)


def find_tag(file: ByteFile, tags: tuple[bytes, ...], start: int) -> int | None:
    """The byte of the first of `tags` from `start` on, or None."""
    for offset, data in _windows(file, start, overlap=64):
        places = [at for at in map(data.find, tags) if at >= 0]
        if places:
            return offset + min(places)
    return None


# Windows over the file, each beginning with the last bytes of the one before.
def _windows(
    file: ByteFile, start: int, *, overlap: int
) -> Iterator[tuple[int, bytes]]:
    end = min(file.size, start + _MAX_METADATA_BYTES)
    while start < end:
        yield start, file.read_at(start, _WINDOW_BYTES + overlap)
        start += _WINDOW_BYTES


def rescue_formats(file: ByteFile, metadata: Metadata, end: int) -> None:
    """Find event formats by their text, in place of those read before the damage.

    The texts lie back to back, each behind its size; a system's name and number of
    events stand between the last text of one system and the first of the next.
    """
    data = file.read_at(0, min(end, _MAX_METADATA_BYTES))
    system, last_end = "ftrace", 0
    formats: list[tuple[str, bytes]] = []
    starts = [match.start() for match in _FORMAT_START.finditer(data)]
    for i, start in enumerate(starts):
        size = int.from_bytes(data[start - 8 : start], metadata.order)
        following = starts[i + 1] if i + 1 < len(starts) else len(data)
        if not 0 < size <= following - start:
            # The size is damaged: the text goes on to the end of its print fmt.
            stop = data.find(b"\n", data.find(b"\nprint fmt:", start, following) + 1)
            size = (stop if stop > 0 else following) - start
        named = _SYSTEM.search(data[max(last_end, start - 80) : max(0, start - 8)])
        if named is not None and last_end:
            system = named[1].decode()
        formats.append((system, data[start : start + size]))
        last_end = start + size
    if len(formats) >= len(metadata.formats):
        metadata.formats = formats
        metadata.damaged(f"{len(formats)} event formats were found by their text")


def find_sections(file: ByteFile, order: ByteOrder, start: int) -> dict[int, list[int]]:
    """id -> bytes of all v7 sections of that id, walking from one to the next.

    Where a header can't be one, the next place is looked for that can.
    """
    found: dict[int, list[int]] = {}
    known = {int(option) for option in OptionId}
    at = start
    skips = 0
    while at + 16 <= file.size and sum(map(len, found.values())) < _MAX_SECTIONS:
        head = file.read_at(at, 16)
        number = int.from_bytes(head[:2], order)
        flags = int.from_bytes(head[2:4], order)
        size = int.from_bytes(head[8:16], order)
        # The last section of a cut file states more than there is.
        if number in known and flags <= 1 and (size or number == OptionId.BUFFER):
            follows = at + 16 + size
            if follows >= file.size or _could_be_section(file, order, follows):
                found.setdefault(number, []).append(at)
                at = follows
                continue
        skips += 1
        skipped = _next_section(file, order, at + 1)
        if skipped is None or skips > _MAX_SKIPS:
            break
        at = skipped
    return found


def _could_be_section(file: ByteFile, order: ByteOrder, at: int) -> bool:
    head = file.read_at(at, 16)
    return len(head) < 16 or (
        int.from_bytes(head[:2], order) in {int(option) for option in OptionId}
        and int.from_bytes(head[2:4], order) <= 1
        and int.from_bytes(head[4:8], order) < 1 << 16
    )


# The next byte at which a section could begin whose end is one's beginning as well.
def _next_section(file: ByteFile, order: ByteOrder, start: int) -> int | None:
    sections = [int(o) for o in OptionId if o in (0, 3) or 15 <= o <= 25]
    for offset, data in _windows(file, start, overlap=16):
        count = len(data) - 16
        if count <= 0:
            return None
        raw = np.frombuffer(data, np.uint8)
        low, high = (0, 1) if order == "little" else (1, 0)
        ids = raw[low : low + count].astype(np.uint16)
        ids |= raw[high : high + count].astype(np.uint16) << np.uint16(8)
        likely = np.isin(ids, sections) & (raw[2 + high : 2 + high + count] == 0)
        likely &= raw[2 + low : 2 + low + count] <= 1
        # Names are offsets into a short table of strings, sizes below 2**40.
        zeros = (6, 7, 13, 14, 15) if order == "little" else (4, 5, 8, 9, 10)
        for byte in zeros:
            likely &= raw[byte : byte + count] == 0
        for place in np.flatnonzero(likely).tolist():
            size = int.from_bytes(data[place + 8 : place + 16], order)
            end = offset + place + 16 + size
            if size and (end == file.size or _is_section(file, order, end)):
                return offset + int(place)
    return None


def _is_section(file: ByteFile, order: ByteOrder, at: int) -> bool:
    return at + 16 <= file.size and _could_be_section(file, order, at)


def rescue_buffer(
    file: ByteFile, metadata: Metadata, span: tuple[int, int], *, chunked: bool
) -> None:
    """Divide the data of a buffer whose option is lost among its pCPUs.

    Each pCPU's data begin at a multiple of the page size; where they begin is seen
    from the chunks' headers, or from times that go back. The pCPUs are numbered in
    this order, which is the recorder's; that none of them is missing is assumed.
    """
    start, end = span[0], min(span[1], file.size)
    page_size = metadata.pages.page_size
    starts = (
        _chunked_starts(file, metadata, start, end)
        if chunked
        else _page_starts(file, metadata, start, end)
    )
    if not starts:
        return
    ends = [*starts[1:], end]
    less = 4 if chunked else 0
    ranges = tuple(
        CpuRange(cpu, at, stop - at - less)
        for cpu, (at, stop) in enumerate(zip(starts, ends, strict=True))
    )
    known = metadata.options.cpu_count
    sure = known == len(ranges)
    metadata.losses.append(
        Loss(
            "damaged",
            detail=f"the option that names the pCPUs of the buffer at byte {start} is "
            f"lost: {len(ranges)} were found"
            + ("" if sure else ", and their numbers are assumed"),
        )
    )
    metadata.add_buffer(
        file,
        replace(
            BufferData("", metadata.options.clock, page_size, chunked, ranges),
            name="" if not metadata.buffers else f"byte-{start}",
        ),
        end=end,
    )


def _chunked_starts(
    file: ByteFile, metadata: Metadata, start: int, end: int
) -> list[int]:
    magic = MAGIC.get(metadata.compressor, b"")
    step = metadata.page_size if 512 <= metadata.page_size <= 1 << 16 else 4096
    starts: list[int] = []
    at = -(-start // step) * step
    while at + 16 <= end and len(starts) < MAX_CPUS:
        head = file.read_at(at, 16)
        count, packed, size = (
            int.from_bytes(head[i : i + 4], metadata.order) for i in (0, 4, 8)
        )
        if count == 0 or not 0 < size <= MAX_CHUNK_BYTES or head[12:].find(magic):
            at += step
            continue
        starts.append(at)
        place = at + 4
        for _ in range(count):
            head = file.read_at(place, 8)
            packed = int.from_bytes(head[:4], metadata.order)
            if len(head) < 8 or place + 8 + packed > end:
                break
            place += 8 + packed
        at = max(at + step, -(-place // step) * step)
    return starts


def _page_starts(file: ByteFile, metadata: Metadata, start: int, end: int) -> list[int]:
    page_size = metadata.pages.page_size
    starts: list[int] = []
    last = None
    for at in range(-(-start // page_size) * page_size, end - 15, page_size):
        ts = int.from_bytes(file.read_at(at, 8), metadata.order)
        if ts == 0:
            continue
        if (last is None or ts < last) and len(starts) < MAX_CPUS:
            starts.append(at)
        last = ts
    return starts
