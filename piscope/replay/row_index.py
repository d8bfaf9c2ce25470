"""Rows of EVENTS by pCPU or by vCPU: which one comes next, which one came last.

Built where a post asks for it, since most traces have few posts and many events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array

__all__ = ("RowIndex", "index_rows", "last_place")


@dataclass(frozen=True, slots=True)
class RowIndex:
    """Pairs of an owner and a row, ascending: int64[n], owner * span + row each."""

    key: npt.NDArray[np.int64]
    span: int

    def next_after(self, owner: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: each owner's first row behind `row`, -1: none."""
        at = np.searchsorted(self.key, self._key(owner, row), side="right")
        return self._rows(at, owner)

    def last_up_to(self, owner: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: each owner's last row up to `row` and with it, -1: none."""
        return self._rows(self.place_of(owner, row), owner)

    def place_of(self, owner: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: the place of the last pair up to (owner, row), -1: none."""
        found: npt.NDArray[np.int64] = (
            np.searchsorted(self.key, self._key(owner, row), side="right") - 1
        )
        return found

    def some_between(self, owner: Array, row: Array, end: Array) -> Array:
        """bool[m]: whether an owner has a row behind `row` and before `end`."""
        found = self.next_after(owner, row)
        result: Array = (found >= 0) & (found < end)
        return result

    def _key(self, owner: Array, row: Array) -> npt.NDArray[np.int64]:
        return owner.astype(np.int64) * self.span + row

    def _rows(self, at: Array, owner: Array) -> npt.NDArray[np.int64]:
        if not len(self.key):
            return np.full(len(owner), -1, np.int64)
        key = self.key[np.clip(at, 0, len(self.key) - 1)]
        inside = (at >= 0) & (at < len(self.key)) & (key // self.span == owner)
        return np.where(inside, key % self.span, -1)


def index_rows(owner: Array, row: Array, rows: int) -> RowIndex:
    """Index ascending rows by owner; owners below 0 are left out.

    `rows` is the number of rows of EVENTS.
    """
    span = rows + 1
    mine = owner >= 0
    owner, row = owner[mine], row[mine]
    # owners are few: a radix sort of 16 bits keeps the rows' order
    order = np.argsort(owner.astype(np.uint16), kind="stable")
    return RowIndex(owner[order].astype(np.int64) * span + row[order], span)


# Places that are looked at together: what that takes stays in the cache.
_AT_ONCE = 1 << 18


def last_place(
    where: npt.NDArray[np.bool_], up_to: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """int64[m]: the last place up to each of `up_to` where `where` holds; -1: none.

    Raises ValueError unless `up_to` ascends.
    """
    if (up_to[1:] < up_to[:-1]).any():
        raise ValueError("places are asked for out of order")
    result = np.full(len(up_to), -1, np.int64)
    last = -1
    for begin in range(0, len(where), _AT_ONCE):
        end = begin + _AT_ONCE
        first_asked, end_asked = np.searchsorted(up_to, (begin, end))
        if end >= len(where):
            end_asked = len(up_to)
        asked = up_to[first_asked:end_asked]
        places = np.flatnonzero(where[begin:end])
        places += begin
        known = np.append(last, places)
        result[first_asked:end_asked] = known[
            np.searchsorted(places, asked, side="right")
        ]
        last = int(known[-1])
    return result
