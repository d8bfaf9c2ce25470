"""What a limit can be on: the numbers of a summary that add up over traces.

Every number is a range. The summary counts some things for known posts only (by put
reason, by exit reason); a gate must not pass on what merely was not seen, so these are
widened here by the posts that the trace can't exclude.

To be read beside `docs/gate.md`, whose table of metrics is made from `METRICS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from piscope.report.summary import Bounds, Exposed, PolicySummary, Summary

__all__ = (
    "METRICS",
    "OTHERS",
    "VERIFY",
    "Metric",
    "Range",
    "Value",
    "hull",
    "measure_summary",
)

OTHERS = "*"
"""The key of what may have happened under any key that a trace doesn't name."""

VERIFY = "verify_disagreements"
"""The one metric that the analysis doesn't give: what probes read against the model."""

_NEVER_A_WINDOW = ("guest",)  # kinds of interval in which no window can lie


class Range(NamedTuple):
    """A number that lies between `min` and `max`; `max` may be infinite."""

    min: float
    max: float

    def plus(self, other: Range) -> Range:
        """Both together."""
        return Range(self.min + other.min, self.max + other.max)


ZERO = Range(0, 0)


class Value(NamedTuple):
    """What a number is of: a metric's name, a key of it, a policy; "" for none."""

    metric: str
    key: str = ""
    policy: str = ""


class Metric(NamedTuple):
    """One thing that can be limited.

    unit      "count" or "ns"
    policied  whether it has a value for each policy
    keys      what its keys are; "": it has none
    total     how traces add up: their sum, or the greatest
    meaning   for people
    """

    unit: Literal["count", "ns"]
    policied: bool
    keys: str
    total: Literal["sum", "max"]
    meaning: str


METRICS: Mapping[str, Metric] = {
    "unloaded_notifications": Metric(
        "count", True, "", "sum", "notifications sent while the vCPU was not loaded"
    ),
    "residual_notifications": Metric(
        "count", True, "", "sum", "sent while it was loaded, in the host"
    ),
    "wrong_vcpu": Metric(
        "count", True, "", "sum", "unloaded ones taken in another vCPU's guest mode"
    ),
    "spurious_host_irqs": Metric(
        "count", True, "", "sum", "unloaded ones that the host took as an IRQ"
    ),
    "unloaded_by_reason": Metric(
        "count", True, "put reason", "sum", "unloaded ones by why the vCPU was put"
    ),
    "residual_by_state": Metric(
        "count", True, "state", "sum", "residual ones by what the vCPU was doing"
    ),
    "residual_by_exit_reason": Metric(
        "count", True, "exit reason", "sum", "residual ones by the VM-exit handled"
    ),
    "exposure_windows": Metric(
        "count", True, "", "sum", "windows that are open to a notification"
    ),
    "exposure_ns": Metric("ns", True, "", "sum", "time in such windows"),
    "exposure_longest_ns": Metric("ns", True, "", "max", "the longest of them"),
    "exposure_windows_by_reason": Metric(
        "count", True, "put reason", "sum", "windows by why the vCPU was put"
    ),
    "exposure_ns_by_reason": Metric(
        "ns", True, "put reason", "sum", "time in them by why the vCPU was put"
    ),
    "costs": Metric(
        "count",
        True,
        "cost",
        "sum",
        "what the model counts, as pir_scans or locked_ops",
    ),
    "contradictions": Metric(
        "count", True, "", "sum", "events that contradict the ones before them"
    ),
    VERIFY: Metric(
        "count", True, "", "sum", "transitions that `piscope verify` finds to disagree"
    ),
    "losses": Metric("count", False, "", "sum", "places where the trace lost events"),
    "lost_events": Metric("count", False, "", "sum", "events lost, where it tells"),
    "uncertain_puts": Metric(
        "count", False, "", "sum", "puts of uncertain reason or instant"
    ),
    "unknown_ns": Metric(
        "ns", False, "", "sum", "time of vCPUs of which nothing is known"
    ),
    "entries": Metric("count", False, "", "sum", "VM-entries"),
    "events": Metric("count", False, "", "sum", "events in the trace"),
}
"""By name; a name is never changed, since baselines hold it."""


def measure_summary(summary: Summary) -> dict[Value, Range]:
    """Every number of a summary that can be limited, without those that are 0."""
    losses = summary.trace.losses
    known = sum(loss.events or 0 for loss in losses)
    all_told = all(loss.events is not None for loss in losses)
    values = {
        Value("losses"): _exactly(sum(loss.times for loss in losses)),
        Value("lost_events"): Range(known, known if all_told else math.inf),
        Value("uncertain_puts"): _exactly(sum(v.uncertain_puts for v in summary.vcpus)),
        Value("unknown_ns"): _exactly(
            sum(v.time_ns.get("unknown", 0) for v in summary.vcpus)
        ),
        Value("entries"): _exactly(sum(v.entries for v in summary.vcpus)),
        Value("events"): _exactly(summary.trace.events),
    }
    host_ns = sum(
        sum(ns for kind, ns in v.time_ns.items() if kind not in _NEVER_A_WINDOW)
        for v in summary.vcpus
    )
    for policy in summary.policies.values():
        for (metric, key), number in _of_policy(policy, host_ns).items():
            values[Value(metric, key, policy.name)] = number
    return {value: number for value, number in values.items() if number != ZERO}


def _exactly(number: int) -> Range:
    return Range(number, number)


def _range(bounds: Bounds) -> Range:
    return Range(bounds.min, bounds.max)


def _of_policy(p: PolicySummary, host_ns: int) -> dict[tuple[str, str], Range]:
    unloaded = _Widening(p.unloaded_notifications, p.known["unloaded_notifications"])
    residual = _Widening(p.residual_notifications, p.known["residual_notifications"])
    windows, time_ns = _range(p.exposure.windows), _range(p.exposure.duration_ns)
    longest_ns: Range = _exactly(p.exposure.longest_ns)
    if p.hidden_windows:
        # No event shows how long these are, but none of them can lie in guest mode.
        windows = Range(windows.min, windows.max + p.hidden_windows)
        time_ns = Range(time_ns.min, max(time_ns.max, host_ns))
        longest_ns = Range(longest_ns.min, max(longest_ns.max, host_ns))
    values = {
        ("unloaded_notifications", ""): _range(p.unloaded_notifications),
        ("residual_notifications", ""): _range(p.residual_notifications),
        ("wrong_vcpu", ""): _range(p.wrong_vcpu),
        ("spurious_host_irqs", ""): unloaded.widened(
            p.outcomes.get("unloaded-host", Bounds())
        ),
        ("exposure_windows", ""): windows,
        ("exposure_ns", ""): time_ns,
        ("exposure_longest_ns", ""): longest_ns,
        ("contradictions", ""): _exactly(p.contradictions),
    }
    for metric, counts, widening in (
        ("unloaded_by_reason", p.unloaded_by_reason, unloaded),
        ("residual_by_state", p.residual_by_state, residual),
        ("residual_by_exit_reason", p.residual_by_exit_reason, residual),
    ):
        values[metric, OTHERS] = widening.widened(Bounds())
        for key, count in counts.items():
            values[metric, key] = widening.widened(count)
    values |= {("costs", key): _range(count) for key, count in p.costs.items()}
    return values | _by_reason(p.exposure_by_reason, p.hidden_windows, host_ns)


def _by_reason(
    exposure: Mapping[str, Exposed], hidden: int, host_ns: int
) -> dict[tuple[str, str], Range]:
    values = {}
    for key, e in ((OTHERS, Exposed(Bounds(), Bounds(), 0)), *exposure.items()):
        most_ns = max(e.duration_ns.max, host_ns) if hidden else e.duration_ns.max
        values["exposure_windows_by_reason", key] = Range(
            e.windows.min, e.windows.max + hidden
        )
        values["exposure_ns_by_reason", key] = Range(e.duration_ns.min, most_ns)
    return values


class _Widening:
    """From what is known of some posts to what can't be excluded of all of them."""

    def __init__(self, total: Bounds, known: Bounds) -> None:
        self._more = max(total.max - known.max, 0)
        # Losses can make the least of the known ones uncertain.
        self._less = max(known.min - total.min, 0)

    def widened(self, count: Bounds) -> Range:
        return Range(max(count.min - self._less, 0), count.max + self._more)


def hull(ranges: list[Range]) -> Range:
    """The least range that holds each of them."""
    return Range(min(r.min for r in ranges), max(r.max for r in ranges))
