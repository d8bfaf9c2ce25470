"""Hand-worked cases for other kernels and hypotheticals: L1-L5, T1, H1, H2, E2, E3.

Each names its events in order; what is asserted was worked out on paper.
"""

from __future__ import annotations

import pytest

from piscope.model.descriptor import Put
from piscope.model.lapic import Host
from piscope.model.policy import (
    POLICIES,
    Platform,
    SchedOut,
    kvm_sched_out_preempted,
)

LEGACY = ["legacy-5.10", "legacy-5.15"]
BLOCK = Put(blocking=True)
BLOCK_IF0 = Put(blocking=True, irqs_blocked=True)


def host(name, **platform):
    h = Host(POLICIES[name], Platform(**platform))
    h.load("A", 0)
    return h


def totals(h):
    return h.totals["pin"], h.totals["piw"]


def pi(h):
    return h.vcpus["A"].pi


@pytest.mark.parametrize("name", LEGACY)
def test_l1_halt_poll_has_the_wakeup_vector(name):
    h = host(name)
    assert not h.pre_block("A")
    h.post_hw("A", 0x41)  # polling, loaded
    assert totals(h) == (0, 1)
    assert h.take_log()[-1].asleep == ()  # kicks a task that does not sleep
    h.sync("A")
    assert h.vcpus["A"].virr == 1 << 0x41
    h.post_block("A")
    assert (pi(h).nv, h.vcpus["A"].wakeup_cpu) == (0xF2, None)


@pytest.mark.parametrize("name", ["preempt-only", "suppress-on-put"])
def test_l1_since_5_17_polling_has_the_ordinary_vector(name):
    h = host(name)
    h.post_hw("A", 0x41)
    h.sync("A")
    assert totals(h) == (1, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("legacy-5.10", (0, 1)),
        ("legacy-5.15", (1, 0)),
        ("preempt-only", (1, 0)),
        ("suppress-on-put", (0, 0)),
    ],
)
def test_l2_halt_with_interrupts_off(name, expected):
    h = host(name)
    if not h.policy.block_in_put:
        h.pre_block("A", irqs_blocked=True)
    h.put("A", BLOCK_IF0)
    h.post_hw("A", 0x41)
    # Whoever was woken finds nothing to do, and sleeps again; ON stays.
    h.load("A", 0)
    h.put("A", BLOCK_IF0)
    h.post_hw("A", 0x42)
    assert totals(h) == expected


@pytest.mark.parametrize("name", LEGACY)
def test_l3_on_before_pre_block_means_no_block(name):
    h = host(name)
    h.post_hw("A", 0x41)
    assert h.pre_block("A")
    assert (pi(h).nv, h.vcpus["A"].wakeup_cpu) == (0xF2, None)
    h.enter("A")
    assert h.vcpus["A"].virr == 1 << 0x41
    assert totals(h) == (1, 0)


@pytest.mark.parametrize("name", LEGACY)
def test_l4_blocked_preempted_and_migrated(name):
    h = host(name)
    h.pre_block("A")
    h.put("A", Put(preempted=True, blocking=True))
    assert (pi(h).sn, pi(h).nv) == (True, 0xF1)
    h.post_hw("A", 0x41)
    assert not h.totals["notify"]
    h.load("A", 1)
    # The list is still that of c0, and so is the destination.
    assert (pi(h).sn, pi(h).nv, pi(h).ndst, pi(h).on) == (False, 0xF1, 0, True)
    assert h.vcpus["A"].wakeup_cpu == 0
    h.sync("A")
    h.post_block("A")
    assert (pi(h).nv, pi(h).ndst, h.vcpus["A"].wakeup_cpu) == (0xF2, 1, None)
    assert totals(h) == (0, 0)


@pytest.mark.parametrize("name", LEGACY)
def test_l5_woken_on_another_pcpu(name):
    h = host(name)
    h.pre_block("A")
    h.put("A", BLOCK)
    h.post_hw("A", 0x41)
    assert (h.piw_of[0], h.asleep) == (1, set())
    h.load("A", 1)
    assert pi(h).on
    h.post_hw("A", 0x42)  # silent: ON
    assert h.piw_of[0] == 1
    h.sync("A")
    h.post_hw("A", 0x43)  # still to c0, although A runs on c1
    assert h.piw_of == {0: 2}
    assert totals(h) == (0, 2)


def test_t1_only_hardware_moves_a_tds_bits():
    h = host("suppress-on-put", td_vcpu=True)
    h.put("A", BLOCK)
    assert pi(h).nv == 0xF1
    h.load("A", 0)
    h.post_hw("A", 0x41)  # host, IRQs on
    h.take_log()
    h.enter("A")
    kinds = [x.kind for x in h.take_log()]
    assert kinds == ["self_ipi", "hwpi"]  # and no sync
    assert (h.vcpus["A"].virr, pi(h).on, totals(h)) == (1 << 0x41, False, (1, 0))


@pytest.mark.parametrize(
    ("name", "pins"),
    [("preempt-only", 1), ("suppress-on-put", 1), ("suppress-at-exit", 0)],
)
def test_h1_a_post_while_the_exit_is_handled(name, pins):
    h = host(name)
    h.enter("A")
    h.exit("A")
    h.post_hw("A", 0x41)
    assert h.vcpus["A"].virr == 0
    h.enter("A")
    assert h.vcpus["A"].virr == 1 << 0x41
    assert totals(h) == (pins, 0)


def test_h1_b_polling_and_blocking_look_at_pir():
    h = host("suppress-at-exit")
    h.enter("A")
    h.exit("A")
    h.post_hw("A", 0x41)
    assert (pi(h).sn, pi(h).on) == (True, False)
    h.put("A", BLOCK)  # as if polling had looked at ON alone
    assert h.take_log()[-1].woken == ("A",)  # the self-IPI: no wakeup is lost
    h.load("A", 0)
    h.sync("A")  # check_block
    assert h.vcpus["A"].virr == 1 << 0x41


def test_h1_a_given_up_entry_is_quiet_again():
    h = host("suppress-at-exit")
    h.irq_off(0)
    h.mode_in_guest("A")
    h.sync("A")
    h.post_hw("A", 0x41)  # between SN=0 and VM-entry: the one window left
    h.mode_outside_guest("A")
    h.irq_on(0)
    h.post_hw("A", 0x42)
    assert totals(h) == (1, 0)
    assert pi(h).sn


def test_h2_a_more_fastpath_absorbs_what_was_latched():
    h = host("more-fastpath")
    h.enter("A")
    h.vm_exit("A")
    h.post_hw("A", 0x41)
    h.sync("A")
    h.take_log()
    h.vm_entry("A")
    (processed,) = h.take_log()
    assert (processed.kind, processed.moved) == ("hwpi", 0)
    assert totals(h) == (0, 0)
    assert h.vcpus["A"].virr == 1 << 0x41


@pytest.mark.parametrize(
    ("rule", "pins"), [("5.10", 0), ("5.14", 0), ("6.11", 1), ("6.12", 1)]
)
def test_e2_whether_s45_is_preempted_depends_on_the_rule(rule, pins):
    out = SchedOut(on_rq=True, task_running=True, wants_to_run=False)
    h = host("preempt-only")
    h.put("A", Put(preempted=kvm_sched_out_preempted(out, rule)))
    h.post_hw("A", 0x41)
    assert totals(h) == (pins, 0)


def test_preempted_rules_differ_where_their_releases_say():
    sleeping = SchedOut(on_rq=False, task_running=False)
    delayed = SchedOut(on_rq=True, task_running=False, delayed_dequeue=True)
    # A task that set its state and was preempted before it slept.
    caught = SchedOut(on_rq=True, task_running=False)
    rules = ("5.10", "5.14", "6.11", "6.12")
    assert [kvm_sched_out_preempted(sleeping, r) for r in rules] == [False] * 4
    assert [kvm_sched_out_preempted(delayed, r) for r in rules][-1] is False
    assert [kvm_sched_out_preempted(caught, r) for r in rules] == [False] + [True] * 3


@pytest.mark.parametrize(
    ("name", "pins"), [("preempt-only", 1), ("suppress-on-put", 0)]
)
def test_e3_the_stale_destination_is_idle(name, pins):
    h = host(name)
    h.enter("A")
    h.exit("A")
    h.put("A", Put())  # the thread moves to c1 in userspace; c0 has nothing to do
    h.post_hw("A", 0x41)
    assert h.pin_of[0] == pins
