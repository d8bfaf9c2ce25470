"""The worked scenarios S01 to S46, written as traces and replayed from those.

The totals (PIN, PIW, wrong-vCPU processing) must be the ones that were worked by hand.
A trace can't express all of them; what is left out, and why, is told below, and
tests/model holds the model itself to every one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from timeline.scene import IO, PREEMPTED, RUNNABLE, SLEEPS, Scene, Vcpu

from piscope.model.policy import DEFAULT_PLATFORM, POLICIES, Platform
from piscope.outcomes import Hit
from piscope.replay.findings import find, replay
from piscope.replay.pcpus import occupancy
from piscope.replay.stimuli import build_stimuli

DATA = Path(__file__).parents[1] / "data" / "conformance" / "scenarios.json"
SCENARIOS = {s["id"]: s for s in json.loads(DATA.read_text())}
POLICY = {"old": "preempt-only", "new": "suppress-on-put"}
PLATFORM = {"S27": Platform(assigned_device=False)}

NOT_IN_A_TRACE = {
    "an instant inside vcpu_enter_guest or behind a VM-exit, IRQs off": (
        "S03 S04 S05 S18 S30 S44 S46"
    ),
    "an instant at which a pCPU has IRQs off, by no event of its own": (
        "S13 S16 S19 S20 S34 S38"
    ),
    "an instant inside pi_load": "S23 S24 S43",
    "an IPI by KVM that is on its way during a VM-exit": "S25",
    "the guest's IF at a put, without probes that read NV": "S14 S41 S42",
    "a sync of a polling or blocking loop": "S28 S29",
    "the URG bit, which Linux never sets": "S22",
    "that a vCPU has never been loaded": "S33",
    "that APICv is inhibited, but by the exit's vector (test_rows, row 2)": "S35",
}
LEFT_OUT = {id_ for ids in NOT_IN_A_TRACE.values() for id_ in ids.split()}
EXPRESSED = sorted(set(SCENARIOS) - LEFT_OUT)


class Traced:
    """One vCPU whose loads and puts are seen by probes that read flags only."""

    def __init__(self, scene: Scene, vcpu_id: int) -> None:
        self.a: Vcpu = scene.vcpu(vcpu_id, cpu=5)
        self.off = False
        self.load(5)
        self.a.enter()
        self.a.exit()
        self.put("return to userspace")

    def load(self, cpu: int) -> None:
        if self.off:
            self.a.woken()
            self.a.into(cpu)
        self.a.cpu = cpu
        self.a.event("pi:pi_load", vcpu=self.a.vcpu_id)
        if not self.off:
            self.a.run()
        self.off = False

    def put(self, why: str) -> None:
        preempted, blocking = "preempted" in why, "blocking" in why
        if why == "sched_out, runnable, preempted=0":
            preempted = False
        if why == "sleep D, not blocking":
            blocking = False
        state = PREEMPTED if preempted else SLEEPS
        if why == "return to userspace":
            self.a.unload()
        else:
            self.a.out(RUNNABLE if "runnable" in why else state)
            self.off = True
        self.a.event(
            "pi:pi_put",
            vcpu=self.a.vcpu_id,
            preempted=int(preempted),
            blocking=int(blocking),
        )
        if not self.off:
            self.a.event("kvm:kvm_userspace_exit", reason=2, errno=0)

    def post(self, vector: int, by_device: bool) -> None:
        if by_device:
            self.a.scene.msi(vector, cpu=7)
        self.a.scene.accept(self.a.vcpu_id, vector, cpu=7)


Action = Callable[..., Any]

EVENTS: dict[str, Action] = {
    r"load (\w) c(\d)": lambda v, c: v.load(int(c)),
    r"put (\w) \((.*)\)": lambda v, why: v.put(why),
    r"IRQ-off; mode=IN; sync; VM-entry (\w)": lambda v: v.a.enter(),
    r"VM-exit (\w); mode=OUT; IRQ-on": lambda v: v.a.exit(IO),
    # kvm_vcpu_wakeup ends a halt, whose last check looks at PIR
    r"sync_pir_to_irr (\w)": lambda v: v.a.wakeup(),
    r"HW post (\w) 0x(\w\w)": lambda v, x: v.post(int(x, 16), True),
    r"SW post (\w) 0x(\w\w)": lambda v, x: v.post(int(x, 16), False),
    r"thread now on c1 \(sched_migrate_task\)|(\w) moves": lambda v: None,
}


def perform(vcpus: dict[str, Traced], event: str) -> None:
    for pattern, action in EVENTS.items():
        found = re.fullmatch(pattern, event)
        if found:
            name, *rest = found.groups()
            action(vcpus[name or "A"], *rest)
            return
    raise AssertionError(f"no trace shows {event!r}")


def totals(scenario: dict[str, Any], which: str) -> list[tuple[int, int]]:
    rows = [row["event"] for row in scenario[which]]
    names = sorted(set(re.findall(r"\b([AB])\b", " ".join(rows))))
    scene = Scene()
    vcpus = {name: Traced(scene, i) for i, name in enumerate(names)}
    for event in rows:
        perform(vcpus, event)
    scene.tick(cpu=6)
    events, t = scene.events(), scene.timeline()
    stimuli = build_stimuli(t, events, "msi")
    platform = PLATFORM.get(scenario["id"], DEFAULT_PLATFORM)
    walked = replay(t, stimuli, POLICIES[POLICY[which]], platform)
    places = occupancy(events, t.vcpus, t.intervals, t.acts)
    found = find(t, stimuli, walked, places)
    assert len(found) == sum("post" in event for event in rows)
    least = walked.least(walked.automaton.self_ipi).sum()
    most = walked.most(walked.automaton.self_ipi).sum()
    woken = found.count(Hit.WAKEUP)
    return [
        found.count(Hit.HOST, Hit.UNLOADED_HOST, Hit.GUEST_EXIT),
        (woken[0] + int(least), woken[1] + int(most)),
        found.count(Hit.WRONG_VCPU),
    ]


@pytest.mark.parametrize("which", POLICY)
@pytest.mark.parametrize("id_", EXPRESSED)
def test_totals(id_: str, which: str) -> None:
    scenario = SCENARIOS[id_]
    worked = [(n, n) for n in scenario["totals"][which]]
    assert totals(scenario, which) == worked


@pytest.mark.parametrize("id_", sorted(LEFT_OUT))
def test_what_is_left_out_has_no_trace(id_: str) -> None:
    # either a word that no event stands for, or a reason that is said above
    rows = [row["event"] for row in SCENARIOS[id_]["old"]]
    said_elsewhere = {"S14", "S28", "S29", "S33", "S41", "S42"}
    known = [any(re.fullmatch(p, row) for p in EVENTS) for row in rows]
    assert not all(known) or id_ in said_elsewhere


def test_all_46_are_accounted_for() -> None:
    assert len(EXPRESSED) + len(LEFT_OUT) == len(SCENARIOS) == 46
