"""Every row of the state table, each a drawn timeline: row, outcome, and certainty.

Each post is an MSI that a device could have posted; the last one of a case is told
of. A row that leaves no event of its own is named beside the ones it can't be told
from, and then nothing is certain.

Source: `pi_semantics`, section 8.1.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timeline.scene import (
    F1,
    F2,
    HARDIRQ,
    HLT,
    IO,
    IRQS_OFF,
    MSR_WRITE,
    PREEMPTED,
    RUNNABLE,
    SLEEPS,
    Scene,
    Vcpu,
)
from timeline.streams import scenes

from piscope.model.policy import POLICIES
from piscope.outcomes import Findings, Hit, Row
from piscope.replay.findings import find, replay
from piscope.replay.pcpus import occupancy
from piscope.replay.stimuli import build_stimuli

OLD, NEW = "preempt-only", "suppress-on-put"
AT_EXIT, FAST, LEGACY = "suppress-at-exit", "more-fastpath", "legacy-5.15"
DISK = 0x2  # TASK_UNINTERRUPTIBLE
EPT_VIOLATION = 48


def findings(
    scene: Scene, policy: str, fastpath: frozenset[int] = frozenset({IO})
) -> Findings:
    events, t = scene.events(), scene.timeline()
    stimuli = build_stimuli(t, events, "msi")
    places = occupancy(events, t.vcpus, t.intervals, t.acts)
    walked = replay(t, stimuli, POLICIES[policy], fastpath=fastpath)
    return find(t, stimuli, walked, places)


def told(found: Findings, at: int = -1) -> str:
    """One post as `rows outcomes`, with a question mark unless it is certain."""
    rows = "|".join(r.label for r in Row if int(found.row[at]) >> r & 1)
    hits = "|".join(h.label for h in Hit if int(found.possible[at]) >> h & 1)
    return f"{rows} {hits}{'' if found.certain[at] else '?'}"


def post(scene: Scene, vcpu: Vcpu, vector: int = 0x51, cpu: int = 7) -> None:
    scene.msi(vector, cpu=cpu)
    scene.accept(vcpu.vcpu_id, vector, cpu=cpu)


def kvm_posts(scene: Scene, vcpu: Vcpu, vector: int = 0x61) -> None:
    scene.accept(vcpu.vcpu_id, vector, cpu=7)


def leaves_by(a: Vcpu, vector: int | None) -> None:
    """A VM-exit by an external interrupt, with its vector unless that is None."""
    fields = {} if vector is None else {"intr_info": 0x8000_0000 | vector}
    a.event("kvm:kvm_exit", IRQS_OFF, vcpu_id=a.vcpu_id, exit_reason=1, isa=1, **fields)


def works(a: Vcpu) -> None:
    """Something that KVM traces for a loaded vCPU."""
    a.event("kvm:kvm_eoi", apicid=a.vcpu_id, vector=0x51)


# --- loaded; each begins in the guest


def row_1(scene: Scene, a: Vcpu) -> None:
    post(scene, a)
    leaves_by(a, 0xEC)


def row_2(scene: Scene, a: Vcpu) -> None:
    post(scene, a)
    leaves_by(a, 0xF2)


def row_2_vector_unknown(scene: Scene, a: Vcpu) -> None:
    post(scene, a)
    leaves_by(a, None)


def row_3(scene: Scene, a: Vcpu) -> None:
    # exit |  *  | its interrupt, handled with IRQs off | an event with IRQs on
    leaves_by(a, 0xEC)
    post(scene, a)
    a.event("irq:irq_handler_exit", IRQS_OFF | HARDIRQ, irq=1)
    works(a)
    a.enter()


def row_4(scene: Scene, a: Vcpu) -> None:
    # exit, entry: a fast path of today's kernels, or not
    a.exit(MSR_WRITE)
    post(scene, a)
    a.enter()


def row_5(scene: Scene, a: Vcpu) -> None:
    a.exit()
    works(a)
    post(scene, a)
    works(a)
    a.enter()


def row_6(scene: Scene, a: Vcpu) -> None:
    a.exit(HLT)
    post(scene, a)
    a.wakeup()
    a.enter()


def row_7_or_8(scene: Scene, a: Vcpu) -> None:
    # the last event before the entry is behind: IRQs may be off for it
    a.exit()
    works(a)
    post(scene, a)
    a.enter()


def row_9(scene: Scene, a: Vcpu) -> None:
    # given up for a signal: no kvm_entry
    a.exit()
    works(a)
    post(scene, a)
    a.leave()


def row_10(scene: Scene, a: Vcpu) -> None:
    a.exit()
    a.unload()
    a.pi_put()
    a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
    a.pi_load()
    scene.tick(cpu=5)
    post(scene, a)
    a.pi_put((1, 1), (1, 0, F2))


def row_11_switched_out(scene: Scene, a: Vcpu) -> None:
    # sched_switch |  *  | pi_put
    a.exit()
    a.out(PREEMPTED)
    post(scene, a)
    a.pi_put((1, 1), (1, 1, F2), preempted=1)


def row_11_returning(scene: Scene, a: Vcpu) -> None:
    # kvm_fpu load=0 |  *  | pi_put
    a.exit()
    a.unload()
    post(scene, a)
    a.pi_put((1, 1), (1, 0, F2))


# --- not loaded


def row_12(scene: Scene, a: Vcpu) -> None:
    a.exit()
    a.leave()
    post(scene, a)
    a.run()


def row_13(scene: Scene, a: Vcpu) -> None:
    a.exit()
    a.out(PREEMPTED)
    post(scene, a)
    a.into()


def row_14(scene: Scene, a: Vcpu) -> None:
    other = scene.vcpu(1, cpu=3)
    other.enter()
    other.exit()
    other.out(PREEMPTED)  # the kernel prints R+ for those
    a.exit()
    a.out(RUNNABLE)
    post(scene, a)
    a.into()


def row_15(scene: Scene, a: Vcpu) -> None:
    a.exit(EPT_VIOLATION)
    a.out(DISK)
    post(scene, a)
    a.woken()
    a.into()


def row_16(scene: Scene, a: Vcpu) -> None:
    a.exit(HLT)
    a.out(SLEEPS)
    post(scene, a)
    a.woken()
    a.into()
    a.wakeup()


def another_blocks(scene: Scene, preempted: int = 0) -> None:
    """On pCPU 3 another vCPU arms its wakeup vector: so this kernel does."""
    b = scene.vcpu(1, cpu=3)
    b.pi_load()
    b.enter()
    b.exit(HLT)
    b.out(RUNNABLE if preempted else SLEEPS)
    b.pi_put(after=(0, preempted, F1), blocking=1, preempted=preempted)
    b.woken()
    b.into()
    b.pi_load(sn=preempted, nv=F1)
    b.wakeup()


def row_17(scene: Scene, a: Vcpu) -> None:
    another_blocks(scene)
    a.exit(HLT)
    a.out(SLEEPS)
    a.pi_put(blocking=1)
    post(scene, a)


def row_18(scene: Scene, a: Vcpu) -> None:
    a.exit(HLT)
    a.out(PREEMPTED)
    a.pi_put(after=(0, 1, F1), blocking=1, preempted=1)
    post(scene, a)


def row_19(scene: Scene, a: Vcpu) -> None:
    another_blocks(scene, preempted=1)
    a.exit(HLT)
    a.out(PREEMPTED)
    a.pi_put(after=(0, 1, F2), blocking=1, preempted=1)
    post(scene, a)


def row_18_or_19(scene: Scene, a: Vcpu) -> None:
    # this kernel never arms a preempted vCPU: NV does not tell the guest's IF
    a.exit(HLT)
    a.out(PREEMPTED)
    a.pi_put(after=(0, 1, F2), blocking=1, preempted=1)
    post(scene, a)


def row_20(scene: Scene, a: Vcpu) -> None:
    a.exit()
    a.out(RUNNABLE)
    a.pi_put()
    post(scene, a)


def row_21(scene: Scene, a: Vcpu) -> None:
    # switch in |  *  | pi_load
    a.exit()
    a.out(DISK)
    a.pi_put()
    a.woken()
    a.into()
    post(scene, a)


def row_22(scene: Scene, a: Vcpu) -> None:
    # a bit waits, and nothing was traced between the load and the second post
    a.exit()
    a.out(PREEMPTED)
    post(scene, a, 0x41)
    a.into()
    post(scene, a, 0x42)
    works(a)


def row_23(scene: Scene, a: Vcpu) -> None:
    b = scene.vcpu(1, cpu=3)
    post(scene, b)
    b.run()
    b.enter()


def row_24(scene: Scene, a: Vcpu) -> None:
    a.exit()
    post(scene, a, 0x41)
    a.leave()
    post(scene, a, 0x42)
    a.run()


def row_25(scene: Scene, a: Vcpu) -> None:
    a.exit()
    a.leave()
    kvm_posts(scene, a)
    post(scene, a)
    a.run()


def row_unknown(scene: Scene, a: Vcpu) -> None:
    # ON=1 in a window whose put the trace does not place: set before, or by KVM
    a.exit()
    a.leave()
    scene.lose(None, scene.now_ns - 2500, scene.now_ns - 1500)
    post(scene, a)


HOST = "5|9"
CASES = [
    (row_1, {OLD: "1 guest", NEW: "1 guest", AT_EXIT: "1 guest"}),
    (row_2, {OLD: "2 guest-exit", NEW: "2 guest-exit"}),
    (
        row_2_vector_unknown,
        {OLD: "1|2 guest|guest-exit?", NEW: "1|2 guest|guest-exit?"},
    ),
    (row_3, {OLD: "3 host", NEW: "3 host", AT_EXIT: "3 silent-sn"}),
    (
        row_4,
        {
            OLD: "3|4|5|7|8|9 host|latched?",
            NEW: "3|4|5|7|8|9 host|latched?",
            AT_EXIT: "3|4|5|7|8|9 silent-sn?",
        },
    ),
    (
        row_5,
        {
            OLD: f"{HOST} host",
            NEW: f"{HOST} host",
            AT_EXIT: f"{HOST} silent-sn",
            FAST: "4 latched",
        },
    ),
    (
        row_6,
        {
            OLD: "6 host",
            NEW: "6 host",
            FAST: "6 host",
            AT_EXIT: "6 silent-sn",
            LEGACY: "6' wakeup",
        },
    ),
    (row_7_or_8, {OLD: "5|7|8|9 host?", NEW: "5|7|8|9 host?", FAST: "4 latched"}),
    (row_9, {OLD: f"{HOST} host", NEW: f"{HOST} host", FAST: f"{HOST} host"}),
    (row_10, {OLD: "10 host", NEW: "10 host", AT_EXIT: "10 silent-sn"}),
    (row_11_switched_out, {OLD: "11 host", NEW: "11 host", AT_EXIT: "11 silent-sn"}),
    (row_11_returning, {OLD: "11 host", NEW: "11 host", AT_EXIT: "11 silent-sn"}),
    (row_12, {OLD: "12 unloaded-host", NEW: "12 silent-sn"}),
    (row_13, {OLD: "13 silent-sn", NEW: "13 silent-sn"}),
    (row_14, {OLD: "14 silent-sn", NEW: "14 silent-sn"}),
    (row_15, {OLD: "15 unloaded-host", NEW: "15 silent-sn"}),
    (row_16, {OLD: "16 wakeup", NEW: "16 wakeup", LEGACY: "16 wakeup"}),
    (
        row_17,
        {
            OLD: "17 unloaded-host",
            NEW: "17 silent-sn",
            LEGACY: "17 unloaded-host",
            "legacy-5.10": "17 wakeup",
        },
    ),
    (row_18, {OLD: "18 silent-sn", NEW: "18 silent-sn"}),
    (row_19, {OLD: "19 silent-sn", NEW: "19 silent-sn"}),
    (row_18_or_19, {OLD: "18|19 silent-sn", NEW: "18|19 silent-sn"}),
    (row_20, {OLD: "20 unloaded-host", NEW: "20 silent-sn"}),
    (row_21, {OLD: "21 unloaded-host", NEW: "21 silent-sn"}),
    # the bit that waits has ON by then, unless it is inside pi_load
    (row_22, {OLD: "5|9|22 silent-on?", NEW: "5|9|22 silent-on?"}),
    (row_24, {OLD: "24 silent-on", NEW: "24 silent-on", AT_EXIT: "12 silent-sn"}),
    (row_25, {OLD: "25 silent-on", NEW: "25 silent-on"}),
]


@pytest.mark.parametrize(
    ("case", "expected"), CASES, ids=[c[0].__name__ for c in CASES]
)
def test_row(case: Callable[[Scene, Vcpu], None], expected: dict[str, str]) -> None:
    assert {p: told(findings(played(case), p)) for p in expected} == expected


NOTHING_KNOWN = "|".join(str(n) for n in range(1, 26))
WHATEVER = "guest|host|unloaded-host|wrong-vcpu|wakeup|silent-on|silent-sn|unknown?"


def test_row_23_before_its_first_event_a_vcpu_may_be_anywhere() -> None:
    scene = played(row_23)
    assert told(findings(scene, NEW), 0) == f"{NOTHING_KNOWN} {WHATEVER}"


def test_rows_24_and_25_are_open_where_events_were_lost() -> None:
    found = findings(played(row_unknown), NEW)
    assert int(found.row[-1]) & (1 << Row.ON_AT_PUT)
    assert int(found.row[-1]) & (1 << Row.ON_BY_KVM)
    assert not found.certain[-1]


def test_every_row_has_a_case() -> None:
    seen = {
        row
        for _, expected in CASES
        for text in expected.values()
        for row in text.split()[0].split("|")
    }
    assert seen | {"23"} == {row.label for row in Row}


@given(scenes(), st.sampled_from(sorted(POLICIES)))
@settings(max_examples=60)
def test_any_stream_has_rows_for_every_post(scene: Scene, policy: str) -> None:
    found = findings(scene, policy)
    assert (found.row > 0).all()
    assert (found.row < 1 << len(Row)).all()
    one = (found.possible & (found.possible - 1)) == 0
    assert one[found.certain].all()
    sent = found.maybe(Hit.HOST, Hit.UNLOADED_HOST, Hit.WAKEUP)
    assert not found.coalesced[~sent].any()
    assert not found.maybe(Hit.LATCHED)[found.window >= 0].any()


def played(case: Callable[[Scene, Vcpu], None]) -> Scene:
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    a.run()
    if case.__name__ in PROBED:
        a.pi_load()
    a.enter()
    case(scene, a)
    scene.tick(cpu=5)
    return scene


PROBED = {
    "row_10",
    "row_11_switched_out",
    "row_11_returning",
    "row_17",
    "row_18",
    "row_19",
    "row_18_or_19",
    "row_20",
    "row_21",
}
