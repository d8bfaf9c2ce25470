"""New or again: the classification against the reference, vector by vector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.model.descriptor import PiDesc, Put, Vcpu
from piscope.model.descriptor import vmx_vcpu_pi_load as load
from piscope.model.descriptor import vmx_vcpu_pi_put as put
from piscope.model.letters import Letter, fold
from piscope.model.policy import POLICIES
from piscope.model.posting import (
    post_by_iommu,
    process_notification,
    vcpu_enter_guest,
    vcpu_outside_guest,
    vmx_deliver_posted_interrupt,
    vmx_sync_pir_to_irr,
)
from piscope.replay.scan import Automaton, scan
from piscope.replay.software_posts import classify_software_posts

# Up to 5.16 letters stand for more than one call; their folding has its own test.
NAMES = [name for name, policy in POLICIES.items() if policy.block_in_put]


def reference(vcpu: Vcpu, letter: Letter, vector: int, policy):
    """The state after one letter with its vector, and whether KVM found it in PIR."""
    again = False
    match letter:
        case Letter.LOAD_SAME | Letter.LOAD_OTHER:
            cpu = vcpu.cpu if letter is Letter.LOAD_SAME else (vcpu.cpu or 0) + 1
            step = load(vcpu, cpu, policy)
        case Letter.PUT_RUN_NOT:
            step = put(vcpu, Put(), policy)
        case Letter.PUT_RUN_PREEMPTED:
            step = put(vcpu, Put(preempted=True), policy)
        case Letter.PUT_BLOCK_IF1_NOT:
            step = put(vcpu, Put(blocking=True), policy)
        case Letter.SYNC:
            step = vmx_sync_pir_to_irr(vcpu, policy)
        case Letter.ENTER:
            step = vcpu_enter_guest(vcpu, policy)
        case Letter.EXIT:
            step = vcpu_outside_guest(vcpu, policy)
        case Letter.POST_HW:
            step = post_by_iommu(vcpu, vector)
        case _:
            step = vmx_deliver_posted_interrupt(vcpu, vector)
            again = step.silenced == "pir"
    if step.effects and step.effects[0].kind == "notify" and vcpu.mode.value:
        step = process_notification(step.vcpu)
    return step.vcpu, again


def possible(vcpu: Vcpu) -> list[Letter]:
    posts = [Letter.POST_HW, Letter.POST_SW_EITHER]
    if vcpu.mode.value:
        return [*posts, Letter.EXIT]
    if vcpu.loaded:
        puts = [Letter.PUT_RUN_NOT, Letter.PUT_RUN_PREEMPTED, Letter.PUT_BLOCK_IF1_NOT]
        return [*posts, Letter.SYNC, Letter.ENTER, *puts]
    loads = [Letter.LOAD_OTHER] if vcpu.cpu is None else list(Letter)[:2]
    return [*posts, *posts, *loads]


@st.composite
def timelines(draw, policy):
    vcpu, rows = Vcpu(), []
    for _ in range(draw(st.integers(1, 60))):
        letter = draw(st.sampled_from(possible(vcpu)))
        vector = draw(st.sampled_from([0x31, 0x41, 0xFF]))
        vcpu, again = reference(vcpu, letter, vector, policy)
        rows.append((letter, vector, again, fold(vcpu)))
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_from_a_known_start_every_post_is_settled_as_the_reference_does(name):
    policy = POLICIES[name]
    automaton = Automaton.for_policy(policy)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(timelines(policy), min_size=1, max_size=3))
    def check(runs):
        rows = [row for run in runs for row in run]
        starts = np.cumsum([0, *[len(run) for run in runs[:-1]]])
        letters = np.array([row[0] for row in rows], np.uint8)
        vectors = np.array([row[1] for row in rows])
        settled, _ = classify_software_posts(
            letters, vectors, starts, automaton, automaton.fresh
        )
        expected = [
            letter
            if letter != Letter.POST_SW_EITHER
            else Letter.POST_SW_AGAIN
            if again
            else Letter.POST_SW_NEW
            for letter, _, again, _ in rows
        ]
        assert [Letter(x) for x in settled] == expected
        # and the states walked are the reference's, folded
        after = scan(automaton, settled, starts, automaton.fresh).after
        states = [automaton.table.states[automaton.sets[i][0]] for i in after]
        assert states == [row[3] for row in rows]

    check()


@pytest.mark.parametrize("name", NAMES)
def test_from_an_unknown_start_nothing_false_is_said(name):
    policy = POLICIES[name]
    automaton = Automaton.for_policy(policy)

    @settings(max_examples=30, deadline=None)
    @given(timelines(policy), st.integers(0, 30))
    def check(rows, lost):
        rows = rows[lost:]
        settled, _ = classify_software_posts(
            np.array([row[0] for row in rows], np.uint8),
            np.array([row[1] for row in rows]),
            np.array([0] if rows else []),
            automaton,
        )
        for said, (_, _, again, _) in zip(settled, rows, strict=True):
            assert said != (Letter.POST_SW_NEW if again else Letter.POST_SW_AGAIN)

    check()


def classify(letters, vectors, initial=None):
    automaton = Automaton.for_policy(POLICIES["suppress-on-put"])
    settled, _ = classify_software_posts(
        np.array(letters, np.uint8),
        np.array(vectors),
        np.array([0]),
        automaton,
        automaton.fresh if initial is None else initial,
    )
    return [Letter(x) for x in settled]


def test_the_drawn_example():
    either = Letter.POST_SW_EITHER
    head = [Letter.LOAD_OTHER, Letter.ENTER, Letter.EXIT]
    settled = classify(
        [*head, Letter.POST_HW, either, either, Letter.SYNC, either],
        [0, 0, 0, 0x41, 0x41, 0x42, 0, 0x41],
    )
    assert settled[4:6] == [Letter.POST_SW_AGAIN, Letter.POST_SW_NEW]
    assert settled[7] == Letter.POST_SW_NEW


def test_after_a_loss_only_a_drain_gives_certainty():
    either = Letter.POST_SW_EITHER
    settled = classify(
        [Letter.LOAD_OTHER, Letter.FORGET, either, Letter.SYNC, either, either],
        [0, 0, 0x41, 0, 0x41, 0x41],
    )
    assert settled[2] == either
    assert settled[4:] == [Letter.POST_SW_NEW, Letter.POST_SW_AGAIN]


def test_a_post_of_an_unknown_vector_may_have_been_any():
    either = Letter.POST_SW_EITHER
    settled = classify(
        [
            Letter.LOAD_OTHER,
            either,
            either,
            either,
            Letter.SYNC,
            Letter.POST_HW,
            either,
        ],
        [-1, -1, 0x41, 0x41, -1, 0x41, -1],
    )
    assert settled[1:4] == [Letter.POST_SW_NEW, either, Letter.POST_SW_AGAIN]
    assert settled[6] == either


def test_one_run_says_nothing_of_the_next():
    automaton = Automaton.for_policy(POLICIES["suppress-on-put"])
    letters = [Letter.LOAD_OTHER, Letter.ENTER, Letter.POST_SW_EITHER]
    settled, _ = classify_software_posts(
        np.array(letters, np.uint8),
        np.array([0, 0, 0x41]),
        np.array([0, 2]),
        automaton,
        np.array([automaton.fresh, automaton.unknown]),
    )
    assert settled[2] == Letter.POST_SW_EITHER


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="1 vectors for 2 letters"):
        classify([Letter.NOP, Letter.NOP], [0])
    with pytest.raises(ValueError, match="0 to 255"):
        classify([Letter.POST_HW], [256])
    assert PiDesc().sn  # a fresh descriptor is quiet: the fixture's first letter counts
