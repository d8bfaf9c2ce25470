"""What `--rate`, `--rate-curve` and `--interrupts` add to the summary, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = (
    "Counters",
    "CountersInterval",
    "CountersLine",
    "CurveLine",
    "Expectation",
    "PredictedCount",
    "RateCurve",
    "RateEstimate",
    "RatePolicy",
    "Rates",
)


@dataclass(slots=True)
class Expectation:
    """An expected number.

    min  at the end of what the trace proves
    max  at the end of what it can't exclude
    sd   standard deviation of the number itself, the greater of both ends
    """

    min: float
    max: float
    sd: float


@dataclass(slots=True)
class RatePolicy:
    """What is expected under one policy at the rates that were given.

    host_irqs               notifications 0xF2 that the host takes as IRQs, for nothing:
                            what PIN counts
    unloaded_notifications  sent while the vCPU is not loaded, whatever they hit
    residual_notifications  sent while it is loaded, in the host
    wrong_vcpu              of the unloaded ones: taken in another vCPU's guest mode
    """

    host_irqs: Expectation
    unloaded_notifications: Expectation
    residual_notifications: Expectation
    wrong_vcpu: Expectation


@dataclass(slots=True)
class CurveLine:
    """One expected number over the rates of a curve, in their order.

    min  at the end of what the trace proves
    max  at the end of what it can't exclude
    sd   standard deviation of the number itself
    """

    min: list[float] = field(default_factory=list)
    max: list[float] = field(default_factory=list)
    sd: list[float] = field(default_factory=list)

    def add(self, value: Expectation) -> None:
        """Add the number at the next rate."""
        self.min.append(value.min)
        self.max.append(value.max)
        self.sd.append(value.sd)


@dataclass(slots=True)
class RateCurve:
    """Expected host IRQs over a range of rates.

    rates_hz    posts a second to each vCPU, ascending
    host_irqs   by policy
    wrong_vcpu  by policy
    removed     the first policy's host IRQs less those of the second; null: not two
    """

    rates_hz: list[float]
    host_irqs: dict[str, CurveLine]
    wrong_vcpu: dict[str, CurveLine]
    removed: CurveLine | None


@dataclass(slots=True)
class Rates:
    """What posts that nobody saw would come to, if they arrived at a rate.

    senders   vCPUs whose IPIs they are, posted while those are in guest mode; empty:
              those of devices, at any time
    rate_hz   posts a second to each vCPU, by label; null: only a curve was asked for
    posts     how many are expected at those rates; null likewise
    policies  by name; empty likewise
    removed   what the first policy sends and the second does not; null: not two
              policies, or only a curve
    curve     over a range of rates; null: not asked for
    """

    senders: list[str]
    rate_hz: dict[str, float] | None
    posts: float | None
    policies: dict[str, RatePolicy]
    removed: RatePolicy | None
    curve: RateCurve | None


@dataclass(slots=True)
class CountersLine:
    """One counter of one pCPU over an interval, beside what the replay predicts.

    counter  "PIN" (vector 0xF2 in the host), "NPI" (0xF0) or "PIW" (0xF1)
    cpu      pCPU
    counted  how much it rose
    min      what the trace proves of it; null: not predicted (NPI)
    max      what it can't exclude; null: no upper end
    """

    counter: str
    cpu: int
    counted: int
    min: int | None
    max: int | None


@dataclass(slots=True)
class CountersInterval:
    """The time from one snapshot of /proc/interrupts to the next.

    start_ns  instant of the first; null: files do not tell, taken as the whole trace
    end_ns    of the second; null likewise
    lines     one a counter and pCPU
    """

    start_ns: int | None
    end_ns: int | None
    lines: list[CountersLine]


@dataclass(slots=True)
class PredictedCount:
    """A count under another policy, from an estimated rate.

    min   expected at the likeliest rate
    max   likewise, at the other end of what the trace leaves open
    low   99%, from the rate's interval and the count's own spread
    high  likewise
    """

    min: float
    max: float
    low: float
    high: float


@dataclass(slots=True)
class RateEstimate:
    """The rate of unseen posts to a pCPU's vCPUs, from its PIN.

    cpu       pCPU
    counted   its PIN
    min_hz    the likeliest rate; null: no rate gives that count
    max_hz    likewise, at the other end of what the trace leaves open; null: as great
              as one likes
    low_hz    99%; null: no rate gives that count
    high_hz   99%; null: no upper end
    predicted PIN under each other policy, by name
    """

    cpu: int
    counted: int
    min_hz: float | None
    max_hz: float | None
    low_hz: float | None
    high_hz: float | None
    predicted: dict[str, PredictedCount]


@dataclass(slots=True)
class Counters:
    """What the kernel itself counted, and what follows.

    source     "files" or "trace" (markers)
    policy     the captured kernel's, which the prediction is for; null: not known
    intervals  between snapshots
    estimates  by pCPU, over all intervals; empty: nothing to estimate
    total      PIN of all these pCPUs under each other policy, by name
    senders    vCPUs whose IPIs the posts are taken for; empty: those of devices
    notes      what keeps a number from being told, for people
    """

    source: str
    policy: str | None
    intervals: list[CountersInterval]
    estimates: list[RateEstimate]
    total: dict[str, PredictedCount]
    senders: list[str]
    notes: list[str]
