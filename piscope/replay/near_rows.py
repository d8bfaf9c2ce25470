"""The next or last row of EVENTS of one pCPU, or one vCPU's thread, from a given row.

What is asked for is mostly a few rows away, so the table is looked at step by step,
all questions at once; an index of the whole table is built only for what is far.

    row      0 1 2 3 4 5 6 7
    pCPU     0 1 0 0 1 0 0 0
    last of pCPU 1 up to 6    6, 5, then 4: two steps
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from piscope.replay.row_index import RowIndex
from piscope.sources.raw import Array

__all__ = ("NearRows",)

# A step costs about as much as this many looks at a row, however few are open.
_STEP_LOOKS = 1 << 12
# Looks per row of the table that an index is not better than.
_LOOKS_PER_ROW = 0.5


class NearRows:
    """Rows by owner, as RowIndex has them, found from nearby.

    `owner_of` gives the owners of some rows, below 0: nobody's; `index` makes the
    index of all `rows` rows.
    """

    def __init__(
        self,
        rows: int,
        owner_of: Callable[[npt.NDArray[np.int64]], Array],
        index: Callable[[], RowIndex],
    ) -> None:
        self._rows = rows
        self._owner_of = owner_of
        self._make_index = index
        self._index: RowIndex | None = None

    def next_after(self, owner: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: each owner's first row behind `row`, -1: none."""
        found, left = self._walked(owner, row + 1, 1)
        if len(left):
            found[left] = self._whole().next_after(owner[left], row[left])
        return found

    def last_up_to(self, owner: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: each owner's last row up to `row` and with it, -1: none."""
        found, left = self._walked(owner, row, -1)
        if len(left):
            found[left] = self._whole().last_up_to(owner[left], row[left])
        return found

    def some_between(
        self, owner: Array, row: Array, end: Array
    ) -> npt.NDArray[np.bool_]:
        """bool[m]: whether an owner has a row behind `row` and before `end`."""
        found = self.next_after(owner, row)
        result: npt.NDArray[np.bool_] = (found >= 0) & (found < end)
        return result

    def _whole(self) -> RowIndex:
        if self._index is None:
            self._index = self._make_index()
        return self._index

    # The rows found by steps, -1 for none, and the questions that are still open.
    def _walked(
        self, owner: Array, begin: Array, step: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        found = np.full(len(owner), -1, np.int64)
        open_ = np.flatnonzero(owner >= 0)
        if step < 0:
            begin = np.minimum(begin, self._rows - 1)
        at, owner = begin[open_].astype(np.int64), owner[open_]
        looks = 0.0 if self._index is None else np.inf
        while len(open_) and looks < _LOOKS_PER_ROW * self._rows:
            looks += max(len(open_), _STEP_LOOKS)
            inside = (at >= 0) & (at < self._rows)
            if not inside.all():
                open_, at, owner = open_[inside], at[inside], owner[inside]
            here = self._owner_of(at) == owner
            found[open_[here]] = at[here]
            on = ~here
            open_, at, owner = open_[on], at[on] + step, owner[on]
        return found, open_
