"""How many notifications posts at a rate would send: the closed form over the openings.

Posts by hardware arrive at each vCPU as a Poisson process of its own rate. An epoch
sends a notification where its first post falls into an opening, that is with

    P = sum over its openings of  exp(-rate * after) - exp(-rate * until)

(a known post is one at which the first one may still be to come: exp(-rate * after)).
Epochs are independent, and send one at the most, so that the expected number is the sum
of P, and its variance the sum of P * (1 - P). Where what the vCPU did is unknown each
post may have sent one: rate * length, for both.

Assumed besides the Poisson arrivals: the timeline would have been the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.replay.openings import Openings

__all__ = (
    "IN_HOST",
    "UNLOADED",
    "Chances",
    "Expected",
    "chances",
    "expected",
    "removed",
)

UNLOADED = (Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
IN_HOST = (Hit.HOST, Hit.UNLOADED_HOST, Hit.GUEST_EXIT)
"""Outcomes that the host takes as an IRQ: what PIN counts."""

Side = Literal["least", "most"]
"""Which end of what the trace leaves open."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected number of notifications, and the standard deviation of the number.

    least, most  as the trace allows, for what it leaves open
    sd           the greater of those of both ends
    """

    least: float
    most: float
    sd: float


@dataclass(frozen=True, slots=True)
class Chances:
    """How a number of notifications is distributed: a sum of independent ones.

    epoch   float64[m]  the chance of one, by epoch; its place is the epoch's number
    poisson the mean of those of which there may be any number
    """

    epoch: Floats
    poisson: float

    @property
    def mean(self) -> float:
        """The expected number."""
        return float(self.epoch.sum()) + self.poisson

    @property
    def variance(self) -> float:
        """Of the number."""
        return float((self.epoch * (1 - self.epoch)).sum()) + self.poisson


def expected(
    openings: Openings, rate_hz: Floats, hits: tuple[Hit, ...], where: Bools
) -> Expected:
    """What is expected of these outcomes at `rate_hz` float64[vCPUs], `where` bool[n].

    Of a vCPU with rate 0 the known posts remain.
    """
    return _between(
        *(chances(openings, rate_hz, hits, where, side) for side in ("least", "most"))
    )


def removed(
    before: tuple[Openings, Bools],
    after: tuple[Openings, Bools],
    rate_hz: Floats,
    hits: tuple[Hit, ...],
) -> Expected:
    """How many more the first policy sends than the second, for the same posts.

    Both with `where`. An epoch in which the second policy sends one is one in which the
    first does (pi_semantics, I16), so that the difference is again 0 or 1 an epoch.
    """
    found = []
    for side in ("least", "most"):
        one, two = (chances(o, rate_hz, hits, w, side) for o, w in (before, after))
        size = max(len(one.epoch), len(two.epoch))
        wide = [np.pad(c.epoch, (0, size - len(c.epoch))) for c in (one, two)]
        found.append(Chances(wide[0] - wide[1], one.poisson - two.poisson))
    ends = sorted(c.mean for c in found)
    variance = max(
        float((np.abs(c.epoch) - c.epoch**2).sum()) + abs(c.poisson) for c in found
    )
    return Expected(ends[0], ends[1], float(np.sqrt(max(variance, 0.0))))


def chances(
    openings: Openings,
    rate_hz: Floats,
    hits: tuple[Hit, ...],
    where: Bools,
    side: Side,
) -> Chances:
    """How many notifications with these outcomes there are, at one end."""
    most = side == "most"
    mask = (openings.maybe(*hits) if most else openings.surely(*hits)) & where
    at = np.flatnonzero(mask & ~openings.unknown)
    epoch = (openings.epoch_most if most else openings.epoch)[at]
    after_s = (openings.after_most_s if most else openings.after_s)[at]
    until_s = (openings.until_most_s if most else openings.until_s)[at]
    rate = rate_hz[openings.vcpu[at]]
    known = np.isinf(until_s)
    length_s = np.where(known, 0.0, until_s - after_s)
    within = np.where(known, 1.0, -np.expm1(-rate * length_s))
    chance = np.exp(-rate * after_s) * within
    by_epoch = np.asarray(np.bincount(epoch, chance), np.float64)
    poisson = 0.0
    if most:
        at = np.flatnonzero(mask & openings.unknown)
        length_s = openings.until_most_s[at] - openings.after_most_s[at]
        poisson = float((rate_hz[openings.vcpu[at]] * length_s).sum())
    return Chances(np.clip(by_epoch, 0.0, 1.0), poisson)


def _between(least: Chances, most: Chances) -> Expected:
    variance = max(least.variance, most.variance, 0.0)
    return Expected(least.mean, most.mean, float(np.sqrt(variance)))
