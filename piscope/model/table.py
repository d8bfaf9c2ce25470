"""The reference, enumerated: every state a descriptor can be in, by every letter.

Nothing about descriptors is said here a second time: each cell is a call of the
reference. To be read beside `letters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from piscope.model.descriptor import Vcpu
from piscope.model.letters import MAYBE, Folded, Letter, Outcome, apply, fold
from piscope.model.policy import DEFAULT_PLATFORM, Platform, Policy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ("IMPOSSIBLE", "SEVERAL", "Cell", "Letter", "Table", "enumerate_table")

IMPOSSIBLE = -1
SEVERAL = -2
"""Entries of `Table.next_states` where there is no next state, or no single one."""

_OBSERVATIONS = frozenset(
    {
        Letter.OBSERVE_ON0_PIR0,
        Letter.OBSERVE_ON0_PIR1,
        Letter.OBSERVE_ON1_PIR0,
        Letter.OBSERVE_ON1_PIR1,
    }
)


class Cell(NamedTuple):
    """One possible answer to a letter: the next state's number, and what was done."""

    next_state: int
    outcome: Outcome


@dataclass(frozen=True)
class Table:
    """The transition table of a policy on a platform.

    states  every state that can occur, in a fixed order; a state's number is its place
    legal   numbers of the states that a descriptor may be in when nothing is known
    fresh   the number of the state after creation
    cells   cells[state][letter]: the possible answers; none where the letter is
            impossible, several only for FORGET and the letters of MAYBE
    """

    policy: Policy
    platform: Platform
    states: tuple[Folded, ...]
    legal: tuple[int, ...]
    fresh: int
    cells: tuple[tuple[tuple[Cell, ...], ...], ...]

    def next_states(self) -> npt.NDArray[np.int16]:
        """int16[states, letters]: next state's number, or IMPOSSIBLE, or SEVERAL."""
        import numpy as np

        table = np.full((len(self.states), len(Letter)), IMPOSSIBLE, np.int16)
        for state, row in enumerate(self.cells):
            for letter, cells in enumerate(row):
                if cells:
                    followers = {cell.next_state for cell in cells}
                    single = len(followers) == 1
                    table[state, letter] = followers.pop() if single else SEVERAL
        return table


def _reachable(
    start: set[Folded], letters: Sequence[Letter], policy: Policy, platform: Platform
) -> set[Folded]:
    found = set(start)
    frontier = list(start)
    while frontier:
        state = frontier.pop()
        for letter in letters:
            answer = apply(state, letter, policy, platform)
            if answer is not None and answer[0] not in found:
                found.add(answer[0])
                frontier.append(answer[0])
    return found


@cache
def enumerate_table(policy: Policy, platform: Platform = DEFAULT_PLATFORM) -> Table:
    """Call the reference on every state that can occur and every letter.

    Legal are the states that KVM and the hardware reach from a fresh descriptor, and
    the same with ON=1 but PIR empty: a sync leaves those behind if it runs between a
    poster's two writes, an instant the letters do not know.
    """
    single = [x for x in Letter if x not in MAYBE and x is not Letter.FORGET]
    unobserved = [x for x in single if x not in _OBSERVATIONS]
    fresh = fold(Vcpu())
    legal = _reachable({fresh}, unobserved, policy, platform)
    raced = {s._replace(pir=False) for s in legal if s.on and not s.in_guest}
    legal = _reachable(legal | raced, unobserved, policy, platform)
    states = tuple(sorted(_reachable(legal, single, policy, platform)))
    number = {state: place for place, state in enumerate(states)}
    unknown = tuple(number[state] for state in states if state in legal)

    def answers(state: Folded, letter: Letter) -> tuple[Cell, ...]:
        if letter is Letter.FORGET:
            return tuple(Cell(known, Outcome()) for known in unknown)
        if letter in MAYBE:
            return tuple(cell for one in MAYBE[letter] for cell in answers(state, one))
        answer = apply(state, letter, policy, platform)
        return () if answer is None else (Cell(number[answer[0]], answer[1]),)

    cells = tuple(tuple(answers(state, x) for x in Letter) for state in states)
    return Table(policy, platform, states, unknown, number[fresh], cells)
