"""The sets of states a descriptor may be in, by subset construction from the table.

A trace begins in mid-life and loses events, so what is replayed is not a state but the
set of those that are possible. Known here is only the table; what a state means is the
model's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter, Outcome
from piscope.model.policy import DEFAULT_PLATFORM, Platform, Policy
from piscope.model.table import Table, enumerate_table

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


@dataclass(frozen=True)
class _Answers:
    """What each single state answers to each letter, as arrays[..., states, letters].

    after    object: its next states, as the bits of an int; 0: impossible
    least, most  uint8[fields, states, letters]: of each field of Outcome; where the
             letter is impossible 255 and 0, which no minimum or maximum sees
    first, last  int32: of numbered outcomes the least and the greatest, likewise
    """

    after: npt.NDArray[np.object_]
    least: Uint8
    most: Uint8
    first: npt.NDArray[np.int32]
    last: npt.NDArray[np.int32]


def _answers(table: Table) -> _Answers:
    shape = (len(table.states), len(Letter))
    fields = len(Outcome._fields)
    after = np.zeros(shape, np.object_)
    least = np.full((fields, *shape), 255, np.uint8)
    most = np.zeros((fields, *shape), np.uint8)
    first = np.full(shape, np.iinfo(np.int32).max, np.int32)
    last = np.full(shape, -1, np.int32)
    numbers: dict[Outcome, int] = {}
    for state, row in enumerate(table.cells):
        for letter, cells in enumerate(row):
            if not cells:
                continue
            at = (state, letter)
            outcomes = np.array([cell.outcome for cell in cells], np.uint8)
            least[:, *at], most[:, *at] = outcomes.min(axis=0), outcomes.max(axis=0)
            ids = [numbers.setdefault(c.outcome, len(numbers)) for c in cells]
            first[at], last[at] = min(ids), max(ids)
            for cell in cells:
                after[at] |= 1 << cell.next_state
    return _Answers(after, least, most, first, last)


@cache
def _build(policy: Policy, platform: Platform) -> Automaton:
    table = enumerate_table(policy, platform)
    single = _answers(table)
    # The sets that streams may start from; the singletons, because a caller may know.
    sets = [table.legal, *((state,) for state in range(len(table.states)))]
    ids = {_bits(members): place for place, members in enumerate(sets)}
    following: list[list[int]] = []
    surprises: list[npt.NDArray[np.bool_]] = []
    anywhere = np.bitwise_or.reduce(single.after[list(table.legal)], axis=0)
    for members in sets:  # grows on the way
        after = np.bitwise_or.reduce(single.after[list(members)], axis=0)
        # Impossible in every member: the trace has missed something.
        surprise = after == 0
        row: list[int] = []
        for own, other in zip(after.tolist(), anywhere.tolist(), strict=True):
            bits = own or other
            if bits not in ids:
                ids[bits] = len(sets)
                sets.append(_members(bits))
            row.append(ids[bits])
        following.append(row)
        surprises.append(surprise.astype(np.bool_))
        assert len(sets) <= _MAX_SETS, "the subset construction does not end"

    surprise = np.array(surprises)
    legal = list(table.legal)

    def of_sets(
        values: npt.NDArray[Any], reduce: Callable[..., npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        own = np.stack([reduce(values[..., list(m), :], axis=-2) for m in sets], -2)
        return np.where(
            surprise, reduce(values[..., legal, :], axis=-2)[..., None, :], own
        )

    least, most = of_sets(single.least, np.min), of_sets(single.most, np.max)
    next_set = np.array(following, np.uint16)
    constant = np.where(
        (next_set == next_set[0]).all(axis=0), next_set[0].astype(np.int32), -1
    )
    return Automaton(
        table=table,
        sets=tuple(sets),
        next_set=next_set,
        certain=of_sets(single.first, np.min) == of_sets(single.last, np.max),
        surprise=surprise,
        constant=constant.astype(np.int32),
        unknown=0,
        fresh=ids[1 << table.fresh],
        **_state_ranges(table, sets),
        **{field: Ranges(least[i], most[i]) for i, field in enumerate(Outcome._fields)},
    )


def _bits(members: Iterable[int]) -> int:
    return sum(1 << state for state in members)


def _members(bits: int) -> tuple[int, ...]:
    return tuple(state for state in range(bits.bit_length()) if bits >> state & 1)


def _state_ranges(table: Table, sets: list[tuple[int, ...]]) -> dict[str, Any]:
    def of(bit: str) -> Ranges:
        values = [[getattr(table.states[s], bit) for s in members] for members in sets]
        return _ranges([min(v) for v in values], [max(v) for v in values])

    return {bit: of(bit) for bit in ("on", "sn", "nv_f1", "pir")}


def _ranges(least: Any, greatest: Any) -> Ranges:
    return Ranges(np.array(least, np.uint8), np.array(greatest, np.uint8))
