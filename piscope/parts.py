"""A long trace in parts: which rows of a part's tables are its own.

    rows of EVENTS   ....... begin |--------- own ---------| end .......
    a part's tables  context       |                       |      context

A part's tables hold rows from before and behind it as well, because what is its own
rests on them (the VM-entry before a put, the load behind it). They are other parts'
own, so that each row of every table is the own one of exactly one part:

    EVENTS, ACTS, INTERVALS  by the row of EVENTS (that began it)
    WINDOWS       by the row that ends it; one that nothing ends is the last part's
    POSTS         by the row at which the call chain began
    STIMULI       by their row; one that stands for a post, or for what the probes of a
                  window betray, is where that is
    FINDINGS      where their stimulus is

A trace that is analyzed at once is one part, and all rows are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # tables hold what this says
    from piscope.tables import Acts, Intervals, Posts, Windows

__all__ = ("Own",)

Bools = npt.NDArray[np.bool_]


class _Stimuli(Protocol):
    @property
    def row(self) -> npt.NDArray[np.int64]: ...
    @property
    def post(self) -> npt.NDArray[np.int64]: ...
    @property
    def window(self) -> npt.NDArray[np.int32]: ...
    @property
    def letter(self) -> npt.NDArray[np.uint8]: ...


_POST_HW = 8  # model.letters.Letter.POST_HW, as in STIMULI.letter


@dataclass(frozen=True, slots=True)
class Own:
    """The rows of a part's tables that are its own.

    begin, end   rows of the part's EVENTS, half-open
    first, last  no part comes before it, or behind it
    """

    begin: int
    end: int
    first: bool = True
    last: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether the trace is this part."""
        return self.first and self.last

    def rows(self, row: npt.NDArray[np.int64]) -> Bools:
        """bool[n]: rows of EVENTS; below 0 (before any event) is the first part's."""
        if self.is_whole:
            return np.ones(len(row), np.bool_)
        result: Bools = (row >= self.begin) & (row < self.end)
        if self.first:
            result |= row < 0
        return result

    def intervals(self, intervals: Intervals) -> Bools:
        """bool[intervals]."""
        return self.rows(intervals.row)

    def acts(self, acts: Acts) -> Bools:
        """bool[acts]."""
        return self.rows(acts.row)

    def windows(self, windows: Windows) -> Bools:
        """bool[windows]."""
        if self.is_whole:
            return np.ones(len(windows), np.bool_)
        result: Bools = windows.end_row >= self.begin
        if not self.last:
            result &= windows.end_row < self.end
        return result

    def posts(self, posts: Posts) -> Bools:
        """bool[posts]."""
        return self.rows(posts.at)

    def stimuli(self, stimuli: _Stimuli, posts: Posts, windows: Windows) -> Bools:
        """bool[stimuli]."""
        if self.is_whole:
            return np.ones(len(stimuli.row), np.bool_)
        result = self.rows(stimuli.row)
        traced = np.flatnonzero(stimuli.post >= 0)
        result[traced] = self.posts(posts)[stimuli.post[traced]]
        hidden = (stimuli.letter == _POST_HW) & (stimuli.post < 0)
        at = np.flatnonzero(hidden & (stimuli.window >= 0))
        result[at] = self.windows(windows)[stimuli.window[at]]
        return result
