"""Numbers as a page carries them, and how many columns of them a page has room for.

Numbers are laid out plane by plane (all low bytes, then all next ones...), which
deflates well.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from piscope.sources.raw import Array

__all__ = ("Block", "finest", "most_columns")

_FEWEST_COLUMNS, _FIRST_COLUMNS, _MOST_COLUMNS = 128, 2048, 1 << 18
_LEAST_COLUMN_NS = 1000


class Block:
    """Numbers, one array after the other; `about` says where each lies, and why."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self._parts: list[bytes] = []
        self._bytes = 0
        self._deflated: bytes | None = None

    def add(self, values: Array, width: int = 1) -> dict[str, int]:
        """Unsigned numbers of `width` bytes: all low bytes, then all next ones, ..."""
        flat = np.ascontiguousarray(values).reshape(-1).astype("<u8")
        place = {"at": self._bytes, "count": len(flat), "width": width}
        planes = flat.view(np.uint8).reshape(-1, 8)[:, :width].T
        self._parts.append(planes.tobytes())
        self._bytes += len(flat) * width
        return place

    def deflated(self) -> bytes:
        """All of it, compressed; nothing is added after that."""
        if self._deflated is None:
            self._deflated = zlib.compress(b"".join(self._parts), 6)
            self._parts.clear()
        return self._deflated


def most_columns(span_ns: tuple[int, int], limit: int = _MOST_COLUMNS) -> int:
    """As many as make sense of so much time: a power of two, `limit` at the most.

    Of powers of two the edges of fewer columns are among those of more.
    """
    most = min(_MOST_COLUMNS, limit, (span_ns[1] - span_ns[0]) // _LEAST_COLUMN_NS)
    return 1 << (max(most, 1).bit_length() - 1)


def finest(make: Callable[[int], Block], most: int, budget_bytes: int) -> Block:
    """What is made of as many columns as fit into so many bytes; a few fit anyway.

    The numbers of columns that are tried are powers of two, as `most` is.
    """
    columns = min(_FIRST_COLUMNS, most)
    best = make(columns)
    while len(best.deflated()) > budget_bytes and columns > _FEWEST_COLUMNS:
        columns //= 2
        best = make(columns)
    while columns < most:
        room = budget_bytes // max(len(best.deflated()), 1)
        if room < 2:
            break
        # of r times as many columns each takes no more than before
        columns = min(columns << (room.bit_length() - 1), most)
        finer = make(columns)
        if len(finer.deflated()) > budget_bytes:
            break
        best = finer
    return best
