"""The likelihood of a count, and the rate that follows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from piscope.outcomes import Hit, hit_bits
from piscope.replay.estimate import estimate, log_likelihood, predict
from piscope.replay.openings import Openings
from piscope.replay.rates import Chances


def exact(p: list[float], poisson: float, counted: int) -> float:
    """The probability of a sum of independent events, by convolution."""
    pmf = np.array([1.0])
    for one in p:
        pmf = np.convolve(pmf, [1 - one, one])
    ks = np.arange(counted + 1)
    factorials = np.array([math.lgamma(k + 1) for k in ks])
    rest = np.exp(ks * math.log(poisson) - poisson - factorials) if poisson else ks == 0
    return float(np.convolve(pmf, rest.astype(float))[counted])


@pytest.mark.parametrize("poisson", [0.0, 2.5])
@pytest.mark.parametrize("counted", [0, 1, 5, 12, 19, 20])
def test_the_likelihood_is_that_of_the_exact_sum(counted: int, poisson: float) -> None:
    p = [0.05 * (i + 1) - 0.01 for i in range(20)]
    found = log_likelihood(Chances(np.array(p), poisson), counted)
    wanted = math.log(exact(p, poisson, counted))
    assert found == pytest.approx(wanted, abs=0.08)


def test_certain_events_are_counted() -> None:
    p = np.array([1.0, 1.0, 0.5])
    assert log_likelihood(Chances(p, 0.0), 1) == -np.inf
    assert log_likelihood(Chances(p, 0.0), 4) == -np.inf
    assert log_likelihood(Chances(p, 0.0), 3) == pytest.approx(math.log(0.5))


def windows(n: int, length_s: float, settled: bool = True) -> Openings:
    """n windows of one length, each an epoch."""
    zeros, lengths = np.zeros(n), np.full(n, length_s)
    return Openings(
        vcpu=np.zeros(n, np.int32),
        cpu=np.zeros(n, np.int32),
        ts_ns=np.arange(n, dtype=np.int64),
        possible=np.full(n, hit_bits(Hit.UNLOADED_HOST)),
        settled=np.full(n, settled),
        unknown=np.zeros(n, np.bool_),
        window=np.arange(n),
        epoch=np.arange(n),
        after_s=zeros,
        until_s=lengths,
        epoch_most=np.arange(n),
        after_most_s=zeros,
        until_most_s=lengths,
        vcpus=1,
    )


UNLOADED = (Hit.UNLOADED_HOST,)


def test_the_likeliest_rate_is_the_one_that_gives_the_count() -> None:
    # 1 - exp(-rate * 1 ms) = 30/100
    found = estimate(windows(100, 1e-3), UNLOADED, np.ones(100, np.bool_), 30)
    wanted = -math.log(0.7) / 1e-3
    assert found.rate_hz == pytest.approx((wanted, wanted), rel=0.01)
    assert found.low_hz < wanted < found.high_hz
    # the interval of a proportion, 99%: 0.196 to 0.425 (likelihood ratio)
    assert 1 - math.exp(-found.low_hz * 1e-3) == pytest.approx(0.196, abs=0.01)
    assert 1 - math.exp(-found.high_hz * 1e-3) == pytest.approx(0.425, abs=0.01)


def test_every_window_hit_sets_no_upper_end() -> None:
    found = estimate(windows(50, 1e-3), UNLOADED, np.ones(50, np.bool_), 50)
    assert found.high_hz == found.rate_hz[1] == math.inf
    low_hz = -math.log(1 - math.exp(-3.3174 / 50)) * 1e3
    assert found.low_hz == pytest.approx(low_hz, rel=0.01)


def test_none_hit_sets_no_lower_end() -> None:
    found = estimate(windows(50, 1e-3), UNLOADED, np.ones(50, np.bool_), 0)
    assert (found.rate_hz, found.low_hz) == ((0, 0), 0)
    assert found.high_hz == pytest.approx(3.3174 / 50e-3, rel=0.01)


def test_more_than_there_are_windows_is_no_rate() -> None:
    found = estimate(windows(50, 1e-3), UNLOADED, np.ones(50, np.bool_), 51)
    assert not found.possible


def test_what_may_come_to_nothing_counts_at_one_end() -> None:
    found = estimate(
        windows(50, 1e-3, settled=False), UNLOADED, np.ones(50, np.bool_), 10
    )
    assert found.possible
    assert found.high_hz == found.rate_hz[1] == math.inf
    assert found.rate_hz[0] == pytest.approx(-math.log(0.8) * 1e3, rel=0.01)


def test_a_prediction_holds_both_uncertainties() -> None:
    everywhere = np.ones(100, np.bool_)
    rate = estimate(windows(100, 1e-3), UNLOADED, everywhere, 30)
    other = predict(windows(100, 2e-3), UNLOADED, everywhere, rate)
    wanted = 100 * (1 - 0.7**2)
    assert other.least == pytest.approx(wanted, rel=0.01)
    low, high = (100 * (1 - math.exp(-hz * 2e-3)) for hz in (rate.low_hz, rate.high_hz))
    assert other.low < low < wanted < high < other.high


@pytest.mark.parametrize("rate_hz", [20.0, 200.0, 2000.0])
def test_known_rates_lie_in_their_intervals(rate_hz: float) -> None:
    rng = np.random.default_rng(7)
    openings, everywhere = windows(200, 1e-3), np.ones(200, np.bool_)
    held = 0
    for _ in range(30):
        counted = rng.binomial(200, 1 - math.exp(-rate_hz * 1e-3))
        found = estimate(openings, UNLOADED, everywhere, int(counted))
        held += found.low_hz <= rate_hz <= found.high_hz
    assert held >= 28  # 99% of 30, and some
