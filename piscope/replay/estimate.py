"""The rate of unseen posts, estimated from the IRQs that a kernel counted.

How many notifications there are at a rate is a sum of independent epochs (`rates`), so
that a counted number has a likelihood at each rate. The estimate is the rate with the
greatest, the interval all rates that a likelihood-ratio test does not reject at 1%.
Both are taken at both ends of what the trace leaves open, and the wider one is given.

    likelihood          ___
                   ___/     \\____
                 _/   ^          \\______       99%: from low_hz to high_hz;
    rate     ---|-----|----------------|---   no high_hz: any greater rate as well

Beyond some rate each window has its post, and more of them make no difference: the
interval then has no upper end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.replay.openings import Openings
from piscope.replay.rates import Chances, Side, chances

__all__ = ("Estimate", "Prediction", "estimate", "log_likelihood", "predict")

# 99%, not the customary 95: that posts are a Poisson process is an assumption, and real
# senders are more regular than that, or stop together with their target.
# Half of that quantile of chi-square with one degree of freedom:
_HALF_CHI2 = 3.3174
# and the standard deviations to either side that hold as much of a normal distribution.
_SDS = 2.5758
_LEAST_HZ, _MOST_HZ = 1e-2, 1e7
_STEPS = 10  # a factor of 10
# Above this variance a normal distribution is as good as the saddlepoint.
_NORMAL = 400.0
# So many standard deviations off, all that matters is that it is unlikely.
_FAR = 12.0

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The rate at which posts arrive at each vCPU, from what was counted.

    counted           IRQs
    rate_hz           (least, most) of the likeliest rate, at both ends of what the
                      trace leaves open; inf: any that is great enough
    low_hz, high_hz   99%; inf: no upper end
    possible          False: more were counted than the trace has openings for
    """

    counted: int
    rate_hz: tuple[float, float]
    low_hz: float
    high_hz: float
    possible: bool


@dataclass(frozen=True, slots=True)
class Prediction:
    """A number that was not counted, as an estimated rate predicts it.

    least, most  expected at the likeliest rate
    low, high    99%, from the rate's interval and the number's own spread
    """

    least: float
    most: float
    low: float
    high: float


def estimate(
    openings: Openings, hits: tuple[Hit, ...], where: Bools, counted: int
) -> Estimate:
    """The rate from the number of notifications with these outcomes.

    `where` bool[n] are the openings whose notifications were counted. Openings that
    may come to nothing, in stretches that leave no event, count at the upper end only;
    IPIs by KVM that may have raced with a VM-exit, as many as explain most.
    """
    unsure = _by_kvm(openings, hits, where)
    where = where & ~unsure
    settled = where & openings.settled
    ends = [
        _fit(_at_rate(openings, hits, mask, side), number)
        for mask, side, number in (
            (where, _MOST, max(counted - int(unsure.sum()), 0)),
            (settled, _LEAST, counted),
        )
    ]
    found = [end for end in ends if end is not None]
    if not found:
        return Estimate(counted, (0.0, 0.0), 0.0, np.inf, possible=False)
    # with more openings a smaller rate explains as much
    low = min(end[1] for end in found)
    high = max(end[2] for end in found) if len(found) == len(ends) else np.inf
    likeliest = [end[0] for end in found]
    most = max(likeliest) if len(found) == len(ends) else np.inf
    return Estimate(counted, (min(likeliest), most), low, high, possible=True)


def predict(
    openings: Openings, hits: tuple[Hit, ...], where: Bools, rate: Estimate
) -> Prediction:
    """How many notifications with these outcomes another policy's openings give."""
    unsure = _by_kvm(openings, hits, where)
    where = where & ~unsure
    settled = where & openings.settled
    ends = []
    for mask, side in ((settled, _LEAST), (where, _MOST)):
        at = _at_rate(openings, hits, mask, side)
        likeliest = [at(hz).mean for hz in _between(*rate.rate_hz)]
        means, sds = [], []
        for hz in _between(rate.low_hz, rate.high_hz):
            found = at(hz)
            means.append(found.mean)
            sds.append(_SDS * np.sqrt(max(found.variance, 0.0)))
        ends.append((np.array(likeliest), np.array(means), np.array(sds)))
    return Prediction(
        least=float(ends[0][0].min()),
        most=float(ends[1][0].max()),
        low=max(float((ends[0][1] - ends[0][2]).min()), 0.0),
        high=float((ends[1][1] + ends[1][2]).max()) + int(unsure.sum()),
    )


def _by_kvm(openings: Openings, hits: tuple[Hit, ...], where: Bools) -> Bools:
    """KVM's own posts that may have notified the host."""
    return where & openings.maybe(Hit.SOFTWARE) & openings.maybe(*hits)


_LEAST: Side = "least"
_MOST: Side = "most"


def _at_rate(
    openings: Openings, hits: tuple[Hit, ...], where: Bools, side: Side
) -> Callable[[float], Chances]:
    def at(rate_hz: float) -> Chances:
        rates = np.full(openings.vcpus, rate_hz)
        return chances(openings, rates, hits, where, side)

    return at


def _between(low_hz: float, high_hz: float) -> list[float]:
    """Rates from one to the other: both, and those of the grid in between."""
    low, high = (min(hz, _MOST_HZ) for hz in (low_hz, high_hz))
    inside = [hz for hz in _grid() if low < hz < high]
    return sorted({low, *inside, high})


def _grid() -> list[float]:
    decades = int(np.log10(_MOST_HZ / _LEAST_HZ))
    steps = decades * _STEPS + 1
    grid: list[float] = np.geomspace(_LEAST_HZ, _MOST_HZ, steps).tolist()
    return grid


def _fit(
    at: Callable[[float], Chances], counted: int
) -> tuple[float, float, float] | None:
    """(likeliest rate, low, high); None: no rate can give that number."""

    def likelihood(rate_hz: float) -> float:
        return log_likelihood(at(rate_hz), counted)

    rates = [0.0, *_grid()]
    found = np.array([likelihood(hz) for hz in rates])
    if not np.isfinite(found.max()):
        return None
    best = int(np.argmax(found))
    rate, top = rates[best], float(found[best])
    if 0 < best < len(rates) - 1:
        rate = _peak(likelihood, rates[best - 1], rates[best + 1])
        top = max(top, likelihood(rate))
    accepted = np.flatnonzero(found >= top - _HALF_CHI2)
    first, last = (
        (int(accepted[0]), int(accepted[-1])) if len(accepted) else (best,) * 2
    )
    first, last = min(first, best), max(last, best)
    bar = top - _HALF_CHI2
    low, high = rates[first], rates[last]
    if first > 0:
        low = _crossing(likelihood, rates[first - 1], min(low, rate), bar)
    if last < len(rates) - 1:
        high = _crossing(likelihood, rates[last + 1], max(high, rate), bar)
    else:
        high = np.inf
        # as likely at the end as anywhere: any that is great enough
        rate = np.inf if found[-1] >= top - _FLAT else rate
    return rate, low, high


_FLAT = 1e-6
_EXACT = 1e-9
_ROUNDS = 40
_CLOSE = 1e-3


def _peak(likelihood: Callable[[float], float], low: float, high: float) -> float:
    """Where the likelihood is greatest between two rates: golden section."""
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(_ROUNDS):
        if high - low <= _CLOSE * high:
            break
        one, two = high - ratio * (high - low), low + ratio * (high - low)
        if likelihood(one) < likelihood(two):
            low = one
        else:
            high = two
    return (low + high) / 2


def _crossing(
    likelihood: Callable[[float], float], outside: float, inside: float, bar: float
) -> float:
    """The rate at which the likelihood falls below the bar: bisection, from outside."""
    for _ in range(_ROUNDS):
        if abs(outside - inside) <= _CLOSE * max(outside, inside):
            break
        middle = (outside + inside) / 2
        if likelihood(middle) >= bar:
            inside = middle
        else:
            outside = middle
    return outside


def log_likelihood(number: Chances, counted: int) -> float:
    """The logarithm of the probability of exactly that many.

    By the saddlepoint approximation for a sum of independent events (Daniels 1954),
    exact at both ends; by a normal distribution where the variance is great.
    """
    p = number.epoch[number.epoch > 0]
    sure = p >= 1
    rest, left = p[~sure], counted - int(sure.sum())
    poisson = number.poisson
    if left < 0 or (poisson <= 0 and left > len(rest)):
        return -np.inf
    if left == 0:
        return float(np.log1p(-rest).sum()) - poisson
    if poisson <= 0 and left == len(rest):
        return float(np.log(rest).sum())
    mean, variance = rest.sum() + poisson, (rest * (1 - rest)).sum() + poisson
    far = (left - mean) ** 2 > _FAR**2 * variance
    if far or variance > _NORMAL:
        variance = max(variance, 1e-12)
        return float(-((left - mean) ** 2) / (2 * variance) - _spread(variance))
    tilt = _tilt(rest, poisson, left)
    odds = rest * np.exp(tilt)
    shifted = odds / (1 - rest + odds)
    cumulant = np.log1p(rest * np.expm1(tilt)).sum() + poisson * np.expm1(tilt)
    curvature = (shifted * (1 - shifted)).sum() + poisson * np.exp(tilt)
    return float(cumulant - tilt * left - _spread(max(curvature, 1e-12)))


def _spread(variance: float) -> float:
    return float(0.5 * np.log(2 * np.pi * variance))


def _tilt(p: Floats, poisson: float, wanted: int) -> float:
    """The t at which the tilted mean is `wanted`, with which it rises: by Newton."""
    low, high = -60.0, 60.0
    t = float(np.clip(np.log(wanted / (p.sum() + poisson)), -30, 30))
    for _ in range(_ROUNDS):
        odds = p * np.exp(t)
        tilted = odds / (1 - p + odds)
        rest = poisson * np.exp(t)
        over = float(tilted.sum() + rest) - wanted
        if abs(over) <= _EXACT * wanted:
            break
        low, high = (t, high) if over < 0 else (low, t)
        slope = float((tilted * (1 - tilted)).sum() + rest)
        t = t - over / slope if slope > 0 else high
        if not low < t < high:
            t = (low + high) / 2
    return t
