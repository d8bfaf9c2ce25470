"""Posts at a rate: worked by hand, and beside random posts that the replay takes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from timeline.scene import SLEEPS, Scene, lived

from benchmarks.rates import (
    QUANTITIES,
    analyzed,
    capture,
    closed_form,
    crossed,
    random_posts,
    recovered,
    round_trips,
    simulated,
)
from piscope.model.policy import POLICIES
from piscope.outcomes import Hit
from piscope.rates_pipeline import arrivals_at
from piscope.replay.arrivals import Arrivals
from piscope.replay.exposure import expose
from piscope.replay.findings import find, replay
from piscope.replay.open_pieces import open_pieces
from piscope.replay.openings import Openings, bare
from piscope.replay.pcpus import occupancy
from piscope.replay.rates import IN_HOST, UNLOADED, chances, expected, removed
from piscope.replay.stimuli import build_stimuli

OLD, NEW = "preempt-only", "suppress-on-put"


def openings(scene: Scene, policy: str, senders: tuple[int, ...] = ()) -> Openings:
    events, t = scene.events(), scene.timeline()
    stimuli = bare(build_stimuli(t, events, "none"), events)
    places = occupancy(events, t.vcpus, t.intervals, t.acts)
    walked = replay(t, stimuli, POLICIES[policy])
    found = find(t, stimuli, walked, places)
    exposure, _, _ = expose(t, stimuli, walked, found, places, True)
    arrivals = Arrivals.of_devices(t, events)
    if senders:
        mask = np.isin([v.vcpu_id for v in t.vcpus.rows], senders)
        arrivals = Arrivals.of_ipis(t, events, mask)
    return open_pieces(t, stimuli, walked, exposure, places, arrivals=arrivals)


def number(found: Openings, rate_hz: float, *hits: Hit) -> tuple[float, float, float]:
    everywhere = np.ones(len(found), np.bool_)
    value = expected(found, np.full(found.vcpus, rate_hz), hits, everywhere)
    return value.least, value.most, value.sd


@pytest.fixture
def visit() -> Scene:
    """One visit to userspace: exit at 5, put at 6 us (kvm_fpu), load at 8 us."""
    scene = Scene()
    a = scene.vcpu(0)
    a.run()
    a.enter()
    a.exit()
    a.enter()
    a.exit()
    a.leave()
    a.run()
    a.enter()
    return scene


def test_a_window_by_hand(visit: Scene) -> None:
    # in the host 5 to 6 us, in userspace 6 to 8 us, in the host 8 to 9 us; before that
    # 3 to 4 us in an epoch of its own, and posts begin at the first entry, 2 us
    rate_hz = 2e5  # 0.2 a microsecond
    host = 1 - math.exp(-0.2)
    window = math.exp(-0.2) * (1 - math.exp(-0.4))
    after = math.exp(-0.6) * (1 - math.exp(-0.2))
    old = openings(visit, OLD)
    assert number(old, rate_hz, *UNLOADED)[0] == pytest.approx(window)
    assert number(old, rate_hz, Hit.HOST)[0] == pytest.approx(2 * host + after)
    # the same stretches, but the window sends nothing, and silences what follows
    new = openings(visit, NEW)
    assert number(new, rate_hz, *UNLOADED) == (0, 0, 0)
    assert number(new, rate_hz, Hit.HOST)[0] == pytest.approx(2 * host + after)
    # two epochs: their variances add
    p = host + window + after
    sd = math.sqrt(host * (1 - host) + p * (1 - p))
    assert number(old, rate_hz, *IN_HOST)[2] == pytest.approx(sd)


def test_no_rate_sends_nothing_and_a_great_one_an_irq_an_epoch(visit: Scene) -> None:
    old = openings(visit, OLD)
    assert number(old, 0.0, *IN_HOST) == (0, 0, 0)
    least, most, sd = number(old, 1e12, *IN_HOST)
    assert (least, most, sd) == pytest.approx((2, 2, 0))


def test_removed_is_the_difference_under_the_same_posts(visit: Scene) -> None:
    old, new = openings(visit, OLD), openings(visit, NEW)
    masks = [np.ones(len(o), np.bool_) for o in (old, new)]
    rates = np.full(1, 2e5)
    gone = removed((old, masks[0]), (new, masks[1]), rates, IN_HOST)
    window = math.exp(-0.2) * (1 - math.exp(-0.4))
    assert gone.least == pytest.approx(window)
    assert gone.sd == pytest.approx(math.sqrt(window * (1 - window)))


def test_a_post_by_kvm_closes_the_window(visit: Scene) -> None:
    scene = Scene()
    a = scene.vcpu(0)
    a.run()
    a.enter()
    a.exit()
    scene.accept(0, 0x41)  # ON is set from here on, until the entry
    a.leave()
    a.run()
    a.enter()
    old = openings(scene, OLD)
    assert number(old, 1e5, *UNLOADED)[:2] == (0, 0)
    assert 0 < number(old, 1e5, Hit.HOST)[0] < 0.1  # 1 us in the host before it


def test_another_guest_takes_its_share() -> None:
    scene = Scene()
    a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=0)
    lived(a, b)
    a.run()
    a.enter()
    a.exit()
    a.leave()
    left = scene.now_ns - 1000  # kvm_fpu load=0
    a.out(SLEEPS, to=b.tid)
    b.run()
    entered = b.enter()
    scene.now_ns += 20_000
    exited = b.exit()
    b.leave()
    b.out(SLEEPS, to=a.tid)
    a.run()
    a.enter()
    old = openings(scene, OLD)
    only_a = old.vcpu == 0
    rates = np.array([1e5, 0.0])
    epochs = chances(old, rates, (Hit.WRONG_VCPU,), only_a, "least").epoch
    # what counts is where the first post falls: not in the microsecond from the exit
    # to the put, and not before b is in guest mode
    share = math.exp(-0.1 * (entered - left) / 1000) - math.exp(
        -0.1 * (exited - left) / 1000
    )
    assert epochs[epochs > 0][-1] == pytest.approx(math.exp(-0.1) * share)


def test_posts_come_only_while_their_sender_runs() -> None:
    scene = Scene()
    a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=1)
    lived(a)
    b.run()
    b.enter()
    a.run()
    a.enter()
    a.exit()
    a.leave()
    b.exit()  # from here on nobody sends
    scene.now_ns += 50_000
    a.run()
    a.enter()
    scene.tick()
    by_ipi = openings(scene, OLD, senders=(1,))
    mine = by_ipi.vcpu == 0
    rates = np.full(2, 1e6)
    found = expected(by_ipi, rates, UNLOADED, mine)
    # the first window has b in guest mode for 1 us; the second, behind 1 us in the
    # host, for 2 us
    first, second = (1 - math.exp(-1)), math.exp(-1) * (1 - math.exp(-2))
    assert found.least == pytest.approx(first + second)


def test_what_is_unknown_may_hold_any_number(visit: Scene) -> None:
    visit.lose(0, 4500, 7500)
    old = openings(visit, OLD)
    assert old.unknown.any()
    least, most, _ = number(old, 1e9, *IN_HOST)
    assert most > 1000 > least


@pytest.mark.parametrize(
    ("name", "rate_hz"),
    [
        ("vmx-6.12.117-ipiv-us.m_userspace_msi", 2000.0),
        ("vmx-6.17.13-ipiv.f_2vm", 1000.0),
        ("vmx-6.12.117-ipiv.g_lost", 1000.0),
    ],
)
@pytest.mark.parametrize("posted", ["none", "msi"])
def test_the_closed_form_is_what_the_replay_makes_of_random_posts(
    samples: Path, name: str, rate_hz: float, posted: str
) -> None:
    analysis = analyzed(samples / f"{name}.trace.dat", posted)
    arrivals = arrivals_at(analysis, ())
    told = closed_form(analysis, rate_hz, arrivals)
    runs = [simulated(analysis, rate_hz, arrivals, seed) for seed in range(5)]
    for key, value in told.items():
        least, most = (np.mean([run[key][i] for run in runs]) for i in (0, 1))
        # five standard errors: seeded, and a bias would show at once
        slack = 5 * max(value.sd, 0.5) / math.sqrt(len(runs))
        assert abs(least - value.least) < slack, (key, least, value)
        assert most < value.most + slack, (key, most, value)


def test_the_closed_form_of_ipis(samples: Path) -> None:
    path = samples / "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat"
    analysis = analyzed(path)
    arrivals = arrivals_at(analysis, ("1",))
    told = closed_form(analysis, 3000.0, arrivals)
    runs = [simulated(analysis, 3000.0, arrivals, seed) for seed in range(5)]
    for key, value in told.items():
        least = np.mean([run[key][0] for run in runs])
        slack = 5 * max(value.sd, 0.5) / math.sqrt(len(runs))
        assert abs(least - value.least) < slack, (key, least, value)


def test_random_posts_keep_to_their_senders(samples: Path) -> None:
    path = samples / "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat"
    analysis = analyzed(path)
    arrivals = arrivals_at(analysis, ("1",))
    given = random_posts(analysis, 1000.0, arrivals, np.random.default_rng(1))
    assert len(given) > 100
    assert (given.target == 0).all()  # vCPU 1 is the only sender


@pytest.mark.parametrize("policy", [OLD, NEW])
def test_the_estimator_recovers_a_rate(samples: Path, policy: str) -> None:
    analysis = analyzed(samples / "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat")
    found = [recovered(analysis, policy, 400.0, seed) for seed in range(10)]
    assert sum(inside for _, inside in found) >= 9
    assert 0.7 < np.median([ratio for ratio, _ in found]) < 1.4


@pytest.mark.parametrize("kernel", ["6.12.117", "6.17.13"])
@pytest.mark.parametrize(
    "session",
    ["k_userspace_ipi", "l_wrong_vcpu", "n_userspace_slow", "o_wrong_vcpu_slow"],
)
def test_one_kernels_pin_tells_the_others(session: str, kernel: str) -> None:
    found = crossed(session, kernel)
    assert found.holds, found
    low, high = found.interval
    most = round_trips(capture(kernel, "ipiv-us", session))
    assert high - low < 0.75 * most, "an interval that says nothing"


def test_given_posts_at_rate_zero_are_what_the_replay_counts(samples: Path) -> None:
    analysis = analyzed(
        samples / "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat", "msi"
    )
    told = closed_form(analysis, 0.0, arrivals_at(analysis, ()))
    for policy, result in analysis.results.items():
        f = result.findings
        known = replace(analysis, posted="msi").stimuli.post[f.stimulus] >= 0
        for name, hits in QUANTITIES.items():
            counted = int((f.surely(*hits) & known).sum())
            assert told[policy, name].least == pytest.approx(counted)
