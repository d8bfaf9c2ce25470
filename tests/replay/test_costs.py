"""What a policy's own code costs, counted on drawn timelines."""

from __future__ import annotations

import pytest
from timeline.scene import HLT, Scene, lived

from piscope.model.policy import POLICIES
from piscope.outcomes import Costs
from piscope.replay.exposure import expose
from piscope.replay.findings import find, replay
from piscope.replay.pcpus import occupancy
from piscope.replay.stimuli import build_stimuli


def costs(scene: Scene, policy: str) -> Costs:
    events, t = scene.events(), scene.timeline()
    stimuli = build_stimuli(t, events, "msi")
    places = occupancy(events, t.vcpus, t.intervals, t.acts)
    walked = replay(t, stimuli, POLICIES[policy])
    found = find(t, stimuli, walked, places)
    return expose(t, stimuli, walked, found, places, False)[2]


def entered(times: int, posts: int = 0) -> Scene:
    """A vCPU whose state is known, entering `times` more; the last ones have a post."""
    scene = Scene()
    a = scene.vcpu(0, cpu=0)
    lived(a)
    a.run()
    for i in range(times):
        a.enter()
        a.exit()
        if i >= times - posts:
            scene.msi(0x51, cpu=7)
            scene.accept(0, 0x51, cpu=7)
    a.enter()
    scene.tick(cpu=5)
    return scene


def more(policy: str, column: str, one: Scene, other: Scene) -> list[int]:
    a, b = (getattr(costs(s, policy), column) for s in (one, other))
    least, most = (b - a)[0].tolist()
    return [least, most]


def test_suppressing_at_the_exit_scans_at_each_entry() -> None:
    assert more("suppress-at-exit", "pir_scans", entered(2), entered(5)) == [3, 3]
    assert more("suppress-at-exit", "empty_scans", entered(2), entered(5)) == [3, 3]


def test_a_scan_that_finds_something_is_not_in_vain() -> None:
    quiet, busy = entered(5), entered(5, posts=2)
    assert more("suppress-at-exit", "pir_scans", quiet, busy) == [0, 0]
    assert more("suppress-at-exit", "empty_scans", quiet, busy) == [-2, -2]


@pytest.mark.parametrize("policy", ["preempt-only", "suppress-on-put", "more-fastpath"])
@pytest.mark.parametrize("column", ["pir_scans", "locked_ops", "list_locks"])
def test_entries_cost_the_others_nothing(policy: str, column: str) -> None:
    assert more(policy, column, entered(2), entered(5)) == [0, 0]


def test_a_legacy_halt_takes_the_list_lock_though_it_only_polls() -> None:
    def halted(times: int) -> Scene:
        scene = Scene()
        a = scene.vcpu(0, cpu=0)
        lived(a)
        a.run()
        for _ in range(times):
            a.enter()
            a.exit(HLT)
            a.wakeup()
        a.enter()
        scene.tick(cpu=5)
        return scene

    # on the list, and off it again
    assert more("legacy-5.15", "list_locks", halted(1), halted(4)) == [6, 6]
    assert more("preempt-only", "list_locks", halted(1), halted(4)) == [0, 0]
