"""The automaton with posts at any instant: against the table, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.model.letters import MAYBE, Letter
from piscope.model.policy import POLICIES
from piscope.model.table import Table, enumerate_table
from piscope.replay.automaton import Automaton
from piscope.replay.first_post import FirstPost
from piscope.replay.scan import scan

POSTED = (Letter.POST_HW, Letter.FORGET, *MAYBE)
PLAIN = [x for x in Letter if x not in POSTED and not x.name.startswith("OBSERVE")]


def legal_stream(table: Table, choices: list[int]) -> list[Letter]:
    """Letters that are possible one after the other, from a fresh descriptor."""
    state, letters = table.fresh, []
    for choice in choices:
        possible = [x for x in PLAIN if table.cells[state][x]]
        letters.append(possible[choice % len(possible)])
        state = table.cells[state][letters[-1]][0].next_state
    return letters


@pytest.mark.parametrize(
    "policy", ["preempt-only", "suppress-on-put", "no-suppression"]
)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=25),
    st.sets(st.integers(0, 25), max_size=6),
)
def test_only_the_first_post_of_an_epoch_notifies(
    policy: str, choices: list[int], posts: set[int]
) -> None:
    table = enumerate_table(POLICIES[policy])
    letters = legal_stream(table, choices)
    pairs = FirstPost.for_policy(POLICIES[policy])
    code = np.array([Letter.INIT, *letters], np.uint8)
    walk = scan(pairs, code, np.zeros(1, np.int64))
    forgets = pairs.forgets[walk.before, code]

    # the descriptor itself, with posts behind some letters
    state, sent, epoch, base = table.fresh, set(), 0, table.fresh
    for i, letter in enumerate([Letter.INIT, *letters]):
        if i:
            state = table.cells[state][letter][0].next_state
            base = table.cells[base][letter][0].next_state
        epoch += bool(forgets[i])
        if forgets[i]:
            assert state == base, "an epoch begins where no post makes a difference"
        if i in posts:
            cell = table.cells[state][Letter.POST_HW][0]
            if cell.outcome.notify_f2 > cell.outcome.absorbed:
                assert epoch not in sent, "one notification an epoch"
                sent.add(epoch)
            state = cell.next_state


@pytest.mark.parametrize("policy", list(POLICIES))
def test_what_surely_forgets_may_forget(policy: str) -> None:
    pairs = FirstPost.for_policy(POLICIES[policy])
    assert (pairs.may_forget | ~pairs.forgets).all()
    # a walk without posts is the automaton's own
    base = Automaton.for_policy(POLICIES[policy])
    for letter in PLAIN:
        for number, (before, _) in enumerate(pairs.sets):
            follower = pairs.sets[pairs.next_set[number, letter]][0]
            of = base.set_of(before)
            if of is not None:
                assert base.sets[base.next_set[of, letter]] == follower


def test_doing_nothing_forgets_nothing() -> None:
    pairs = FirstPost.for_policy(POLICIES["preempt-only"])
    open_ = [
        number
        for number, (before, _) in enumerate(pairs.sets)
        for state in [pairs.table.states[before[0]]]
        if len(before) == 1 and not (state.in_guest or state.on or state.pir)
    ]
    assert open_
    assert not pairs.may_forget[open_, Letter.NOP].any()
