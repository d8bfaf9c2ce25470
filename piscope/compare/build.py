"""From two summaries to the account of their comparison.

The numbers are those of `piscope gate` (gate.metrics), with the few that it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from piscope import __version__
from piscope.compare.account import (
    SCHEMA_VERSION,
    Account,
    Capture,
    Figure,
    Pair,
    Rate,
)
from piscope.compare.fairness import unfair
from piscope.compare.poisson import CONFIDENCE
from piscope.compare.rates import Exposures, compared, spread
from piscope.compare.verdict import main_figure, verdict
from piscope.gate.metrics import (
    METRICS,
    OTHERS,
    VERIFY,
    Range,
    measure_summary,
)
from piscope.posted import posted_text
from piscope.report.summary import Bounds, PolicySummary, Summary

__all__ = ("BESIDES", "account_of", "pairs_of")

_ZERO = Range(0, 0)

BESIDES: dict[str, str] = {
    "host_irqs": "known notifications 0xf2 that the host takes as IRQs",
    "wakeups": "known posts whose 0xf1 wakes the blocked vCPU",
    "delivered": "known posts taken in guest mode, or by the next VM-entry",
    "puts": "times that a vCPU was put",
    "exits": "VM-exits",
    "notification_exits": "VM-exits by vector 0xf2, as the trace shows them",
    "wakeup_exits": "VM-exits by vector 0xf1, as the trace shows them",
    "wakeup_handler_calls": "calls of pi_wakeup_handler that a probe saw",
}
"""Numbers of a summary that no limit of the gate is on."""

_NOT_RATES = ("exposure_longest_ns",)
_NOT_COMPARED = (VERIFY, "events", "losses", "lost_events", "unknown_ns")


def pairs_of(a: Summary, b: Summary) -> list[Pair]:
    """Which policy of A is compared with which of B: those of their own kernels.

    Where one of the kernels' policies is not known, or was not replayed, each policy
    that both were replayed under is compared with itself.
    """
    own = a.trace.captured_policy, b.trace.captured_policy
    if own[0] in a.policies and own[1] in b.policies:
        assert own[0] is not None
        assert own[1] is not None
        return [Pair(own[0], own[1])]
    return [Pair(name, name) for name in a.policies if name in b.policies]


def account_of(
    a: Summary,
    b: Summary,
    events: tuple[list[str], list[str]],
    unknown: tuple[float, float],
    pairs: list[Pair],
) -> Account:
    """Compare two summaries of captures, pair of policies by pair.

    `events` are the names of those recorded that the analysis reads, `unknown` the
    shares of the vCPUs' time of which nothing is known.
    """
    captures = tuple(
        _capture(summary, names, share)
        for summary, names, share in zip((a, b), events, unknown, strict=True)
    )
    figures = [
        *_figures(a, b, None, None),
        *(figure for pair in pairs for figure in _figures(a, b, pair.a, pair.b)),
    ]
    main = main_figure(figures, pairs[0])
    return Account(
        schema_version=SCHEMA_VERSION,
        piscope_version=__version__,
        question=_question(a.question.posted, b.question.posted),
        confidence=CONFIDENCE,
        a=captures[0],
        b=captures[1],
        verdict=verdict(main, captures[0], captures[1], pairs),
        cannot_tell=main.rates[0].verdict == "open" if main.rates else True,
        pairs=pairs,
        figures=figures,
        unfair=unfair(captures[0], captures[1], pairs),
        remarks=[
            "A rate is a range: what the trace proves, and what it can't exclude. The"
            " interval of the ratio holds what the ranges allow, and 95% for chance"
            " (Clopper and Pearson, of the exact conditional test of two Poisson"
            " rates), p is the greatest that the ranges allow.",
            "Chance is that of independent events. Notifications come in bursts, and"
            " a put has its load: real noise is larger. Repeated captures tell it.",
        ],
    )


def _question(a: str, b: str) -> str:
    if a == b:
        return f"--posted {a}: {posted_text(a)}"
    return f"A --posted {a}: {posted_text(a)}; B --posted {b}: {posted_text(b)}"


def _capture(summary: Summary, events: list[str], unknown: float) -> Capture:
    trace, question = summary.trace, summary.question
    lost = [loss.events for loss in trace.losses]
    return Capture(
        path=trace.path,
        format=trace.format,
        kernel_release=trace.kernel_release,
        captured_policy=trace.captured_policy,
        captured_policy_by=trace.captured_policy_by,
        duration_ns=trace.duration_ns,
        exits=_exits(summary),
        entries=sum(vcpu.entries for vcpu in summary.vcpus),
        vcpus=sum(1 for vcpu in summary.vcpus if vcpu.entries or vcpu.puts),
        vms=trace.vms,
        cpus=len(trace.cpus),
        probes=trace.probes,
        losses=sum(loss.times for loss in trace.losses),
        lost_events=(
            None if None in lost else sum(count for count in lost if count is not None)
        ),
        unknown=unknown,
        posted=question.posted,
        posts=question.as_hardware + question.as_software + question.from_windows,
        events=events,
    )


def _exits(summary: Summary) -> int:
    return sum(handler.exits for handler in summary.handlers)


def _figures(
    a: Summary, b: Summary, policy_a: str | None, policy_b: str | None
) -> Iterator[Figure]:
    numbers_a, numbers_b = _numbers(a, policy_a), _numbers(b, policy_b)
    of_a, of_b = _exposures(a), _exposures(b)
    for metric, key in dict.fromkeys((*numbers_a, *numbers_b)):
        x = numbers_a.get((metric, key), _ZERO)
        y = numbers_b.get((metric, key), _ZERO)
        known = METRICS.get(metric)
        unit = known.unit if known else "count"
        rates: list[Rate] = []
        if metric not in _NOT_RATES:
            rates = compared(x, y, of_a, of_b, is_count=unit == "count")
        yield Figure(
            metric=metric,
            key=key,
            policy_a=policy_a,
            policy_b=policy_b,
            unit=unit,
            meaning=known.meaning if known else BESIDES[metric],
            a=spread(x),
            b=spread(y),
            rates=rates,
        )


def _exposures(summary: Summary) -> Exposures:
    entries = sum(vcpu.entries for vcpu in summary.vcpus)
    return Exposures(summary.trace.duration_ns, _exits(summary), entries)


def _numbers(summary: Summary, policy: str | None) -> dict[tuple[str, str], Range]:
    """Those of one policy, or those that hold under all."""
    if policy is None:
        numbers = dict(_besides(summary))
    else:
        # a number that is 0 in both is compared as well: it is the same, for sure
        numbers = {
            (metric, ""): _ZERO
            for metric, known in METRICS.items()
            if known.policied and not known.keys and metric not in _NOT_COMPARED
        }
        numbers |= _known_of(summary.policies[policy])
    numbers |= {
        (value.metric, value.key): number
        for value, number in measure_summary(summary).items()
        if value.policy == (policy or "")
        and value.metric not in _NOT_COMPARED
        and value.key != OTHERS
    }
    return numbers


def _known_of(policy: PolicySummary) -> dict[tuple[str, str], Range]:
    outcomes: Mapping[str, Bounds] = policy.outcomes
    none = Bounds()
    delivered = outcomes.get("guest", none) + outcomes.get("latched", none)
    return {
        ("host_irqs", ""): _range(policy.host_irqs),
        ("wakeups", ""): _range(outcomes.get("wakeup", none)),
        ("delivered", ""): _range(delivered),
    }


def _besides(summary: Summary) -> Iterator[tuple[tuple[str, str], Range]]:
    yield ("exits", ""), _exactly(_exits(summary))
    yield ("entries", ""), _exactly(sum(v.entries for v in summary.vcpus))
    puts = sum(sum(vcpu.puts.values()) for vcpu in summary.vcpus)
    yield ("puts", ""), _exactly(puts)
    if summary.observed is None:
        return
    for name in ("notification_exits", "wakeup_exits", "wakeup_handler_calls"):
        count = getattr(summary.observed, name)
        if count is not None:
            yield (name, ""), _exactly(count)


def _exactly(number: int) -> Range:
    return Range(number, number)


def _range(bounds: Bounds) -> Range:
    return Range(bounds.min, bounds.max)
