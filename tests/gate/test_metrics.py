"""From a summary to numbers that can be limited."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from report.summaries import exact, with_posts, without_posts

from piscope.gate.measured import CAPTURED, Measured, as_plain, from_plain
from piscope.gate.metrics import METRICS, Range, Value, measure_summary
from piscope.model.policy import POLICIES
from piscope.report.summary import Bounds, Summary


def _measured(summary: Summary, captured: str | None = "preempt-only") -> Measured:
    return Measured(
        "0" * 64,
        1,
        "6.12.0",
        captured,
        10**9,
        10,
        tuple(summary.policies),
        measure_summary(summary),
    )


def _number(summary: Summary, metric: str, key: str = "") -> Range | None:
    policy = "preempt-only" if METRICS[metric].policied else ""
    return _measured(summary).number(Value(metric, key, policy))


def test_counts_are_those_of_the_summary() -> None:
    summary = with_posts()
    assert _number(summary, "unloaded_notifications") == (1250, 1252)
    assert _number(summary, "wrong_vcpu") == (0, 230)
    assert _number(summary, "exposure_windows") == (1262, 1262)
    assert _number(summary, "costs", "locked_ops") == (1270, 1272)
    assert _number(summary, "costs", "no_such") == (0, 0)
    assert _number(summary, "entries") == (2524, 2524)
    assert _number(summary, "unknown_ns") == (100 * 10**6, 100 * 10**6)


def test_what_is_known_by_kind_is_widened_by_what_is_not_excluded() -> None:
    summary = with_posts()
    # 2 unloaded and 339 residual notifications may have been of any kind.
    assert _number(summary, "unloaded_by_reason", "userspace") == (1249, 1251)
    assert _number(summary, "unloaded_by_reason", "never-seen") == (0, 2)
    assert _number(summary, "residual_by_exit_reason", "48") == (5, 5 + 339)
    assert _number(summary, "residual_by_exit_reason", "12") == (0, 339)
    assert _number(summary, "spurious_host_irqs") == (1020, 1252)


def test_losses_lower_what_known_posts_prove() -> None:
    summary = with_posts()
    summary.policies["preempt-only"].unloaded_notifications = Bounds(1240, 1252)
    assert _number(summary, "unloaded_by_reason", "userspace") == (1239, 1251)


def test_hidden_windows_open_the_end_of_every_exposure() -> None:
    summary = without_posts()
    host_ns = sum(
        ns for v in summary.vcpus for kind, ns in v.time_ns.items() if kind != "guest"
    )
    assert _number(summary, "exposure_windows") == (0, 262 + 69)
    assert _number(summary, "exposure_ns") == (0, max(host_ns, 831 * 10**6))
    assert _number(summary, "exposure_windows_by_reason", "ioctl") == (0, 69)


def test_losses_of_unknown_size_have_no_upper_end() -> None:
    assert _number(without_posts(), "lost_events") == (0, math.inf)
    assert _number(without_posts(), "losses") == (3, 3)
    assert _number(with_posts(), "lost_events") == (0, 0)


def test_captured_is_the_policy_of_the_kernel() -> None:
    value = Value("unloaded_notifications", "", CAPTURED)
    assert _measured(with_posts(), "preempt-only").number(value) == (1250, 1252)
    assert _measured(with_posts(), "suppress-on-put").number(value) == (0, 0)


def test_a_kernel_that_nothing_identifies_may_be_any() -> None:
    value = Value("unloaded_notifications", "", CAPTURED)
    summary = with_posts()
    assert _measured(summary, None).number(value) is None  # two were replayed
    least = summary.policies["suppress-on-put"]
    for name in POLICIES:
        summary.policies.setdefault(name, replace(least, name=name))
    assert _measured(summary, None).number(value) == (0, 1252)


def test_a_policy_that_was_not_replayed_has_no_number() -> None:
    value = Value("unloaded_notifications", "", "legacy-5.10")
    assert _measured(with_posts()).number(value) is None


def test_plain_values_are_the_same_again() -> None:
    for summary in (with_posts(), without_posts()):
        measured = _measured(summary)
        assert from_plain(as_plain(measured)) == replace(measured, cached=True)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": 1},
        {"entries": "1"},
        {"policies": 3},
        {"values": [[1]]},
        {"values": [["no-such", "", "", 1, 1]]},
        {"values": [["losses", "", "", None, 1]]},
    ],
)
def test_damaged_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no numbers of a trace"):
        from_plain(as_plain(_measured(with_posts())) | change)


def test_every_metric_of_a_summary_is_one_that_is_listed() -> None:
    summary = with_posts()
    summary.policies["preempt-only"].contradictions = exact(1).min
    assert {value.metric for value in measure_summary(summary)} <= set(METRICS)
