"""The table against the reference on every state and vector, and its printed form."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from piscope.model.descriptor import (
    Mode,
    PiDesc,
    Put,
    Vcpu,
    vmx_vcpu_pi_load,
    vmx_vcpu_pi_put,
)
from piscope.model.letters import Folded, Letter, fold
from piscope.model.policy import DEFAULT_PLATFORM, POLICIES, Platform
from piscope.model.posting import (
    post_by_iommu,
    process_notification,
    vcpu_enter_guest,
    vcpu_outside_guest,
    vmx_deliver_posted_interrupt,
    vmx_sync_pir_to_irr,
)
from piscope.model.table import IMPOSSIBLE, SEVERAL, enumerate_table
from piscope.model.table_text import diff_text, dot_text, table_text

DATA = Path(__file__).parents[1] / "data" / "model"
PUTS = {
    Letter.PUT_RUN_PREEMPTED: Put(True, False, False),
    Letter.PUT_RUN_NOT: Put(False, False, False),
    Letter.PUT_BLOCK_IF1_PREEMPTED: Put(True, True, False),
    Letter.PUT_BLOCK_IF1_NOT: Put(False, True, False),
    Letter.PUT_BLOCK_IF0_PREEMPTED: Put(True, True, True),
    Letter.PUT_BLOCK_IF0_NOT: Put(False, True, True),
}


def unfolded(state: Folded):
    """States that fold to this one: other vectors, other pCPUs."""
    pirs = (1 << 0x20, 1 << 255 | 1 << 0x20) if state.pir else (0,)
    for pir, cpu in product(pirs, (0, 7)):
        yield Vcpu(
            PiDesc(pir, state.on, state.sn, 0xF1 if state.nv_f1 else 0xF2, cpu),
            cpu,
            state.loaded,
            Mode.IN_GUEST_MODE if state.in_guest else Mode.OUTSIDE_GUEST_MODE,
            cpu if state.nv_f1 else None,
        )


def by_the_reference(vcpu: Vcpu, letter: Letter, policy):
    """What the reference leaves of one of the letters that are a single call."""
    match letter:
        case Letter.LOAD_SAME:
            return vmx_vcpu_pi_load(vcpu, vcpu.cpu, policy)
        case Letter.LOAD_OTHER:
            return vmx_vcpu_pi_load(vcpu, vcpu.cpu + 3, policy)
        case Letter.SYNC:
            return vmx_sync_pir_to_irr(vcpu, policy)
        case Letter.ENTER:
            return vcpu_enter_guest(vcpu, policy)
        case Letter.EXIT:
            return vcpu_outside_guest(vcpu, policy)
        case Letter.POST_HW:
            return post_by_iommu(vcpu, 0x31)
        case Letter.POST_SW_NEW:
            return vmx_deliver_posted_interrupt(vcpu, 0x31)
        case Letter.POST_SW_AGAIN:
            return vmx_deliver_posted_interrupt(vcpu, 0x20)
    return vmx_vcpu_pi_put(vcpu, PUTS[letter], policy)


@pytest.mark.parametrize("name", POLICIES)
def test_every_state_and_letter_is_the_references_answer(name):
    table = enumerate_table(POLICIES[name])
    single = [*list(Letter)[:11], Letter.SYNC, Letter.ENTER, Letter.EXIT]
    if not POLICIES[name].block_in_put:
        # Those that imply pi_pre_block or pi_post_block: see test_worked_variants.
        single = [x for x in single if x not in PUTS and x is not Letter.ENTER]
    compared = 0
    for state, row in zip(table.states, table.cells, strict=True):
        for letter, vcpu in product(single, unfolded(state)):
            if not row[letter]:
                continue
            (cell,) = row[letter]
            step = by_the_reference(vcpu, letter, POLICIES[name])
            sent = [(e.kind, e.vector) for e in step.effects]
            done = cell.outcome
            assert sent.count(("notify", 0xF2)) == done.notify_f2
            assert sent.count(("notify", 0xF1)) == done.notify_f1
            assert sent.count(("self_ipi", 0xF1)) == done.self_ipi
            assert sent.count(("wake", 0)) == done.wake
            assert step.pir_scans == done.pir_scans
            assert step.locked_ops == done.locked_ops
            assert step.list_locks == done.list_locks
            silenced = (done.silenced_on, done.silenced_sn, done.silenced_pir)
            assert silenced == tuple(step.silenced == x for x in ("on", "sn", "pir"))
            if done.absorbed:
                step = process_notification(step.vcpu)
            assert fold(step.vcpu) == table.states[cell.next_state]
            compared += 1
    assert compared > 100


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_impossible(name):
    table = enumerate_table(POLICIES[name])
    for state, row in zip(table.states, table.cells, strict=True):
        assert bool(row[Letter.LOAD_SAME]) == bool(row[Letter.LOAD_OTHER])
        assert bool(row[Letter.LOAD_SAME]) != state.loaded
        assert bool(row[Letter.EXIT]) == state.in_guest
        outside = state.loaded and not state.in_guest
        for letter in (Letter.SYNC, Letter.ENTER, *PUTS):
            assert bool(row[letter]) == outside
        assert bool(row[Letter.POST_SW_AGAIN]) == state.pir
        always = (Letter.POST_HW, Letter.POST_SW_NEW, Letter.INIT, Letter.NOP)
        assert all(row[letter] for letter in always)
        assert len(row[Letter.FORGET]) == len(table.legal)


@pytest.mark.parametrize("name", POLICIES)
def test_legal_states_keep_the_rules_that_the_kernel_keeps(name):
    policy = POLICIES[name]
    table = enumerate_table(policy)
    for number in table.legal:
        state = table.states[number]
        if not policy.suppress_at_exit:
            # After load, and until put, SN=0; and then PIR without ON can't be.
            assert not (state.loaded and state.sn)
            assert not (not state.sn and state.pir and not state.on)
        if policy.sn_on_every_put:
            # Put: quiet, or to be woken, and never both.
            assert state.loaded or state.sn != state.nv_f1
        if policy.block_in_put:
            assert not (state.loaded and state.nv_f1)
        if state.in_guest:
            assert (state.sn, state.nv_f1, state.pir) == (False, False, False)


@pytest.mark.parametrize("name", POLICIES)
def test_array_form_says_the_same(name):
    table = enumerate_table(POLICIES[name])
    array = table.next_states()
    for state, row in enumerate(table.cells):
        for letter in Letter:
            followers = {cell.next_state for cell in row[letter]}
            expected = followers.pop() if len(followers) == 1 else SEVERAL
            assert array[state, letter] == (expected if row[letter] else IMPOSSIBLE)


def test_after_load_both_policies_agree():
    """I18, exhaustively: the same state, whatever the put left."""
    for on, pir, preempted in product((False, True), repeat=3):
        if pir and not on:
            continue
        letters = [Letter.PUT_RUN_PREEMPTED if preempted else Letter.PUT_RUN_NOT]
        letters += [Letter.POST_HW, Letter.LOAD_SAME]
        reached = set()
        for name in ("preempt-only", "suppress-on-put"):
            table = enumerate_table(POLICIES[name])
            start = Folded(True, False, False, False, on, pir)
            state = table.states.index(start)
            for letter in letters:
                state = table.cells[state][letter][0].next_state
            reached.add(table.states[state])
        assert reached == {Folded(True, False, False, False, True, True)}


def test_without_pi_wakeup_the_policies_do_the_same():
    """I23: put does nothing, and SN is 0 from the first load on."""
    tables = [
        enumerate_table(POLICIES[name], Platform(assigned_device=False))
        for name in ("preempt-only", "suppress-on-put")
    ]
    assert tables[0].states == tables[1].states
    assert tables[0].cells == tables[1].cells
    quiet = [s for s in tables[0].states if s.sn]
    assert all(not s.loaded for s in quiet)
    load = tables[0].cells[tables[0].fresh][Letter.LOAD_OTHER][0]
    assert not tables[0].states[load.next_state].sn


def test_a_td_is_drained_at_entry_only():
    table = enumerate_table(POLICIES["suppress-on-put"], Platform(td_vcpu=True))
    pending = table.states.index(Folded(True, False, False, False, True, True))
    (sync,) = table.cells[pending][Letter.SYNC]
    (entry,) = table.cells[pending][Letter.ENTER]
    assert sync.next_state == pending
    assert entry.outcome.absorbed
    assert not table.states[entry.next_state].pir


# Printed -----------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_printed_table_is_the_reviewed_one(name):
    assert table_text(enumerate_table(POLICIES[name])) == _reviewed(f"{name}.txt")


def test_printed_effect_of_the_patch_is_the_reviewed_one():
    first, second = (
        enumerate_table(POLICIES[x]) for x in ("preempt-only", "suppress-on-put")
    )
    text = diff_text(first, second)
    assert text == _reviewed("preempt-only..suppress-on-put.txt")
    assert len(text.splitlines()) <= 40, "one screen"


def _reviewed(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def test_no_difference_is_said():
    table = enumerate_table(POLICIES["suppress-on-put"])
    other = enumerate_table(POLICIES["more-fastpath"])
    text = diff_text(table, other)
    assert "no difference in states that both have" in text
    assert "more_fastpath" in text


@pytest.mark.parametrize("name", POLICIES)
def test_graph_has_the_legal_states_and_their_edges(name):
    table = enumerate_table(POLICIES[name], DEFAULT_PLATFORM)
    text = dot_text(table)
    assert len(re.findall(r"^  s\d+ \[", text, re.M)) == len(table.legal)
    edges = set(re.findall(r"^  s(\d+) -> s(\d+) ", text, re.M))
    ends = {int(number) for edge in edges for number in edge}
    assert ends <= set(table.legal)
    assert text.startswith(f'digraph "{name}" {{') and text.endswith("}\n")
