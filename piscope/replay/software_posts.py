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
from piscope.replay.scan import scan

__all__ = ("classify_software_posts",)

_SOFTWARE = np.array(
    [Letter.POST_SW_NEW, Letter.POST_SW_AGAIN, Letter.POST_SW_EITHER], np.uint8
)
_POSTS = np.append(_SOFTWARE, np.uint8(Letter.POST_HW))
# After these PIR may hold vectors that no letter of the stream has posted.
_FOREIGN = np.array(
    [Letter.OBSERVE_ON0_PIR1, Letter.OBSERVE_ON1_PIR1, Letter.FORGET], np.uint8
)

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

    `vectors` integer[n], 0 to 255, is read at posts only. The other arguments are those
    of `scan`. Which of the three POST_SW letters stands in `letters` does not matter.
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
    posted = np.where(np.isin(letters, _POSTS), vectors, 0).astype(np.int64)
    if len(posted) and not 0 <= posted.min() <= posted.max() <= 255:
        raise ValueError("a posted vector is not within 0 to 255")
    software = np.isin(letters, _SOFTWARE)
    if not software.any():
        return letters
    letters[software] = Letter.POST_SW_EITHER
    previous = _previous_of_vector(letters, posted, starts)
    while True:
        again, new = _settle(letters, starts, automaton, initial, previous)
        if not (again.any() or new.any()):
            return letters
        letters[again] = Letter.POST_SW_AGAIN
        letters[new] = Letter.POST_SW_NEW


def _settle(
    letters: npt.NDArray[np.uint8],
    starts: Int64,
    automaton: Automaton,
    initial: int | npt.NDArray[np.integer] | None,
    previous: Int64,
) -> tuple[Bools, Bools]:
    """Which open posts are surely of a vector in PIR, and which surely are not."""
    walk = scan(automaton, letters, starts, initial)
    place = np.arange(len(letters))

    def latest(where: Bools) -> Int64:
        # The last place up to each letter where `where` holds; -1: none.
        return np.maximum.accumulate(np.where(where, place, -1))

    begins = np.zeros(len(letters), bool)
    begins[starts[starts < len(letters)]] = True
    # The last instant (that before a letter) at which PIR was empty, in every possible
    # state or in one; and the last letter that left unnamed vectors in it.
    surely_empty = latest(automaton.pir.max[walk.before] == 0)
    perhaps_empty = latest(automaton.pir.min[walk.before] == 0)
    foreign = latest(
        np.isin(letters, _FOREIGN) | automaton.surprise[walk.before, letters]
    )

    open_posts = letters == Letter.POST_SW_EITHER
    again = open_posts & (previous >= 0) & (previous >= perhaps_empty)
    new = (
        open_posts
        & (surely_empty >= latest(begins))
        & (surely_empty > previous)
        & (surely_empty > foreign)
    )
    return again, new


def _previous_of_vector(
    letters: npt.NDArray[np.uint8], vectors: Int64, starts: Int64
) -> Int64:
    """For each post the place of the run's last post of that vector before; else -1."""
    posts = np.flatnonzero(np.isin(letters, _POSTS))
    run = np.searchsorted(starts, posts, side="right")
    key = run * 256 + vectors[posts]
    order = np.argsort(key, kind="stable")
    same = np.zeros(len(posts), bool)
    same[1:] = key[order][1:] == key[order][:-1]
    previous = np.full(len(letters), -1, np.int64)
    previous[posts[order][same]] = posts[order][np.flatnonzero(same) - 1]
    return previous
