"""The vectorized walk against the scalar one, and against the reference itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.model.letters import Letter
from piscope.model.policy import POLICIES
from piscope.replay import scan as scan_module
from piscope.replay.scan import Automaton, scan

AUTOMATA = {name: Automaton.for_policy(policy) for name, policy in POLICIES.items()}


def walk_one_by_one(automaton, letters, starts, initial):
    """The same, from the members of each set and the table's cells."""
    table = automaton.table
    before, after = [], []
    ends = [*starts[1:], len(letters)]
    for start, end, first in zip(starts, ends, initial, strict=True):
        members = automaton.sets[first]
        for letter in letters[start:end]:
            before.append(members)
            cells = [c for m in members for c in table.cells[m][letter]]
            if not cells:
                cells = [c for m in table.legal for c in table.cells[m][letter]]
            members = tuple(sorted({c.next_state for c in cells}))
            after.append(members)
    return before, after


def assert_same(automaton, letters, starts, initial):
    walk = scan(
        automaton,
        np.array(letters, np.uint8),
        np.array(starts, np.int64),
        np.array(initial, np.uint16),
    )
    before, after = walk_one_by_one(automaton, letters, starts, initial)
    assert [automaton.sets[i] for i in walk.before] == before
    assert [automaton.sets[i] for i in walk.after] == after
    return walk


@st.composite
def streams(draw, automaton):
    rare = draw(st.lists(st.sampled_from(Letter), max_size=6))
    letters = draw(
        st.lists(st.sampled_from([*Letter, *rare * 8]), min_size=1, max_size=80)
    )
    inner = draw(st.lists(st.integers(0, len(letters)), max_size=6))
    starts = [0, *sorted(inner)]
    some_set = st.integers(0, len(automaton.sets) - 1)
    initial = [draw(some_set) for _ in starts]
    return letters, starts, initial


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks of a few letters, so that short streams take every path."""
    monkeypatch.setattr(scan_module, "_BLOCK", 3)
    monkeypatch.setattr(scan_module, "_LONG", 9)
    monkeypatch.setattr(scan_module, "_SHORT", 0)


@pytest.mark.parametrize("name", AUTOMATA)
def test_walk_equals_the_one_by_one_walk(name, tiny_blocks):
    @settings(max_examples=40, deadline=None)
    @given(streams(AUTOMATA[name]))
    def check(stream):
        assert_same(AUTOMATA[name], *stream)

    check()


def realistic(rng, cycles):
    cycle = (
        [Letter.LOAD_SAME, Letter.ENTER, Letter.EXIT, Letter.PUT_RUN_NOT],
        [Letter.LOAD_OTHER, Letter.ENTER, Letter.EXIT, Letter.PUT_BLOCK_IF1_NOT],
        [
            Letter.LOAD_SAME,
            Letter.SYNC,
            Letter.ENTER,
            Letter.EXIT,
            Letter.PUT_RUN_PREEMPTED,
        ],
    )
    letters = []
    for choice in rng.integers(0, len(cycle), cycles):
        for letter in cycle[choice]:
            letters += [letter, *[Letter.POST_HW] * rng.integers(0, 3)]
    return letters


@pytest.mark.parametrize("runs", [1, 7])
def test_long_streams_take_the_lock_step_path(runs):
    automaton = AUTOMATA["preempt-only"]
    letters = realistic(np.random.default_rng(7), 9_000)
    assert len(letters) > scan_module._SHORT
    starts = np.linspace(0, len(letters), runs, endpoint=False).astype(int).tolist()
    assert_same(automaton, letters, starts, [automaton.unknown] * runs)


def test_a_stream_without_known_letters_is_walked_alone():
    automaton = AUTOMATA["suppress-on-put"]
    letters = [Letter.POST_HW, Letter.POST_SW_NEW] * 20_000
    walk = assert_same(automaton, letters, [0], [automaton.fresh])
    assert automaton.on.min[walk.last[0]] == 1


@pytest.mark.parametrize("name", ["preempt-only", "suppress-at-exit"])
def test_chunks_with_carried_sets_equal_the_whole(name):
    automaton = AUTOMATA[name]

    @settings(max_examples=40, deadline=None)
    @given(streams(automaton), st.data())
    def check(stream, data):
        letters = np.array(stream[0], np.uint8)
        whole = scan(automaton, letters, np.array([0]))
        cut = data.draw(st.integers(0, len(letters)))
        first = scan(automaton, letters[:cut], np.array([0]))
        second = scan(automaton, letters[cut:], np.array([0]), first.last)
        chunked = np.concatenate([first.after, second.after])
        assert chunked.tolist() == whole.after.tolist()
        assert second.last.tolist() == whole.last.tolist()

    check()


def test_ranges_hold_the_members_outcomes():
    for automaton in AUTOMATA.values():
        for set_id, members in enumerate(automaton.sets):
            for letter in Letter:
                cells = [c for m in members for c in automaton.table.cells[m][letter]]
                assert automaton.surprise[set_id, letter] == (not cells)
                if not cells:
                    continue
                outcomes = {c.outcome for c in cells}
                assert automaton.certain[set_id, letter] == (len(outcomes) == 1)
                for field in next(iter(outcomes))._fields:
                    ranges = getattr(automaton, field)
                    values = [getattr(o, field) for o in outcomes]
                    assert ranges.min[set_id, letter] == min(values)
                    assert ranges.max[set_id, letter] == max(values)


def test_unknown_start_contains_the_truth():
    automaton = AUTOMATA["preempt-only"]
    letters = np.array(realistic(np.random.default_rng(3), 300), np.uint8)
    starts = np.array([0])
    known = scan(automaton, letters, starts, automaton.fresh)
    unknown = scan(automaton, letters, starts)
    for sure, wide in zip(known.after, unknown.after, strict=True):
        assert set(automaton.sets[sure]) <= set(automaton.sets[wide])
    # and both agree from the first VM-entry on
    entry = int(np.flatnonzero(letters == Letter.ENTER)[0])
    assert known.after[entry:].tolist() == unknown.after[entry:].tolist()


@pytest.mark.parametrize(
    ("letters", "starts", "initial", "complaint"),
    [
        ([99], [0], 0, "letter 99"),
        ([1], [], 0, "does not start at letter 0"),
        ([1, 1], [0, 3], 0, "ascending"),
        ([1, 1], [0, 1, 0], 0, "ascending"),
        ([1], [0], 9999, "out of range"),
        ([1], [0], [0, 0], "2 initial sets for 1 runs"),
    ],
)
def test_arguments_that_do_not_fit(letters, starts, initial, complaint):
    with pytest.raises(ValueError, match=complaint):
        scan(
            AUTOMATA["preempt-only"],
            np.array(letters, np.uint8),
            np.array(starts, np.int64),
            np.array(initial),
        )


def test_no_letters_at_all():
    automaton = AUTOMATA["preempt-only"]
    empty = np.array([], np.uint8)
    walk = scan(automaton, empty, np.array([], np.int64))
    assert len(walk.before) == len(walk.after) == len(walk.last) == 0
    walk = scan(automaton, empty, np.array([0, 0]), automaton.fresh)
    assert walk.last.tolist() == [automaton.fresh] * 2
