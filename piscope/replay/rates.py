"""How many notifications posts at a rate would send: the closed form over the openings.

Posts by hardware arrive at each vCPU as a Poisson process of its own rate. An epoch
sends a notification where its first post falls into an opening, that is with

    P = sum over its openings of  exp(-rate * after) - exp(-rate * until)

(a known post is one at which the first one may still be to come: exp(-rate * after)).
Epochs are independent, and send one at the most, so that the expected number is the sum
of P, and its variance the sum of P * (1 - P).

Assumed besides the Poisson arrivals: the timeline would have been the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.replay.openings import Openings

__all__ = ("IN_HOST", "UNLOADED", "Expected", "expected", "expected_by_cpu", "removed")

UNLOADED = (Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
IN_HOST = (Hit.HOST, Hit.UNLOADED_HOST, Hit.GUEST_EXIT)
"""Outcomes that the host takes as an IRQ: what PIN counts."""

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


def expected(
    openings: Openings, rate_hz: Floats, hits: tuple[Hit, ...], where: Bools
) -> Expected:
    """What is expected of these outcomes at `rate_hz` float64[vCPUs], `where` bool[n].

    Of a vCPU with rate 0 the known posts remain.
    """
    least, most = (
        _by_epoch(openings, rate_hz, mask & where, most=is_most)
        for mask, is_most in (
            (openings.surely(*hits), False),
            (openings.maybe(*hits), True),
        )
    )
    return Expected(float(least.sum()), float(most.sum()), max(_sd(least), _sd(most)))


def removed(
    before: Openings,
    after: Openings,
    rate_hz: Floats,
    hits: tuple[Hit, ...],
    where: tuple[Bools, Bools],
) -> Expected:
    """How many more the first policy sends than the second, for the same posts.

    An epoch under which the second policy sends one is one under which the first does
    (invariant I16), so that the difference is again 0 or 1 an epoch.
    """
    one = expected(before, rate_hz, hits, where[0])
    two = expected(after, rate_hz, hits, where[1])
    sds = []
    for most in (False, True):
        p = [
            _by_epoch(
                o, rate_hz, (o.maybe if most else o.surely)(*hits) & mask, most=most
            )
            for o, mask in zip((before, after), where, strict=True)
        ]
        size = max(len(x) for x in p)
        wide = [np.pad(x, (0, size - len(x))) for x in p]
        sds.append(_sd(np.clip(wide[0] - wide[1], 0, 1)))
    ends = sorted((one.least - two.least, one.most - two.most))
    return Expected(ends[0], ends[1], max(sds))


def expected_by_cpu(
    openings: Openings, rate_hz: Floats, hits: tuple[Hit, ...], where: Bools, cpus: int
) -> tuple[Floats, Floats, Floats]:
    """By notified pCPU: least, most and variance, each float64[cpus]."""
    columns = []
    for mask, most in ((openings.surely(*hits), False), (openings.maybe(*hits), True)):
        kept = mask & where & (openings.cpu >= 0)
        at = np.flatnonzero(kept)
        p = _chance(openings, rate_hz, at, most=most)
        cpu = openings.cpu[at].astype(np.int64)
        columns.append(np.bincount(cpu, p, cpus)[:cpus])
    # the epochs of one pCPU: those of `most`
    epoch = openings.epoch_most[at]
    _, code = np.unique(epoch * np.int64(cpus) + cpu, return_inverse=True)
    total = np.bincount(code, p)
    of = np.zeros(len(total), np.int64)
    of[code] = cpu
    variance = np.bincount(of, total * (1 - total), cpus)[:cpus]
    return columns[0], columns[1], variance


def _chance(
    openings: Openings, rate_hz: Floats, at: npt.NDArray[np.int64], *, most: bool
) -> Floats:
    """How likely each opening is where the first post of its epoch falls."""
    after_s = (openings.after_most_s if most else openings.after_s)[at]
    until_s = (openings.until_most_s if most else openings.until_s)[at]
    rate = rate_hz[openings.vcpu[at]]
    known = np.isinf(until_s)
    length_s = np.where(known, 0.0, until_s - after_s)
    within = np.where(known, 1.0, -np.expm1(-rate * length_s))
    chance: Floats = np.exp(-rate * after_s) * within
    return chance


def _by_epoch(
    openings: Openings, rate_hz: Floats, which: Bools, *, most: bool
) -> Floats:
    """The chance of a notification by epoch (the letter that began it)."""
    at = np.flatnonzero(which)
    epoch = openings.epoch_most[at] if most else openings.epoch[at]
    chance: Floats = np.bincount(epoch, _chance(openings, rate_hz, at, most=most))
    return chance


def _sd(chance: Floats) -> float:
    return float(np.sqrt(np.maximum(chance * (1 - chance), 0).sum()))
