"""The automaton with posts by hardware at any instant: does the first one notify?

If a device posts at instants that nobody saw, a descriptor is at each letter in one of
two conditions: no such post came since it last forgot them all (`before`), or some did
(`posted`). What a letter does to both follows from the table, letter by letter, as in
the replay; so does whether the first post would send a notification.

    letter    EXIT          PUT               LOAD            ENTER
    before    ON=0          ON=0              ON=0            ON=0
    posted    ON=1          ON=1, or PIR={x}  ON=1            ON=0: forgotten

A stretch from one forgetting to the next is an epoch, and sends one notification at
the most: of the first post, if it falls where SN=0.

Source: the table (model.table); nothing about descriptors is said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.model.policy import DEFAULT_PLATFORM, Platform, Policy
from piscope.model.table import Table
from piscope.replay.automaton import Automaton

__all__ = ("FirstPost",)

# No policy comes near it; more would mean that the table is not what was meant.
_MOST_PAIRS = 8192

States = tuple[int, ...]
Pair = tuple[States, States]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FirstPost:
    """The deterministic automaton over pairs (before, posted) of sets of states.

    It is walked as `Automaton` is; pair ids index the rows of all arrays.

    sets       the pairs: numbers of `table.states`, ascending; `posted` is empty where
               an epoch begins
    next_set   uint16[pairs, letters]
    constant   int32[letters]: as in Automaton
    unknown    the pair (any legal state, none)
    forgets    bool[pairs, letters]: the letter ends the epoch, whatever came in it
    may_forget bool[pairs, letters]: it does so in some of the possible states
    once       bool[pairs]: no post of an epoch but the first can notify the host
    """

    table: Table
    sets: tuple[Pair, ...]
    next_set: npt.NDArray[np.uint16]
    constant: npt.NDArray[np.int32]
    unknown: int
    forgets: Bools
    may_forget: Bools
    once: Bools

    @staticmethod
    def for_policy(policy: Policy, platform: Platform = DEFAULT_PLATFORM) -> FirstPost:
        """The automaton of a policy; built once per policy and platform."""
        return _build(policy, platform)


@cache
def _build(policy: Policy, platform: Platform) -> FirstPost:
    base = Automaton.for_policy(policy, platform)
    table = base.table
    sets: list[Pair] = [(table.legal, ())]
    ids: dict[Pair, int] = {sets[0]: 0}
    following: list[list[int]] = []
    forgets: list[list[bool]] = []
    may_forget: list[list[bool]] = []
    for before, posted in sets:  # grows on the way
        arrived = _after_posts(table, (*before, *posted), posted)
        row: list[int] = []
        surely_row: list[bool] = []
        maybe_row: list[bool] = []
        for letter in Letter:
            now = _step(table, before, letter) or _step(table, table.legal, letter)
            then = _step(table, arrived, letter)
            surely = base.constant[letter] >= 0 or (len(now) == 1 and then == now)
            pair = (now, () if surely else then)
            if pair not in ids:
                ids[pair] = len(sets)
                sets.append(pair)
            row.append(ids[pair])
            surely_row.append(bool(surely))
            maybe_row.append(bool(surely) or _may_forget(table, before, letter))
        following.append(row)
        forgets.append(surely_row)
        may_forget.append(maybe_row)
        assert len(sets) <= _MOST_PAIRS, "the subset construction does not end"
    next_set = np.array(following, np.uint16)
    constant = np.where(
        (next_set == next_set[0]).all(axis=0), next_set[0].astype(np.int32), -1
    )
    sends = [_sends(table, state) for state in range(len(table.states))]
    return FirstPost(
        table=table,
        sets=tuple(sets),
        next_set=next_set,
        constant=constant.astype(np.int32),
        unknown=0,
        forgets=np.array(forgets),
        may_forget=np.array(may_forget),
        once=np.array([not any(sends[s] for s in _again(table, p)) for p in sets]),
    )


def _may_forget(table: Table, states: States, letter: Letter) -> bool:
    """Whether some state that a post changes is the same behind the letter after it."""
    changed = ((s, _after_posts(table, (s,), ())) for s in states)
    return any(
        set(_step(table, (state,), letter)) & set(_step(table, posted, letter))
        for state, posted in changed
        if state not in posted
    )


def _step(table: Table, states: States, letter: Letter) -> States:
    cells = (cell for state in states for cell in table.cells[state][letter])
    return tuple(sorted({cell.next_state for cell in cells}))


def _after_posts(table: Table, states: States, already: States) -> States:
    """What one post or more makes of these states; `already` had theirs."""
    found = set(already)
    waiting = set(_step(table, states, Letter.POST_HW))
    while waiting:
        found |= waiting
        waiting = set(_step(table, tuple(waiting), Letter.POST_HW)) - found
    return tuple(sorted(found))


def _again(table: Table, pair: Pair) -> States:
    """The states in which a second post of an epoch may find the descriptor."""
    before, posted = pair
    # in guest mode the first was taken at once, and leaves nothing behind
    away = tuple(s for s in before if not table.states[s].in_guest)
    return _after_posts(table, (*away, *posted), posted)


def _sends(table: Table, state: int) -> bool:
    """Whether a post in that state sends 0xF2 that the CPU does not take in guest."""
    return any(
        cell.outcome.notify_f2 > cell.outcome.absorbed
        for cell in table.cells[state][Letter.POST_HW]
    )
