"""Whether KVM posted a vector that was in PIR already, which no folded state tells.

KVM returns early for a vector whose PIR bit is set, and then neither ON is set nor the
task woken. The walk knows whether PIR is empty; which vectors are in it follows from
the posts since it last was.

    letter   ENTER  HW 41  SW 41  SW 42  SYNC  SW 41
    PIR      {}     {41}   {41}   {..}   {}    {41}
    SW is                  again  new          new
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.replay.automaton import Automaton
from piscope.replay.row_index import last_place
from piscope.replay.scan import Walk, scan

__all__ = ("classify_software_posts",)


def _among(*letters: Letter) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(Letter), bool)
    chosen[list(letters)] = True
    return chosen


# By letter.
_SOFTWARE = _among(Letter.POST_SW_NEW, Letter.POST_SW_AGAIN, Letter.POST_SW_EITHER)
_POSTS = _SOFTWARE | _among(Letter.POST_HW)
# After these PIR may hold vectors that no letter of the stream has posted.
_FOREIGN = _among(
    Letter.OBSERVE_ON0_PIR1,
    Letter.OBSERVE_ON1_PIR1,
    Letter.FORGET,
    Letter.MAYBE_POST_SW,
)

# In `vectors`: not known which.
_NONE = -1

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


def classify_software_posts(
    letters: npt.NDArray[np.uint8],
    vectors: npt.NDArray[np.integer],
    starts: Int64,
    automaton: Automaton,
    initial: int | npt.NDArray[np.integer] | None = None,
) -> tuple[npt.NDArray[np.uint8], Walk]:
    """The letters, KVM's posts made POST_SW_NEW or POST_SW_AGAIN, and their walk.

    `vectors` integer[n] is read at posts only; -1: not known which. The other arguments
    are those of `scan`. Which of the three POST_SW letters stands in `letters` does not
    matter.
    POST_SW_EITHER is left where PIR's content can't be known: it may hold vectors from
    before the stream, or states that differ in it are possible.

    From a known state on the answer is exact: each pass settles at least the first open
    post of every run, since all before it is certain by then.

    Raises ValueError where the arguments do not fit together.
    """
    letters = np.array(letters, np.uint8)
    starts = np.asarray(starts, np.int64)
    if len(vectors) != len(letters):
        raise ValueError(f"{len(vectors)} vectors for {len(letters)} letters")
    posts = _posts(letters, vectors, starts)
    letters[posts.at[posts.software]] = Letter.POST_SW_EITHER
    left = int(posts.software.sum())
    while True:
        walk = scan(automaton, letters, starts, initial)
        if not left:
            return letters, walk
        again, new = _settle(automaton, walk, letters, posts)
        if not len(again) and not len(new):
            return letters, walk
        letters[again] = Letter.POST_SW_AGAIN
        letters[new] = Letter.POST_SW_NEW
        left -= len(again) + len(new)


@dataclass(frozen=True, slots=True)
class _Posts:
    """The posts of a stream, in order.

    at        int64[m]  place among the letters
    software  bool[m]   by KVM
    unnamed   bool[m]   of a vector that is not known
    begin     int64[m]  where its run begins
    previous  int64[m]  place of the run's last post of that vector, -1: none
    """

    at: Int64
    software: Bools
    unnamed: Bools
    begin: Int64
    previous: Int64


def _posts(
    letters: npt.NDArray[np.uint8], vectors: npt.NDArray[np.integer], starts: Int64
) -> _Posts:
    at = np.flatnonzero(_POSTS[letters])
    posted = vectors[at].astype(np.int64)
    if len(posted) and not _NONE <= posted.min() <= posted.max() <= 255:
        raise ValueError("a posted vector is not within 0 to 255, nor -1")
    run = np.searchsorted(starts, at, side="right")
    named = np.flatnonzero(posted != _NONE)
    key = run[named] * 256 + posted[named]
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    previous = np.full(len(at), -1, np.int64)
    previous[named[order[same + 1]]] = at[named[order[same]]]
    return _Posts(
        at=at,
        software=_SOFTWARE[letters[at]],
        unnamed=posted == _NONE,
        begin=starts[np.maximum(run - 1, 0)] if len(starts) else at,
        previous=previous,
    )


def _settle(
    automaton: Automaton, walk: Walk, letters: npt.NDArray[np.uint8], posts: _Posts
) -> tuple[Int64, Int64]:
    """The places of open posts that are surely of a vector in PIR, or surely not."""
    open_ = letters[posts.at] == Letter.POST_SW_EITHER
    place, previous = posts.at[open_], posts.previous[open_]
    unnamed, begin = posts.unnamed[open_], posts.begin[open_]

    # The last instant (that before a letter) at which PIR was empty, in every possible
    # state or in one; and the last letter before this that left unknown vectors in it.
    surely_empty = last_place((automaton.pir.max == 0)[walk.before], place)
    perhaps_empty = last_place((automaton.pir.min == 0)[walk.before], place)
    foreign = automaton.surprise[walk.before, letters]
    foreign |= _FOREIGN[letters]
    foreign[posts.at[posts.unnamed]] = True
    last_foreign = last_place(foreign, place - 1)

    again = (previous >= 0) & (previous >= perhaps_empty)
    new = (
        (surely_empty >= begin)
        & (surely_empty > previous)
        & (surely_empty > last_foreign)
        & (~unnamed | (surely_empty == place))
    )
    return place[again], place[new]
