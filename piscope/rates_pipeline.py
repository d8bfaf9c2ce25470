"""From an analysis to what posts at a rate come to, and what counters say of the rate.

analysis -> openings (by policy) -> expected numbers          --rate, --rate-curve
snapshots of /proc/interrupts ---> beside the replay, and back to a rate
                                                              --interrupts, markers
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.model.policy import POLICIES, Platform
from piscope.outcomes import Hit
from piscope.pipeline import Analysis
from piscope.replay.arrivals import Arrivals
from piscope.replay.exposure import expose
from piscope.replay.findings import Replayed, find, replay
from piscope.replay.met import what_posts_met
from piscope.replay.open_pieces import open_pieces
from piscope.replay.openings import Openings, bare
from piscope.replay.rates import IN_HOST, UNLOADED, Expected, expected, removed
from piscope.replay.stimuli import Stimuli
from piscope.report.rates_report import (
    CurveLine,
    Expectation,
    RateCurve,
    RatePolicy,
    Rates,
)
from piscope.report.selection import Selection
from piscope.tables import Vcpus

__all__ = ("RateRequest", "arrivals_at", "openings_of", "rates_of", "walked_again")

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_QUANTITIES: dict[str, tuple[Hit, ...]] = {
    "host_irqs": IN_HOST,
    "unloaded_notifications": UNLOADED,
    "residual_notifications": (Hit.HOST,),
    "wrong_vcpu": (Hit.WRONG_VCPU,),
}


@dataclass(frozen=True, slots=True)
class RateRequest:
    """What is asked of posts at a rate.

    rates_hz  by name: a label, a vcpu_id, `tid:N`, `vmN` (each vCPU of that VM), or a
              part of a device's name (its posts are spread as those in the trace);
              "" is every vCPU that is selected. None: not asked for
    curve_hz  the rates of a curve; empty: not asked for
    senders   vCPUs whose IPIs the posts are; empty: posts of devices
    """

    rates_hz: dict[str, float] | None = None
    curve_hz: tuple[float, ...] = ()
    senders: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether anything at all is asked for."""
        return self.rates_hz is not None or bool(self.curve_hz)


def arrivals_at(analysis: Analysis, senders: Sequence[str]) -> Arrivals:
    """When posts may arrive: those of devices, or the IPIs of these vCPUs.

    Raises UsageError for a vCPU that the trace does not hold.
    """
    if not senders:
        return Arrivals.of_devices(analysis.timeline, analysis.events)
    try:
        mask = Selection(vcpus=tuple(senders)).of_vcpus(analysis.timeline.vcpus)
    except UsageError as error:
        said = error.message.replace("--vcpu", "--sender", 1)
        raise UsageError(said) from None
    return Arrivals.of_ipis(analysis.timeline, analysis.events, mask)


def openings_of(
    analysis: Analysis,
    stimuli: Stimuli,
    policies: Iterable[str],
    arrivals: Arrivals,
    platform: Platform | None = None,
) -> dict[str, Openings]:
    """The openings of each policy for these stimuli, without hidden posts."""
    timeline, places = analysis.timeline, analysis.occupancy
    alone = bare(stimuli, analysis.events)
    met = what_posts_met(timeline, alone, places)
    openings = {}
    for name in policies:
        walked = walked_again(analysis, alone, name, platform)
        findings = find(timeline, alone, walked, places, met)
        exposure, _, _ = expose(
            timeline, alone, walked, findings, places, True, met.windows
        )
        openings[name] = open_pieces(
            timeline,
            alone,
            walked,
            exposure,
            places,
            walked.automaton.table.platform,
            arrivals,
        )
    return openings


def walked_again(
    analysis: Analysis, stimuli: Stimuli, policy: str, platform: Platform | None = None
) -> Replayed:
    """Other stimuli under a policy, as the analysis replayed its own."""
    some = next(iter(analysis.walks.values()))
    if platform is None:
        platform = some.automaton.table.platform
    asked = analysis.walks.get(policy)
    fastpath = asked.fastpath if asked is not None else frozenset()
    return replay(analysis.timeline, stimuli, POLICIES[policy], platform, fastpath)


def rates_of(
    analysis: Analysis, request: RateRequest, selection: Selection
) -> Rates | None:
    """The expected numbers; None: nothing was asked for.

    Raises UsageError for a vCPU, VM or device that the trace does not hold.
    """
    if not request.asks or not analysis.walks:
        return None
    timeline = analysis.timeline
    chosen = selection.of_vcpus(timeline.vcpus)
    arrivals = arrivals_at(analysis, request.senders)
    rate_hz = _rates_by_vcpu(analysis, request, chosen)
    openings = openings_of(analysis, analysis.stimuli, analysis.walks, arrivals)
    masks = {
        name: chosen[o.vcpu] & selection.of_cpus(o.cpu) for name, o in openings.items()
    }
    vcpus = np.arange(len(timeline.vcpus))
    end_ns = np.full(len(vcpus), timeline.span_ns[1])
    seconds = arrivals.clock_ns(vcpus, end_ns) / 1e9
    by_label = posts = None
    policies: dict[str, RatePolicy] = {}
    gone = None
    if rate_hz is not None:
        rows = timeline.vcpus.rows
        by_label = {v.label: float(rate_hz[v.vcpu]) for v in rows if chosen[v.vcpu]}
        posts = float((rate_hz * seconds)[chosen].sum())
        policies = {
            name: RatePolicy(
                **{
                    key: _as_value(expected(o, rate_hz, hits, masks[name]))
                    for key, hits in _QUANTITIES.items()
                }
            )
            for name, o in openings.items()
        }
        if len(openings) == 2:
            gone = RatePolicy(
                **{
                    key: _removed(openings, masks, rate_hz, hits)
                    for key, hits in _QUANTITIES.items()
                }
            )
    return Rates(
        senders=list(request.senders),
        rate_hz=by_label,
        posts=posts,
        policies=policies,
        removed=gone,
        curve=_curve(openings, masks, request.curve_hz, chosen),
    )


def _removed(
    openings: dict[str, Openings],
    masks: dict[str, Bools],
    rate_hz: Floats,
    hits: tuple[Hit, ...],
) -> Expectation:
    first, second = ((openings[name], masks[name]) for name in openings)
    return _as_value(removed(first, second, rate_hz, hits))


def _curve(
    openings: dict[str, Openings],
    masks: dict[str, Bools],
    rates_hz: Sequence[float],
    chosen: Bools,
) -> RateCurve | None:
    if not rates_hz:
        return None
    curve = RateCurve(
        rates_hz=list(rates_hz),
        host_irqs={name: CurveLine() for name in openings},
        wrong_vcpu={name: CurveLine() for name in openings},
        removed=CurveLine() if len(openings) == 2 else None,
    )
    for hz in rates_hz:
        rate_hz = np.where(chosen, hz, 0.0)
        for lines, key in (
            (curve.host_irqs, "host_irqs"),
            (curve.wrong_vcpu, "wrong_vcpu"),
        ):
            for name, o in openings.items():
                found = expected(o, rate_hz, _QUANTITIES[key], masks[name])
                lines[name].add(_as_value(found))
        if curve.removed is not None:
            curve.removed.add(_removed(openings, masks, rate_hz, IN_HOST))
    return curve


def _as_value(found: Expected) -> Expectation:
    return Expectation(
        min=_rounded(found.least), max=_rounded(found.most), sd=_rounded(found.sd)
    )


def _rounded(value: float) -> float:
    """Six digits are more than the model is worth, and the same on every machine."""
    return float(f"{value:.6g}") + 0.0


def _rates_by_vcpu(
    analysis: Analysis, request: RateRequest, chosen: Bools
) -> Floats | None:
    if request.rates_hz is None:
        return None
    vcpus = analysis.timeline.vcpus
    rates = np.zeros(len(vcpus))
    for name, hz in request.rates_hz.items():
        rates += hz * _shares(analysis, vcpus, name, chosen)
    return np.where(chosen, rates, 0.0)


def _shares(analysis: Analysis, vcpus: Vcpus, name: str, chosen: Bools) -> Floats:
    """How much of a name's rate each vCPU has: 1 for those that it names."""
    if not name:
        return chosen.astype(np.float64)
    named = np.array(
        [
            name in (v.label, str(v.vcpu_id), f"tid:{v.tid}", f"vm{v.vm}")
            for v in vcpus.rows
        ]
    )
    if named.any():
        return named.astype(np.float64)
    posts = analysis.timeline.posts
    devices = [i for i, device in enumerate(posts.devices) if name in device]
    mine = np.isin(posts.device, devices) & (posts.vcpu >= 0)
    if not mine.any():
        labels = ", ".join(v.label for v in vcpus.rows[:8])
        known = ", ".join(dict.fromkeys(posts.devices[:8]))
        raise UsageError(
            f"--rate {name[:60]!r}: this trace has {labels}"
            + (f"; devices {known}" if known else "; no device's interrupts")
        )
    count = np.bincount(posts.vcpu[mine], minlength=len(vcpus))
    return np.asarray(count / count.sum(), np.float64)
