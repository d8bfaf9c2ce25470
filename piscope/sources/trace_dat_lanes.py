"""The sub-buffers of each pCPU, read from the file in order, plain or compressed.

A lane is one pCPU's data of one buffer. Plain data are sub-buffers back to back.
Compressed data are a count and chunks; what the chunks hold, put together, are the
sub-buffers, which need not begin where a chunk does:

    chunk:       |-----------|-----------|-----------|
    sub-buffer:  |-------|-------|-------|-------|---
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from piscope.errors import TraceFormatError
from piscope.sources.compression import MAGIC, MAX_CHUNK_BYTES, decompress
from piscope.sources.cursor import ByteFile
from piscope.sources.event_format import ByteOrder
from piscope.sources.loss_log import LossLog
from piscope.sources.raw import Loss
from piscope.sources.trace_dat_options import CpuRange

__all__ = ("ChunkedPages", "PageReader", "PagesRead", "PlainPages")

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]

_SEARCH_BYTES = 1 << 20


@dataclass(slots=True)
class PagesRead:
    """Sub-buffers that were put into a batch.

    available  int64[p]: bytes of each that are really there; of the last maybe fewer
    places     int64[p]: byte in the file at which each is, or its chunk
    gaps       what could not be read, each before the sub-buffer of that number
    """

    available: Index
    places: Index
    gaps: list[tuple[int, Loss]] = field(default_factory=list)


class PageReader(Protocol):
    """One pCPU's sub-buffers in order.

    `cut` says, once it is known, how the data end before they should.
    """

    cut: str | None

    def read(self, into: Bytes) -> PagesRead:
        """Put the next sub-buffers into a multiple of their size; none: at the end."""
        ...

    def peek(self, size: int) -> bytes:
        """The first bytes of the next sub-buffer; fewer only where it lacks them."""
        ...

    def release(self, most_bytes: int) -> None:
        """Let go of decompressed data, where they are more than this."""
        ...


class PlainPages:
    """Sub-buffers that lie in the file as they were in the ring buffer."""

    def __init__(self, file: ByteFile, data: CpuRange, page_size: int) -> None:
        self.cut: str | None = None
        self._file = file
        self._at = data.offset
        self._end = data.offset + data.size
        self._page_size = page_size

    def read(self, into: Bytes) -> PagesRead:
        """See PageReader."""
        wanted = min(len(into), max(0, self._end - self._at))
        count = self._file.read_into(self._at, into.data[:wanted])
        pages = -(-count // self._page_size)
        into[count : pages * self._page_size] = 0
        places = self._at + np.arange(pages, dtype=np.int64) * self._page_size
        self._at += count
        if count < wanted:
            self.cut = f"the file could not be read beyond byte {self._at}"
            self._end = self._at
        return PagesRead(_available(count, pages, self._page_size), places)

    def peek(self, size: int) -> bytes:
        """See PageReader."""
        return self._file.read_at(self._at, min(size, max(0, self._end - self._at)))

    def release(self, most_bytes: int) -> None:
        """Nothing is held."""


def _available(count: int, pages: int, page_size: int) -> Index:
    starts = np.arange(pages, dtype=np.int64) * page_size
    return np.minimum(count - starts, page_size)


class ChunkedPages:
    """Sub-buffers in compressed chunks: | u32 count | u32 packed, u32 size, data |...

    A chunk that can't be read is skipped, with the sub-buffers that it is part of.
    Where a chunk's header can't be true, the next one is looked for: a chunk's size
    is known from those before it, and so are the first bytes that compressors write.
    """

    def __init__(
        self,
        file: ByteFile,
        data: CpuRange,
        page_size: int,
        compressor: str,
        order: ByteOrder,
    ) -> None:
        self.cut: str | None = None
        # What was lost since the last read.
        self._lost = LossLog()
        self._file = file
        self._cpu = data.cpu
        self._place = data.offset + 4
        self._end = data.offset + data.size
        self._page_size = page_size
        self._compressor = compressor
        self._order: ByteOrder = order
        head = file.read_at(data.offset, 4)
        self._chunks_left = int.from_bytes(head, order) if len(head) == 4 else 0
        self._usual_size = 0
        # The chunk in hand: its bytes, how many of them are used, and its place.
        self._data = b""
        self._used = 0
        self._chunk_place = self._place
        # How many were used when the chunk was let go of, to be decompressed again.
        self._used_before = 0
        # Where in the sub-buffers' own bytes the chunk in hand begins, and whether
        # what was before it is missing.
        self._position = 0
        self._gap = False

    def read(self, into: Bytes) -> PagesRead:
        """See PageReader."""
        filled = 0
        places: list[int] = []
        size = self._page_size
        gaps = self._gaps_before(0)
        while filled < len(into):
            more = self._used < len(self._data) or self._next_chunk()
            gaps += self._gaps_before(filled // size)
            if not more:
                break
            if self._gap:
                # Of the sub-buffer that the missing chunk was part of, nothing is
                # used: neither what came before, nor what is left of it here.
                filled -= filled % size
                self._used += min(
                    -(self._position + self._used) % size, len(self._data) - self._used
                )
                self._gap = self._used == len(self._data)
                continue
            count = min(len(into) - filled, len(self._data) - self._used)
            into[filled : filled + count] = np.frombuffer(
                self._data, np.uint8, count, self._used
            )
            del places[-(-filled // size) :]
            begun = -(-(filled + count) // size) - len(places)
            places.extend([self._chunk_place] * begun)
            filled += count
            self._used += count
        pages = -(-filled // size)
        into[filled : pages * size] = 0
        return PagesRead(
            _available(filled, pages, size), np.array(places[:pages], np.int64), gaps
        )

    def _gaps_before(self, page: int) -> list[tuple[int, Loss]]:
        lost, self._lost = self._lost.rows, LossLog()
        return [(page, loss) for loss in lost]

    def peek(self, size: int) -> bytes:
        """See PageReader."""
        while self._used == len(self._data) or self._gap:
            if self._used == len(self._data) and not self._next_chunk():
                return b""
            if self._gap:
                rest = -(self._position + self._used) % self._page_size
                self._used += min(rest, len(self._data) - self._used)
                self._gap = self._used == len(self._data)
        return self._data[self._used : self._used + size]

    def release(self, most_bytes: int) -> None:
        """See PageReader."""
        # Of the last chunk there may be only a beginning, whose loss is noted.
        if len(self._data) - self._used > most_bytes and self._chunks_left:
            self._used_before, self._used = self._used, 0
            self._place, self._data = self._chunk_place, b""
            self._chunks_left += 1

    # Take the next chunk that can be read into hand.
    def _next_chunk(self) -> bool:
        self._position += len(self._data)
        self._data, self._used = b"", 0
        while self._chunks_left > 0:
            self._chunks_left -= 1
            self._chunk_place = self._place
            head = self._file.read_at(self._place, min(8, self._end - self._place))
            packed = int.from_bytes(head[:4], self._order)
            size = int.from_bytes(head[4:8], self._order)
            if len(head) < 8:
                lost = self._chunks_left + 1
                self.cut = f"the data end before {lost} of the chunks"
                break
            left = self._end - self._place - 8
            if not self._plausible(packed, size):
                if not self._resume():
                    break
                continue
            packed_data = self._file.read_at(self._place + 8, min(packed, left))
            cut = len(packed_data) < packed
            self._place += 8 + packed
            try:
                data = decompress(self._compressor, packed_data, size, cut=cut)
            except TraceFormatError as error:
                self._lose(f"chunk at byte {self._chunk_place}: {error}")
                self._position += size
                self._gap = True
                continue
            if cut:
                self.cut = (
                    f"the data end in the chunk at byte {self._chunk_place}, "
                    f"before {self._chunks_left} more"
                )
                self._chunks_left = 0
            elif self._usual_size == 0:
                self._usual_size = size
            if data:
                self._data = data
                self._used, self._used_before = self._used_before, 0
                return True
        self._chunks_left = 0
        return False

    def _plausible(self, packed: int, size: int) -> bool:
        if not 0 < size <= MAX_CHUNK_BYTES or packed == 0:
            return False
        magic = MAGIC[self._compressor]
        return self._file.read_at(self._place + 8, len(magic)) == magic

    # Look for the next chunk of the usual size behind a header that can't be true.
    def _resume(self) -> bool:
        pattern = MAGIC[self._compressor]
        if self._usual_size:
            pattern = self._usual_size.to_bytes(4, self._order) + pattern
        lead = 8 if self._usual_size == 0 else 4
        at = self._place + 1
        while at < self._end:
            data = self._file.read_at(at, min(_SEARCH_BYTES, self._end - at))
            found = data.find(pattern, lead)
            if found >= 0:
                self._place = at + found - lead
                self._lose(
                    f"byte {self._chunk_place} is no header of a chunk; the next is at "
                    f"byte {self._place}",
                )
                # How many chunks were passed over is not known; sub-buffers are
                # taken to begin where a chunk does.
                self._position = 0
                self._gap = True
                return True
            if len(data) < _SEARCH_BYTES:
                break
            at += len(data) - 16
        self._lose(
            f"byte {self._chunk_place} is no header of a chunk, nor is any behind it: "
            f"{self._chunks_left + 1} chunks are lost",
        )
        return False

    def _lose(self, detail: str) -> None:
        self._lost.add(Loss("damaged", cpu=self._cpu, detail=detail))
