"""The invariants I1 to I27 over random timelines of several vCPUs and pCPUs.

Those about one call are CHECKS, made after every call; those about a whole timeline
or about two policies are tests of their own. What is not a theorem is a counterexample.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model.timelines import Played, Scheduler, play

from piscope.model.descriptor import Mode, Put
from piscope.model.lapic import Host
from piscope.model.policy import POLICIES, Platform
from piscope.model.posting import post_by_iommu

OLD, NEW = POLICIES["preempt-only"], POLICIES["suppress-on-put"]
LOADS = ("load", "load_clear_sn", "load_scan")
CHECKED = ["preempt-only", "suppress-on-put", "more-fastpath", "no-suppression"]


def sent(step: Played, kind="notify"):
    return [h for h in step.log if h.kind == kind]


# Of one call -------------------------------------------------------------------


def i02_i03_after_load_pir_has_on_and_sn_is_0_until_put(s: Played):
    for name, vcpu in s.after.items():
        if vcpu.loaded:
            assert not vcpu.pi.sn
            assert vcpu.pi.on or not vcpu.pi.pir or name in s.in_gap


def i04_nv_f1_is_the_wakeup_list_of_ndst(s: Played):
    lists = [
        (name, cpu) for cpu, pcpu in s.host.cpus.items() for name in pcpu.wakeup_list
    ]
    armed = [(n, v.pi.ndst) for n, v in s.after.items() if v.pi.nv == 0xF1]
    assert sorted(lists) == sorted(armed)


def i05_i06_put_leaves_quiet_or_armed(s: Played):
    for vcpu in s.after.values():
        armed = vcpu.pi.nv == 0xF1
        if s.host.policy.sn_on_every_put and not vcpu.loaded:
            assert vcpu.pi.sn != armed
    if s.call[0] == "put":
        vcpu, why = s.after[s.call[1]], s.call[2]
        if vcpu.pi.nv == 0xF1 and vcpu.pi.sn:
            assert why.preempted and why.blocking and s.host.policy.arm_when_preempted


def i07_on_is_cleared_by_sync_and_processing_only(s: Played):
    processed = {h.vcpu for h in sent(s, "hwpi")} | {h.vcpu for h in sent(s, "sync")}
    for name, vcpu in s.after.items():
        if s.before[name].pi.on and not vcpu.pi.on:
            synced = s.call[0] in ("sync", "enter") and s.call[1] == name
            assert synced or name in processed


def i08_i09_i11_a_hardware_post_notifies_once_an_epoch_and_under_sn_never(s: Played):
    if s.call[0] != "post_hw":
        return
    before, notified = s.before[s.call[1]].pi, sent(s)
    assert len(notified) == (not before.on and not before.sn)
    if before.sn:
        assert s.after[s.call[1]].pi.on == before.on
    for happening in notified:
        assert (happening.cpu, happening.vector) == (before.ndst, before.nv)


def i10_i11_a_software_post_leaves_sn_nv_ndst_alone(s: Played):
    if s.call[0] != "post_sw":
        return
    before, after = s.before[s.call[1]], s.after[s.call[1]]
    for bit in ("sn", "nv", "ndst"):
        assert getattr(before.pi, bit) == getattr(after.pi, bit)
    for happening in sent(s):
        assert before.mode is Mode.IN_GUEST_MODE
        assert (happening.cpu, happening.vector) == (before.cpu, 0xF2)


def i11_i12_ndst_is_written_by_load_only(s: Played):
    for name, vcpu in s.after.items():
        if vcpu.loaded:
            assert vcpu.pi.ndst == vcpu.cpu
        if vcpu.pi.ndst != s.before[name].pi.ndst:
            assert s.call[0] in LOADS and s.call[1] == name


def i14_one_interrupt_per_vector_is_taken_at_once(s: Played):
    if s.call[0] == "irq_on":
        taken = Counter(h.kind for h in s.log)
        assert taken["pin"] <= 1 and taken["piw"] <= 1


def i20_a_wakeup_irq_wakes_listed_vcpus_with_on(s: Played):
    for happening in sent(s, "piw"):
        for name in happening.woken:
            assert s.after[name].pi.on
            assert s.after[name].wakeup_cpu == happening.cpu


def i21_a_blocked_vcpu_is_notified_by_the_wakeup_vector(s: Played):
    if s.call[0] == "put" and s.call[2] == Put(blocking=True):
        pi = s.after[s.call[1]].pi
        assert (pi.nv, pi.sn) == (0xF1, False)
        assert pi.on == bool(sent(s, "self_ipi"))


def i22_nobody_sleeps_over_a_pending_interrupt(s: Played):
    for name in s.host.asleep:
        pi = s.after[name].pi
        if pi.nv == 0xF1 and pi.pir:  # IF=1
            assert name in s.host.cpus[pi.ndst].irr.get(0xF1, ())


def i24_processing_in_the_wrong_guest_changes_nothing_that_counts(s: Played):
    for happening in sent(s, "hwpi"):
        if happening.wrong:
            old, new = s.before[happening.vcpu], s.after[happening.vcpu]
            assert old.virr | old.pi.pir == new.virr | new.pi.pir
            if s.call[0] == "post_hw" and s.call[1] != happening.vcpu:
                target = post_by_iommu(s.before[s.call[1]], s.call[2]).vcpu
                assert s.after[s.call[1]] == target


def i25_a_software_post_of_a_pending_vector_changes_nothing(s: Played):
    if s.call[0] == "post_sw" and s.before[s.call[1]].pi.pir >> s.call[2] & 1:
        assert s.after == s.before
        assert [h.why for h in s.log] == ["pir"]


def i26_every_post_has_one_outcome(s: Played):
    if s.call[0] in ("post_hw", "post_sw"):
        kinds = Counter(h.kind for h in s.log if h.vcpu == s.call[1])
        assert kinds["notify"] + kinds["silenced"] + kinds["wake"] == 1


CHECKS = [
    value
    for name, value in sorted(globals().items())
    if name.startswith("i") and name[1:3].isdigit()
]


def check_all(step: Played) -> None:
    for check in CHECKS:
        check(step)


def timelines(vcpus="AB", cpus=2, length=80):
    return st.builds(
        lambda random: Scheduler(random, vcpus, range(cpus)).timeline(length),
        st.randoms(use_true_random=False),
    )


@pytest.mark.parametrize("name", CHECKED)
def test_invariants_of_every_call(name):
    @settings(max_examples=40, deadline=None)
    @given(timelines("ABC", 3))
    def check(timeline):
        play(POLICIES[name], timeline, check_all)

    check()


def test_the_checks_see_what_they_are_about():
    """Every kind of happening, and the rare states, occur in a few timelines."""
    seen = Counter()
    for seed in range(60):
        timeline = Scheduler(Random(seed), "ABC").timeline(120)
        for step in play(OLD, timeline)[1]:
            for happening in step.log:
                seen[happening.kind] += 1
                seen["wrong"] += happening.wrong
                seen[happening.why] += 1
            if step.call[0] == "post_hw":
                pi = step.before[step.call[1]].pi
                seen["gap"] += bool(pi.pir and not pi.on and not pi.sn)
    rare = {"pin", "piw", "hwpi", "vmexit", "coalesced", "self_ipi", "wake", "sync"}
    assert not (rare | {"wrong", "gap", "on", "sn", "pir"}) - {
        k for k in seen if seen[k]
    }


# Of a timeline -----------------------------------------------------------------

SINCE_5_17 = [name for name, policy in POLICIES.items() if policy.block_in_put]


@pytest.mark.parametrize("name", SINCE_5_17)
def test_i01_no_posted_vector_is_lost(name):
    @settings(max_examples=40, deadline=None)
    @given(timelines("AB", 2))
    def check(timeline):
        posted = defaultdict(int)

        def at(step):
            if step.call[0] in ("post_hw", "post_sw"):
                posted[step.call[1]] |= 1 << step.call[2]
            if step.call[0] in ("enter", "vm_entry"):
                assert step.after[step.call[1]].virr == posted[step.call[1]]

        play(POLICIES[name], timeline, at)

    check()


@given(timelines("ABC", 2))
@settings(max_examples=40, deadline=None)
def test_i13_every_f2_is_an_irq_or_processed_or_coalesced(timeline):
    host, steps = play(OLD, timeline)
    taken = Counter()
    for step in steps:
        for happening in step.log:
            if happening.kind == "hwpi":
                taken[step.after[happening.vcpu].cpu] += 1
            elif happening.kind in ("pin", "coalesced") and happening.vector != 0xF1:
                taken[happening.cpu] += 1
    for cpu, pcpu in host.cpus.items():
        latched = 0xF2 in pcpu.irr
        assert host.sent_of[cpu, 0xF2] == taken[cpu] + latched
        assert host.pin_of[cpu] <= host.sent_of[cpu, 0xF2]


def windows(steps):
    """Per vCPU and put-to-load window: [armed, sent before SN=0, sent in the gap].

    The gap is that of the timeline: where a policy needs no scan, its load was done
    before the gap, and a post in it is like the other policy's.
    """
    found, place = defaultdict(list), {}
    for step in steps:
        name = step.call[1]
        if step.call[0] == "put":
            found[name].append([step.after[name].pi.nv == 0xF1, 0, 0])
            place[name] = 1
        for happening in sent(step):
            if happening.vcpu in place:
                found[happening.vcpu][-1][place[happening.vcpu]] += 1
        if step.call[0] == "load_clear_sn" and name in place:
            place[name] = 2
        elif step.call[0] in ("load", "load_scan"):
            place.pop(name, None)
    return found


@given(timelines("AB", 2))
@settings(max_examples=100, deadline=None)
def test_i15_i16_notifications_per_window(timeline):
    old, new = (windows(play(policy, timeline)[1]) for policy in (OLD, NEW))
    assert old.keys() == new.keys()
    for name in old:
        for was, is_now in zip(old[name], new[name], strict=True):
            assert is_now[1] + is_now[2] <= was[1] + was[2]
            if not was[0]:
                assert was[1] + was[2] <= 1
            if not is_now[0]:
                assert is_now[1] == 0 and is_now[2] <= 1


@given(timelines("A", 3))
@settings(max_examples=40, deadline=None)
def test_i16_with_one_vcpu_irqs_never_increase_either(timeline):
    old, new = (play(policy, timeline)[0] for policy in (OLD, NEW))
    assert new.totals["pin"] <= old.totals["pin"]


def test_i16_is_no_theorem_about_irqs_of_several_vcpus():
    """S43: old's notification was absorbed by B; new's, in the load gap, is a PIN."""
    timeline = [
        ("load", "A", 0),
        ("put", "A", Put()),
        ("load", "B", 0),
        ("enter", "B"),
        ("post_hw", "A", 0x41),
        ("load_clear_sn", "A", 1),
        ("post_hw", "A", 0x42),
        ("load_scan", "A"),
    ]
    old, new = (play(policy, timeline)[0].totals for policy in (OLD, NEW))
    assert (old["pin"], old["wrong"]) == (0, 1)
    assert (new["pin"], new["wrong"]) == (1, 0)


@given(timelines("ABC", 2))
@settings(max_examples=40, deadline=None)
def test_i17_i18_i19_the_guest_sees_the_same_and_wakeups_do_not_increase(timeline):
    old, was = play(OLD, timeline)
    new, now = play(NEW, timeline)

    def entries(steps):
        return [
            (s.call[1], s.after[s.call[1]].virr)
            for s in steps
            if s.call[0] in ("enter", "vm_entry")
        ]

    def loads(steps):
        # A load in one piece; a split one may or may not need the scan.
        return [s.after[s.call[1]] for s in steps if s.call[0] == "load"]

    assert entries(was) == entries(now)
    assert loads(was) == loads(now)
    useless = sum(
        len(sent(s, "self_ipi"))
        for s in was
        if s.call[0] == "put" and s.call[2].preempted
    )
    assert old.totals["piw"] - new.totals["piw"] == useless


@given(timelines("AB", 2))
@settings(max_examples=40, deadline=None)
def test_i23_without_pi_wakeup_the_policies_do_the_same(timeline):
    platform = Platform(assigned_device=False)

    def quiet_before_the_first_load_only(step):
        for vcpu in step.after.values():
            assert vcpu.pi.sn == (vcpu.cpu is None)

    old, was = play(OLD, timeline, quiet_before_the_first_load_only, platform)
    new, now = play(NEW, timeline, quiet_before_the_first_load_only, platform)
    assert [s.log for s in was] == [s.log for s in now]
    assert old.vcpus == new.vcpus


def test_i25_hardware_may_notify_for_a_bit_that_is_set_already():
    host = Host(NEW)
    host.load("A", 0)
    host.put("A", Put())
    host.post_hw("A", 0x41)
    assert host.load_clear_sn("A", 0)
    host.post_hw("A", 0x41)  # between SN=0 and the scan
    assert [h.kind for h in host.take_log()] == ["silenced", "notify", "pin"]


@given(st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_i27_what_happens_elsewhere_does_not_matter(random):
    here = Scheduler(random, "AB").timeline(60)
    there = Scheduler(random, "C", [9]).timeline(40)
    merged, left, right = [], list(here), list(there)
    while left or right:
        source = left if left and (not right or random.random() < 0.5) else right
        merged.append(source.pop(0))
    alone = [s.log for s in play(OLD, here)[1] if s.log]
    beside = [
        s.log for s in play(OLD, merged)[1] if s.log and s.call[1] not in ("C", 9)
    ]
    assert alone == beside
