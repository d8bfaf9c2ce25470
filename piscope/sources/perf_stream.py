"""The records of a perf.data in windows of some MiB, decompressed where needed.

A window is one reused buffer: what is wanted of it has to be taken before the next
one is asked for.

To be read beside tools/perf/util/session.c (reader__read_event) and, for compressed
records, tools/perf/util/tool.c (perf_session__process_compressed_event).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_abi import Record
from piscope.sources.perf_bytes import PerfBytes
from piscope.sources.perf_inflate import Inflater
from piscope.sources.perf_losses import LossLog
from piscope.sources.perf_walk import MAX_RECORD_BYTES, find_record, headers_at, walk

__all__ = ("WINDOW_BYTES", "Extent", "Window", "read_windows")

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]

WINDOW_BYTES = 4 << 20  # of 2 to 8 MiB, those that fit into a cache are fastest
# Every place at which the chain is lost costs a search. A file with more of them is
# not a perf.data with some damage.
_MAX_REPAIRS = 1000


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a sequence of records lies.

    size     in bytes; None: up to the end of the input
    name     for messages: "" or the file of a directory
    """

    source: PerfBytes
    offset: int
    size: int | None
    mark: Literal["<", ">"]
    name: str = ""

    def where(self, offset: int) -> str:
        """A byte of the input, for people."""
        return f"{self.name} byte {offset}".lstrip()


@dataclass(slots=True)
class Window:
    """Some whole records.

    data     uint8[], with the records at `offsets`
    types    uint32[n], misc uint16[n], sizes int64[n]: the record headers
    rounds   byte places in `data`: before each, perf finished a round of reading all
             ring buffers
    position   offset in the input of data[0]; None: decompressed data
    """

    data: Bytes
    offsets: Index
    types: npt.NDArray[np.uint32]
    misc: npt.NDArray[np.uint16]
    sizes: Index
    rounds: Index
    position: int | None

    def __len__(self) -> int:
        return len(self.offsets)


def _window(data: Bytes, offsets: Index, mark: str, position: int | None) -> Window:
    headers = headers_at(data, offsets, mark)
    low, middle, high = (0, 32, 48) if mark == "<" else (32, 16, 0)
    types = (headers >> np.uint64(low)).astype(np.uint32)
    return Window(
        data,
        offsets,
        types,
        (headers >> np.uint64(middle)).astype(np.uint16),
        (headers >> np.uint64(high)).astype(np.uint16).astype(np.int64),
        offsets[types == Record.FINISHED_ROUND],
        position,
    )


def read_windows(
    extent: Extent, losses: LossLog, window_bytes: int = WINDOW_BYTES
) -> Iterator[Window]:
    """All records of an extent, in file order, in windows of about that size.

    What compressed records hold comes in their place. Damage ends or skips a part and
    is told to `losses`.
    """
    inflater: Inflater | None = None
    for window in _read_plain(extent, losses, window_bytes):
        packed = np.isin(window.types, (Record.COMPRESSED, Record.COMPRESSED2))
        if inflater is None and not packed.any():
            yield window
            continue
        if inflater is None:
            inflater = Inflater(extent.mark)
        yield _plain_part(window, ~packed)
        for i in np.flatnonzero(packed | (window.types == Record.FINISHED_ROUND)):
            if not packed[i]:
                inflater.finish_round()
                continue
            at, size = int(window.offsets[i]), int(window.sizes[i])
            record = window.data[at : at + size].tobytes()
            here = (window.position or 0) + at
            for part in inflater.feed(record, losses, extent.where(here)):
                yield from _inflated(inflater, part, extent, losses, window_bytes)
    if inflater is not None:
        yield from _inflated(inflater, b"", extent, losses, 0)
        if inflater.pending:
            losses.add(
                "truncated",
                f"{extent.name} the compressed data ends inside a record,"
                f" after {len(inflater.pending)} bytes of it".strip(),
            )


# Rounds count where the samples are, which is in the compressed part.
def _plain_part(window: Window, chosen: npt.NDArray[np.bool_]) -> Window:
    return Window(
        window.data,
        window.offsets[chosen],
        window.types[chosen],
        window.misc[chosen],
        window.sizes[chosen],
        window.rounds[:0],
        window.position,
    )


# Windows of decompressed records, once there are enough of them.
def _inflated(
    inflater: Inflater, part: bytes, extent: Extent, losses: LossLog, enough: int
) -> Iterator[Window]:
    inflater.pending += part
    if len(inflater.pending) < max(enough, 1):
        return
    data = np.frombuffer(bytes(inflater.pending), np.uint8)
    place = f"{extent.name} compressed part".lstrip()
    at = 0
    while at < len(data):
        step = walk(data, at, len(data), extent.mark)
        if len(step.offsets):
            window = _window(data, step.offsets, extent.mark, None)
            window.rounds = inflater.rounds_between(at, step.end)
            yield window
        at = step.end
        if step.stop in ("end", "partial"):
            break
        if step.stop == "damaged":
            inflater.repairs += 1
            found = None
            if inflater.repairs < _MAX_REPAIRS:
                found = find_record(data, at + 1, len(data), extent.mark)
            end = len(data) if found is None else found
            losses.add("damaged", f"{place}: {end - at} bytes that are no record")
            at = end
    inflater.drop(at)


def _read_plain(extent: Extent, losses: LossLog, window_bytes: int) -> Iterator[Window]:
    reader = _Reader(extent, window_bytes)
    repairs = 0
    while reader.refill():
        stop: str = "data"
        while stop in ("data", "damaged"):
            step = walk(reader.data, reader.at, reader.filled, extent.mark)
            if len(step.offsets):
                data = reader.data[: reader.filled]
                yield _window(data, step.offsets, extent.mark, reader.position)
            reader.at, stop = step.end, step.stop
            if stop == "data":
                skipped = _data_behind(reader.data, int(step.offsets[-1]), extent.mark)
                if not reader.skip(skipped):
                    losses.add(
                        "truncated",
                        f"{extent.where(reader.position + reader.at)}:"
                        " the input ends inside AUX area data",
                    )
                    return
            elif stop == "damaged":
                repairs += 1
                if not _repair(reader, extent, losses, last=repairs >= _MAX_REPAIRS):
                    return
    if reader.at < reader.filled:
        left = reader.filled - reader.at
        losses.add(
            "truncated",
            f"{extent.where(reader.position + reader.at)}:"
            f" the input ends inside a record, after {left} bytes of it",
        )
    elif reader.missing:
        losses.add(
            "truncated",
            f"{extent.where(reader.position + reader.at)}: the input ends,"
            f" {reader.missing} bytes of records were expected",
        )


# AUXTRACE: u64 size behind the header; TRACING_DATA: u32 size.
def _data_behind(data: Bytes, at: int, mark: str) -> int:
    kind, _, size = struct.unpack_from(mark + "IHH", data.data, at)
    form = mark + ("I" if kind == Record.TRACING_DATA else "Q")
    if size < 8 + struct.calcsize(form):
        return 0
    (count,) = struct.unpack_from(form, data.data, at + 8)
    return int(count)


# Go on at the next place that looks like records; False: there is none.
def _repair(reader: _Reader, extent: Extent, losses: LossLog, *, last: bool) -> bool:
    first = reader.position + reader.at
    found = None
    at = reader.at + 1
    while not last:
        found = find_record(reader.data, at, reader.filled, extent.mark)
        if found is not None:
            break
        # A record may begin near the end of the buffer, where too little follows.
        reader.at = max(reader.filled - MAX_RECORD_BYTES, at)
        if not reader.refill():
            break
        at = reader.at
    if found is not None:
        reader.at = found
    else:
        reader.at = reader.filled
        end = reader.position + reader.filled
        if last or reader.size_left(end) is None:
            losses.add("damaged", f"{extent.where(first)}: no record from here on")
            return False
    skipped = reader.position + reader.at - first
    losses.add("damaged", f"{extent.where(first)}: {skipped} bytes that are no record")
    return found is not None


class _Reader:
    """A window of an extent's bytes: data[at:filled] is still to be walked.

    position   offset in the input of data[0]
    missing    bytes that the extent promises and the input lacks; known at the end
    """

    def __init__(self, extent: Extent, window_bytes: int) -> None:
        self._extent = extent
        size = extent.source.size
        if size is not None:
            window_bytes = min(window_bytes, max(size - extent.offset, 0))
        self.data: Bytes = np.zeros(window_bytes + MAX_RECORD_BYTES + 8, np.uint8)
        self.position = extent.offset
        self.at = 0
        self.filled = 0
        self.missing = 0
        self._ended = False

    def size_left(self, position: int) -> int | None:
        """Bytes of the extent from a position of the input on; None: unknown."""
        if self._extent.size is None:
            return None
        return max(self._extent.offset + self._extent.size - position, 0)

    def refill(self) -> bool:
        """Move the rest to the front and read on; False where nothing more comes."""
        if self._ended:
            return False
        rest = self.filled - self.at
        self.data[:rest] = self.data[self.at : self.filled].copy()
        self.position += self.at
        self.at, self.filled = 0, rest
        room = len(self.data) - 8 - rest
        left = self.size_left(self.position + rest)
        wanted = room if left is None else min(room, left)
        got = self._extent.source.read_into(
            self.position + rest, self.data[rest : rest + wanted]
        )
        self.filled += got
        if got < wanted or wanted == 0:
            self._ended = True
            self.missing = 0 if left is None else left - got
        return got > 0

    def skip(self, count: int) -> bool:
        """Leave out bytes, also beyond the buffer; False: the extent ends before."""
        left = self.size_left(self.position + self.at)
        size = self._extent.source.size
        if size is not None:
            in_file = max(size - self.position - self.at, 0)
            left = in_file if left is None else min(left, in_file)
        if left is not None and count > left:
            return False
        self.at += count
        if self.at > self.filled:
            self.position += self.at
            self.at = self.filled = 0
        return True
