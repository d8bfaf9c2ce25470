"""The sets of states a descriptor may be in, by subset construction from the table.

A trace begins in mid-life and loses events, so what is replayed is not a state but the
set of those that are possible. Known here is only the table; what a state means is the
model's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter, Outcome
from piscope.model.policy import DEFAULT_PLATFORM, Platform, Policy
from piscope.model.table import Cell, Table, enumerate_table

__all__ = ("Automaton", "Ranges")

# No policy comes near it; more would mean that the table is not what was meant.
_MAX_SETS = 4096

Uint8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Ranges:
    """Of one quantity, the least and the greatest over the possible states; uint8.

    By set and letter for outcomes (uint8[sets, letters]), by set for bits of the
    state (uint8[sets]). Where both are equal the quantity is certain.
    """

    min: Uint8
    max: Uint8


@dataclass(frozen=True, eq=False)
class Automaton:
    """The deterministic automaton over sets of states, and what each step may do.

    Set ids index the rows of all arrays, letters the columns:

        a.notify_f2.min[walk.before, letters]   int per letter of a stream

    sets       the members of each set, as numbers of `table.states`, ascending
    next_set   uint16[sets, letters]
    certain    bool[sets, letters]: every possible state gives the same outcome
    surprise   bool[sets, letters]: the letter is impossible in every possible state.
               Something was missed: any state is taken as possible before it
    constant   int32[letters]: the set that the letter leads to whatever was before,
               or -1
    unknown, fresh  the sets "any legal state" and "as created"
    on, sn, nv_f1, pir  bits of the state, by set
    the other Ranges  the fields of `Outcome`, by set and letter
    """

    table: Table
    sets: tuple[tuple[int, ...], ...]
    next_set: npt.NDArray[np.uint16]
    certain: npt.NDArray[np.bool_]
    surprise: npt.NDArray[np.bool_]
    constant: npt.NDArray[np.int32]
    unknown: int
    fresh: int
    on: Ranges
    sn: Ranges
    nv_f1: Ranges
    pir: Ranges
    notify_f2: Ranges
    notify_f1: Ranges
    self_ipi: Ranges
    wake: Ranges
    silenced_on: Ranges
    silenced_sn: Ranges
    silenced_pir: Ranges
    absorbed: Ranges
    pir_scans: Ranges
    locked_ops: Ranges
    list_locks: Ranges

    @staticmethod
    def for_policy(policy: Policy, platform: Platform = DEFAULT_PLATFORM) -> Automaton:
        """The automaton of a policy; built once per policy and platform."""
        return _build(policy, platform)

    def set_of(self, states: Iterable[int]) -> int | None:
        """The id of the set with these members, None if no stream leads to it."""
        wanted = tuple(sorted(set(states)))
        return next(
            (i for i, members in enumerate(self.sets) if members == wanted), None
        )


def _answers(
    table: Table, members: tuple[int, ...], letter: Letter
) -> tuple[list[Cell], bool]:
    cells = [cell for state in members for cell in table.cells[state][letter]]
    if cells:
        return cells, False
    # Impossible in every member: the trace has missed something.
    return [c for state in table.legal for c in table.cells[state][letter]], True


@cache
def _build(policy: Policy, platform: Platform) -> Automaton:
    table = enumerate_table(policy, platform)
    # The sets that streams may start from; the singletons, because a caller may know.
    sets = [table.legal, *((state,) for state in range(len(table.states)))]
    ids = {members: place for place, members in enumerate(sets)}
    following: list[list[int]] = []
    answers: list[list[list[Cell]]] = []
    surprises: list[list[bool]] = []
    for members in sets:  # grows on the way
        row: list[int] = []
        cells_row: list[list[Cell]] = []
        surprise_row: list[bool] = []
        for letter in Letter:
            cells, surprise = _answers(table, members, letter)
            after = tuple(sorted({cell.next_state for cell in cells}))
            if after not in ids:
                ids[after] = len(sets)
                sets.append(after)
            row.append(ids[after])
            cells_row.append(cells)
            surprise_row.append(surprise)
        following.append(row)
        answers.append(cells_row)
        surprises.append(surprise_row)
        assert len(sets) <= _MAX_SETS, "the subset construction does not end"

    next_set = np.array(following, np.uint16)
    constant = np.where(
        (next_set == next_set[0]).all(axis=0), next_set[0].astype(np.int32), -1
    )
    return Automaton(
        table=table,
        sets=tuple(sets),
        next_set=next_set,
        certain=np.array(
            [[len({c.outcome for c in cells}) == 1 for cells in row] for row in answers]
        ),
        surprise=np.array(surprises),
        constant=constant.astype(np.int32),
        unknown=0,
        fresh=ids[table.fresh,],
        **_state_ranges(table, sets),
        **_outcome_ranges(answers),
    )


def _state_ranges(table: Table, sets: list[tuple[int, ...]]) -> dict[str, Any]:
    def of(bit: str) -> Ranges:
        values = [[getattr(table.states[s], bit) for s in members] for members in sets]
        return _ranges([min(v) for v in values], [max(v) for v in values])

    return {bit: of(bit) for bit in ("on", "sn", "nv_f1", "pir")}


def _outcome_ranges(answers: list[list[list[Cell]]]) -> dict[str, Any]:
    def of(field: str) -> Ranges:
        values = [
            [[getattr(c.outcome, field) for c in cs] for cs in r] for r in answers
        ]
        return _ranges(
            [[min(v) for v in row] for row in values],
            [[max(v) for v in row] for row in values],
        )

    return {field: of(field) for field in Outcome._fields}


def _ranges(least: Any, greatest: Any) -> Ranges:
    return Ranges(np.array(least, np.uint8), np.array(greatest, np.uint8))
