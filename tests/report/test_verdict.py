"""The sentences that people quote."""

from __future__ import annotations

from report.summaries import exact, policy, with_posts, without_posts

from piscope.report.render_verdict import verdict
from piscope.report.summary import Bounds


def test_known_posts() -> None:
    assert verdict(with_posts()) == [
        "preempt-only sends 1,250 notifications to vCPUs that are not loaded;"
        " suppress-on-put sends none: 1,250 removed (1,020 to 1,250 host IRQs,"
        " 0 to 230 wrong-vCPU).",
        "Not excluded: up to 2 more under preempt-only, by posts that left no event.",
    ]


def test_no_visible_post() -> None:
    assert verdict(without_posts()) == [
        "0 to 331 removed: no post into a vCPU that is not loaded is visible;"
        " under preempt-only 262 windows are open to one and up to 69 more may hide,"
        " under suppress-on-put none."
    ]


def test_windows_that_no_event_shows() -> None:
    summary = without_posts()
    summary.policies["preempt-only"].exposure.windows = exact(0)
    assert (
        "no event shows a window that is open to one, up to 331 may hide"
        in (verdict(summary)[0])
    )


def test_losses_can_fake_a_known_notification() -> None:
    summary = with_posts()
    summary.policies["preempt-only"].unloaded_notifications = Bounds(900, 1700)
    assert "sends 900 to 1,250 notifications" in verdict(summary)[0]
    assert "up to 450 more" in verdict(summary)[1]


def test_nothing_sent() -> None:
    summary = without_posts()
    summary.policies["preempt-only"].unloaded_notifications = exact(0)
    assert verdict(summary)[0] == (
        "No notification goes to a vCPU that is not loaded under preempt-only or"
        " suppress-on-put: windows were open to one, but nothing posted into them."
    )
    summary.policies["preempt-only"] = policy("preempt-only")
    assert verdict(summary)[0].endswith("no window is open to one.")


def test_one_policy_and_three() -> None:
    summary = with_posts()
    summary.removed = None
    del summary.policies["suppress-on-put"]
    first, second = verdict(summary)
    assert first == (
        "preempt-only sends 1,250 to 1,252 notifications to vCPUs that are not loaded"
        " (0 to 230 wrong-vCPU)."
    )
    assert second.endswith("7 to 346 notifications under preempt-only.")
    for name in ("b", "c"):
        summary.policies[name] = policy(name)
    assert len(verdict(summary)) == 3


def test_a_policy_that_sends_more() -> None:
    summary = with_posts()
    summary.policies = dict(reversed(summary.policies.items()))
    assert summary.removed is not None
    summary.removed.total = Bounds()
    assert verdict(summary)[0] == (
        "suppress-on-put sends 0 notifications to vCPUs that are not loaded;"
        " preempt-only sends 1,250."
    )


def test_one_is_not_plural() -> None:
    summary = with_posts()
    first = summary.policies["preempt-only"]
    first.known["unloaded_notifications"] = exact(1)
    first.known["wrong_vcpu"] = exact(0)
    assert summary.removed is not None
    summary.removed.total = summary.removed.host_irqs = exact(1)
    assert "sends 1 notification to vCPUs" in verdict(summary)[0]
    assert "1 removed (1 host IRQ, 0 wrong-vCPU)" in verdict(summary)[0]
