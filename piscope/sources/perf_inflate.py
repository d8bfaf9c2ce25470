"""The zstd stream of `perf record -z`: one stream, cut into records anywhere.

    COMPRESSED   | header | piece ................. |   piece up to the record's size
    COMPRESSED2  | header | u64 bytes | piece | pad |

Its bytes are records themselves. One of them may lie across two pieces, because a
ring buffer that wraps is compressed in two goes.
Source: tools/perf/builtin-record.c, zstd_compress(); tools/perf/util/zstd.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_abi import Record
from piscope.sources.perf_losses import LossLog

__all__ = ("Inflater",)

# A block of 4 bytes can stand for 128 KiB, so that many bytes given at once are a
# bound on what comes back (here 32 MiB).
_SLICE_BYTES = 1024
_MAX_WINDOW_BYTES = 1 << 27  # zstd's own limit for a decoder


class Inflater:
    """Decompresses the pieces of one stream, in order.

    pending  decompressed bytes that have not been taken as records yet
    repairs  places in them at which the chain of records was lost
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.pending = bytearray()
        self.repairs = 0
        self._rounds: list[int] = []
        self._stream = _new_stream()
        self._dead = False

    def finish_round(self) -> None:
        """perf finished a round of reading after what has been fed up to now."""
        if not self._rounds or self._rounds[-1] != len(self.pending):
            self._rounds.append(len(self.pending))

    def rounds_between(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Places in `pending` of rounds that finished after `begin`, up to `end`."""
        return np.array([r for r in self._rounds if begin < r <= end], np.int64)

    def drop(self, count: int) -> None:
        """Forget the first bytes of `pending`, and the rounds up to them."""
        del self.pending[:count]
        self._rounds = [r - count for r in self._rounds if r > count]

    def feed(self, record: bytes, losses: LossLog, where: str) -> Iterator[bytes]:
        """What one COMPRESSED or COMPRESSED2 record adds, in bounded parts.

        A zstd stream that is damaged can't be continued: all later pieces are lost.
        """
        if self._dead:
            return
        piece = record[8:]
        if struct.unpack_from(self._mark + "I", record)[0] == Record.COMPRESSED2:
            if len(record) < 16:
                return
            piece = record[16 : 16 + struct.unpack_from(self._mark + "Q", record, 8)[0]]
        import zstandard

        try:
            for at in range(0, len(piece), _SLICE_BYTES):
                yield from self._inflate(piece[at : at + _SLICE_BYTES])
        except zstandard.ZstdError as error:
            self._dead = True
            losses.add(
                "damaged",
                f"{where}: the compressed data can't be read from here on ({error})",
            )

    def _inflate(self, part: bytes) -> Iterator[bytes]:
        while part:
            yield self._stream.decompress(part)
            if not self._stream.eof:
                return
            part = self._stream.unused_data
            self._stream = _new_stream()


def _new_stream() -> Any:  # zstandard has no type for it
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
