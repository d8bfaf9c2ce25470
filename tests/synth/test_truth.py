"""The truth against itself, and piscope against the truth.

Where a trace is complete, each answer that piscope calls certain is the truth; where
events are missing, what it counts brackets it.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synth.answers import Case, answers, made

from piscope.replay.stimuli import Posted
from piscope.report.selection import Selection
from piscope.report.summarize import summarize
from piscope.synth.replica import Replica
from piscope.synth.run import Simulation
from piscope.synth.scenario import Gaps, Halt, Lose, Replay, Scenario, read_scenario
from piscope.tables import PutReason

POSTED: tuple[Posted, ...] = ("msi", "none")

# `make synth-truth` asks for more of them
SEEDS = range(1, 1 + int(os.environ.get("PISCOPE_SEEDS", "1")))


def scenario(name: str, **capture: Any) -> Scenario:
    asked = read_scenario(name)
    return replace(asked, capture=replace(asked.capture, **capture))


# The truth itself ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixed", "halts", "wrong-vcpu", "preempted"])
def test_interrupts_counted_are_those_of_the_posts(name: str) -> None:
    asked = scenario(name, duration_ms=40.0)
    simulation = Simulation(asked)
    fates = [p.fates["captured"] for b in simulation.batches() for p in b.posts]
    host = simulation.descriptors.captured.host
    # one IRQ for all that were latched together: they were taken at one instant
    as_irq = {
        (fate.cpu, fate.taken_ns)
        for fate in fates
        if fate.hit is not None and fate.hit.label in ("host", "unloaded-host")
    }
    assert sum(host.pin_of.values()) == len(as_irq)
    woken = {(f.cpu, f.taken_ns) for f in fates if f.vector == 0xF1 and f.taken_ns}
    # and a wakeup that pi_enable_wakeup_handler sends to itself has no post
    assert sum(host.piw_of.values()) >= len(woken)


def _eager(self: Replica, name: str, cpu: int) -> bool:
    self.catch_up(cpu)
    return True


@pytest.mark.parametrize("name", ["mixed", "gaps", "preempted", "legacy"])
def test_hosts_that_are_told_of_everything_say_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = tuple(
        Replay(policy, posted)
        for policy in ("legacy-5.10", "preempt-only", "suppress-at-exit")
        for posted in POSTED
    )
    asked = replace(scenario(name, duration_ms=15.0), replay=every)

    def fates() -> list[Any]:
        batches = Simulation(asked).batches()
        return [(p.ts_ns, p.vcpu, p.fates) for b in batches for p in b.posts]

    lazy = fates()
    monkeypatch.setattr(Replica, "awake", _eager)
    assert fates() == lazy
    assert len(lazy) > 100


# Complete traces -----------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_certain_answers_of_a_complete_trace_are_the_truth(
    seed: int, tmp_path: Path
) -> None:
    """Every post is KVM's, and visible; its outcome is known to the letter."""
    case = made(scenario("remapped", seed=seed), tmp_path / "made.trace.dat")
    exact: Counter[bool] = Counter()
    for posted in POSTED:
        analysis = case.analysis(posted)
        for policy in ("preempt-only", "suppress-on-put"):
            for answer in answers(case, analysis, policy):
                if answer.truth["hit"] is None:
                    continue
                exact[answer.exact] += 1
                assert answer.right, (answer, posted, policy)
                assert answer.exact or not answer.certain, (answer, posted, policy)
    assert exact[True] > 3000
    assert exact[False] < exact[True] / 20


@pytest.mark.parametrize(("probes", "seed"), [("full", 1), ("full", 2), ("bare", 3)])
def test_probed_windows_are_the_true_ones(
    probes: str, seed: int, tmp_path: Path
) -> None:
    case = made(scenario("mixed", probes=probes, seed=seed), tmp_path / "x.trace.dat")
    analysis = case.analysis("none")
    w, events = analysis.timeline.windows, analysis.events
    tids = {row.vcpu: row.tid for row in analysis.timeline.vcpus.rows}
    # a probe's event comes right before what it sees
    told = [
        (tids[vcpu], put_ns, put_cpu, load_cpu if load_row >= 0 else None)
        for vcpu, put_ns, put_cpu, load_cpu, load_row in zip(
            *(x.tolist() for x in (w.vcpu, w.put_ns, w.put_cpu, w.load_cpu)),
            w.load_row.tolist(),
            strict=True,
        )
    ]
    true = sorted(
        (x["tid"], x["put_ns"], x["put_cpu"], x["load_cpu"]) for x in case.windows
    )
    assert sorted(told) == true
    if probes == "full":
        reasons = [PutReason(r).label for r in w.reason.tolist()]
        by_put = {(x["tid"], x["put_ns"]): x["reason"] for x in case.windows}
        assert reasons == [by_put[tid, put_ns] for tid, put_ns, *_ in told]
    assert len(events) > 5000


# Incomplete ones -----------------------------------------------------------------

MISSING: dict[str, dict[str, Any]] = {
    "probed": {"probes": "full"},
    "bare": {"probes": "bare"},
    "plain": {"probes": "none"},
    "no kvm_fpu": {"probes": "none", "drop": ("kvm_fpu",)},
    "no userspace": {"probes": "none", "drop": ("kvm_fpu", "kvm_userspace_exit")},
    "no wakeups": {"probes": "none", "drop": ("kvm_vcpu_wakeup", "sched_wak*")},
    "no posts": {"probes": "none", "drop": ("kvm_ap*", "kvm_msi_set_irq")},
    "no flags of interrupts": {"probes": "none", "drop": ("irq_*", "local_*")},
    "lost, probed": {
        "probes": "full",
        "lose": (Lose(0, 3.0, 4.0), Lose(0, 7.0, 7.2), Lose(0, 10.0, 11.5)),
    },
    "lost": {"probes": "none", "lose": (Lose(0, 3.0, 4.0), Lose(0, 9.0, 10.5))},
}


def true_counts(case: Case, replay: str) -> dict[str, int]:
    hits = case.hits(replay)
    return {
        "unloaded_notifications": hits["unloaded-host"] + hits["wrong-vcpu"],
        "wrong_vcpu": hits["wrong-vcpu"],
        "residual_notifications": hits["host"],
    }


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("name", ["mixed", "userspace", "wrong-vcpu", "halts", "ipiv"])
def test_counts_bracket_the_truth(name: str, missing: str, tmp_path: Path) -> None:
    asked = scenario(name, duration_ms=15.0, **MISSING[missing])
    if asked.capture.probes != "full":
        # a halt is taken to be one with IF=1 (pi_semantics, section 6.4)
        vms = tuple(replace(vm, halt=replace(vm.halt, irqs_off=0.0)) for vm in asked.vm)
        asked = replace(asked, vm=vms)
    for seed in SEEDS:
        capture = replace(asked.capture, seed=seed)
        case = made(replace(asked, capture=capture), tmp_path / "made.trace.dat")
        for posted in POSTED:
            summary = summarize(case.analysis(posted), Selection())
            for policy, said in summary.policies.items():
                for key, true in true_counts(case, f"{policy}/{posted}").items():
                    bounds = getattr(said, key)
                    about = (seed, posted, policy, key, true, bounds)
                    assert bounds.min <= true <= bounds.max, about
                if not capture.lose:
                    assert said.contradictions == 0


def test_a_probed_capture_shows_each_unseen_post_that_matters(tmp_path: Path) -> None:
    """VT-d's posts leave no event; those into windows are counted one by one."""
    for seed in SEEDS:
        case = made(scenario("userspace", seed=seed), tmp_path / "made.trace.dat")
        said = summarize(case.analysis("none"), Selection()).policies["preempt-only"]
        true = true_counts(case, "preempt-only/none")["unloaded_notifications"]
        bounds = said.unloaded_notifications
        assert bounds.min <= true <= bounds.max <= bounds.min + 2
        assert true > 100


def test_halts_and_gaps_can_be_asked_for() -> None:
    assert read_scenario("gaps").gaps != Gaps()
    assert read_scenario("halts").vm[0].halt != Halt()
