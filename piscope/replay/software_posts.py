"""Whether KVM posted a vector that was in PIR already, which no folded state tells.

KVM returns early for a vector whose PIR bit is set, and then neither ON is set nor the
task woken. The walk knows whether PIR is empty; which vectors are in it follows from
the posts since it last was.

    letter   ENTER  HW 41  SW 41  SW 42  SYNC  SW 41
    PIR      {}     {41}   {41}   {..}   {}    {41}
    SW is                  again  new          new
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.replay.automaton import Automaton
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
) -> npt.NDArray[np.uint8]:
    """The letters, with each of KVM's posts made POST_SW_NEW or POST_SW_AGAIN.

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
    posted = np.where(_POSTS[letters], vectors, _NONE).astype(np.int64)
    if len(posted) and not _NONE <= posted.min() <= posted.max() <= 255:
        raise ValueError("a posted vector is not within 0 to 255, nor -1")
    software = _SOFTWARE[letters]
    if not software.any():
        return letters
    letters[software] = Letter.POST_SW_EITHER
    previous = _previous_of_vector(posted, starts)
    unnamed = (posted == _NONE) & _POSTS[letters]
    left, before = _open(letters), len(letters) + 1
    while 0 < left < before:  # a pass that settles nothing is the last
        walk = scan(automaton, letters, starts, initial)
        again, new = _settle(automaton, walk, letters, starts, previous, unnamed)
        letters[again] = Letter.POST_SW_AGAIN
        letters[new] = Letter.POST_SW_NEW
        left, before = _open(letters), left
    return letters


def _open(letters: npt.NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(letters == Letter.POST_SW_EITHER))


def _settle(
    automaton: Automaton,
    walk: Walk,
    letters: npt.NDArray[np.uint8],
    starts: Int64,
    previous: Int64,
    unnamed: Bools,
) -> tuple[Bools, Bools]:
    """Which open posts are surely of a vector in PIR, and which surely are not."""
    place = np.arange(len(letters))

    def latest(where: Bools) -> Int64:
        # The last place up to each letter where `where` holds; -1: none.
        return np.maximum.accumulate(np.where(where, place, -1))

    begins = np.zeros(len(letters), bool)
    begins[starts[starts < len(letters)]] = True
    # The last instant (that before a letter) at which PIR was empty, in every possible
    # state or in one; and the last letter before this that left unknown vectors in it.
    surely_empty = latest(automaton.pir.max[walk.before] == 0)
    perhaps_empty = latest(automaton.pir.min[walk.before] == 0)
    foreign = _FOREIGN[letters] | unnamed
    foreign |= automaton.surprise[walk.before, letters]
    last_foreign = np.concatenate([[-1], latest(foreign)[:-1]])

    open_posts = letters == Letter.POST_SW_EITHER
    again = open_posts & (previous >= 0) & (previous >= perhaps_empty)
    new = (
        open_posts
        & (surely_empty >= latest(begins))
        & (surely_empty > previous)
        & (surely_empty > last_foreign)
        & (~unnamed | (surely_empty == place))
    )
    return again, new


def _previous_of_vector(posted: Int64, starts: Int64) -> Int64:
    """For each named post the place of the run's last post of that vector; else -1."""
    posts = np.flatnonzero(posted != _NONE)
    run = np.searchsorted(starts, posts, side="right")
    key = run * 256 + posted[posts]
    order = np.argsort(key, kind="stable")
    same = np.zeros(len(posts), bool)
    same[1:] = key[order][1:] == key[order][:-1]
    previous = np.full(len(posted), -1, np.int64)
    previous[posts[order][same]] = posts[order][np.flatnonzero(same) - 1]
    return previous
