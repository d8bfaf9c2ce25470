"""The walk of many letters through the automaton, all blocks of a stream in step.

A letter after which the set is the same whatever was before (ENTER, INIT, FORGET) cuts
the stream: behind it a walk can begin without knowing what came earlier. The stream is
cut at such letters into blocks of about equal length, and all blocks advance together,
one letter a turn.

    letters  . . . E . . E . . . . E . . . . . . . .    E: set known behind it
    block 0  [-----------]
    block 1               [---------]
    block 2                          [--- ...

The result is exact for every stream: nothing is guessed and repaired. Where no such
letter is in reach, the block is longer, and a very long one is walked alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.replay.automaton import Automaton

__all__ = ("Automaton", "Letter", "Walk", "Walkable", "scan")

# Letters per block. Shorter blocks cost more cuts, longer ones more turns; flat between
# 128 and 1024 (benchmarks of 4 M letters).
_BLOCK = 256
# A block longer than this is walked alone, rather than let every turn carry it along.
_LONG = 16 * _BLOCK
# Row length of the flat table: a power of two, for shifts instead of divisions.
_ROW_BITS = 5
assert len(Letter) <= 1 << _ROW_BITS
# Below this a stream is walked alone: the turns would cost more than its letters.
_SHORT = 128 * _BLOCK


class Walkable(Protocol):
    """What is needed of a deterministic automaton, as Automaton documents it."""

    @property
    def sets(self) -> Sequence[Any]:
        """Its states."""

    @property
    def next_set(self) -> npt.NDArray[np.uint16]:
        """uint16[sets, letters]."""

    @property
    def constant(self) -> npt.NDArray[np.int32]:
        """int32[letters]."""

    @property
    def unknown(self) -> int:
        """The one to begin with where nothing is known."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Which sets a stream went through.

    before  uint16[n]: set id before each letter
    after   uint16[n]: set id after it
    last    uint16[v]: set id at the end of each run; a run without letters keeps its
            initial set. To be carried in as `initial` where the stream goes on
    """

    before: npt.NDArray[np.uint16]
    after: npt.NDArray[np.uint16]
    last: npt.NDArray[np.uint16]


def scan(
    automaton: Walkable,
    letters: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    initial: int | npt.NDArray[np.integer] | None = None,
) -> Walk:
    """Walk each vCPU's letters from its initial set.

    `letters` uint8[n] are the vCPUs' runs, one behind the other; `starts` int64[v] is
    each run's first index, ascending, the first being 0 (equal starts: empty runs).
    `initial` is a set id for all runs, or one per run (shape [v]); None: any legal
    state.

    Raises ValueError where these do not fit together, or for a letter that is none.
    """
    letters = np.ascontiguousarray(letters, np.uint8)
    starts = np.asarray(starts, np.int64)
    first_sets = _initial_sets(automaton, letters, starts, initial)

    n = len(letters)
    after = np.empty(n, np.uint16)
    ends = np.append(starts[1:], n)
    filled = starts < ends
    if n:
        _walk(automaton, letters, starts[filled], first_sets[filled], after)
    before = np.empty(n, np.uint16)
    before[1:] = after[:-1]
    before[starts[filled]] = first_sets[filled]
    last = first_sets.copy()
    last[filled] = after[ends[filled] - 1]
    return Walk(before, after, last)


def _initial_sets(
    automaton: Walkable,
    letters: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    initial: int | npt.NDArray[np.integer] | None,
) -> npt.NDArray[np.uint16]:
    if len(letters) and letters.max() >= len(Letter):
        raise ValueError(f"letter {letters.max()}: there are {len(Letter)}")
    if len(letters) and (not len(starts) or starts[0] != 0):
        raise ValueError("the first run does not start at letter 0")
    if len(starts) and (starts[-1] > len(letters) or (np.diff(starts) < 0).any()):
        raise ValueError("starts are not ascending within the letters")
    sets = np.asarray(automaton.unknown if initial is None else initial)
    if sets.ndim and len(sets) != len(starts):
        raise ValueError(f"{len(sets)} initial sets for {len(starts)} runs")
    if sets.size and not 0 <= sets.min() <= sets.max() < len(automaton.sets):
        raise ValueError(f"initial set out of range: there are {len(automaton.sets)}")
    return np.broadcast_to(sets, starts.shape).astype(np.uint16)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Pieces of the stream: where each begins, its letters, the set before it."""

    begins: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    sets: npt.NDArray[np.uint16]

    def __getitem__(self, which: npt.NDArray[np.int64]) -> _Blocks:
        return _Blocks(self.begins[which], self.lengths[which], self.sets[which])


def _walk(
    automaton: Walkable,
    letters: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    first_sets: npt.NDArray[np.uint16],
    after: npt.NDArray[np.uint16],
) -> None:
    """Fill `after`: cut, then walk long blocks alone and the others in step."""
    blocks = _cut(automaton, letters, starts, first_sets)
    alone = blocks.lengths > _LONG
    if len(letters) <= _SHORT:
        alone[:] = True
    _walk_alone(automaton, letters, blocks[np.flatnonzero(alone)], after)
    together = np.flatnonzero(~alone)
    # Longest first: the blocks that still run are then always a prefix.
    longest_first = together[np.argsort(-blocks.lengths[together], kind="stable")]
    _walk_in_step(automaton, letters, blocks[longest_first], after)


def _cut(
    automaton: Walkable,
    letters: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    first_sets: npt.NDArray[np.uint16],
) -> _Blocks:
    """Where blocks begin, with the set known there: at runs, behind known letters."""
    cuts = _first_of_each_block((automaton.constant >= 0)[letters]) + 1
    # A run's start has the run's own initial set.
    cuts = cuts[(cuts < len(letters)) & ~np.isin(cuts, starts)]
    begins = np.concatenate([starts, cuts])
    sets = np.concatenate(
        [first_sets, automaton.constant[letters[cuts - 1]].astype(np.uint16)]
    )
    order = np.argsort(begins, kind="stable")
    begins = begins[order]
    return _Blocks(begins, np.diff(begins, append=len(letters)), sets[order])


def _first_of_each_block(known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The first place that is known in each block of letters but the first one."""
    whole = len(known) // _BLOCK * _BLOCK
    blocks = known[:whole].reshape(-1, _BLOCK)[1:]
    first = blocks.argmax(axis=1)
    some = np.flatnonzero(blocks[np.arange(len(blocks)), first])
    places: npt.NDArray[np.int64] = (some + 1) * _BLOCK + first[some]
    if whole and known[whole:].any():
        places = np.append(places, whole + known[whole:].argmax())
    return places


def _walk_alone(
    automaton: Walkable,
    letters: npt.NDArray[np.uint8],
    blocks: _Blocks,
    after: npt.NDArray[np.uint16],
) -> None:
    """One block after the other, one letter a turn."""
    if not len(blocks.begins):
        return
    rows = automaton.next_set.tolist()
    for begin, length, first_set in zip(
        blocks.begins.tolist(),
        blocks.lengths.tolist(),
        blocks.sets.tolist(),
        strict=True,
    ):
        state = first_set
        sets = []
        # bytes: iterating over an array would make a numpy object of each letter.
        for letter in letters[begin : begin + length].tobytes():
            state = rows[state][letter]
            sets.append(state)
        after[begin : begin + length] = sets


def _walk_in_step(
    automaton: Walkable,
    letters: npt.NDArray[np.uint8],
    blocks: _Blocks,
    after: npt.NDArray[np.uint16],
) -> None:
    """All blocks at once, longest first, one letter a turn."""
    if not len(blocks.begins):
        return
    # Sets are kept as row offsets of the flat table, so that a turn is one addition
    # and one look-up; int64, because take() converts any other index.
    rows = np.zeros((len(automaton.sets), 1 << _ROW_BITS), np.int64)
    rows[:, : len(Letter)] = automaton.next_set
    flat = rows.ravel() << _ROW_BITS
    states = blocks.sets.astype(np.int64) << _ROW_BITS
    places = blocks.begins.copy()
    # Of each turn, how many blocks have a letter for it.
    turns = np.arange(blocks.lengths[0])
    running = np.searchsorted(-blocks.lengths, -turns, side="left")
    for count in running.tolist():
        at = places[:count]
        now = states[:count]
        now += letters.take(at)
        flat.take(now, out=now, mode="clip")
        after[at] = now >> _ROW_BITS
        at += 1
