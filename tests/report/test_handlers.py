"""The ranking of VM-exit handlers, as people read it."""

from __future__ import annotations

from report.summaries import exact, with_posts

from piscope.report.render import render
from piscope.report.summary import Bounds, Handler, Observed


def handler(reason: int, name: str, residual: Bounds, savable: Bounds) -> Handler:
    return Handler(
        reason=reason,
        name=name,
        exits=1200,
        straight_back=1000,
        host_ns=3_200_000,
        straight_back_ns=2_100_000,
        residual={"preempt-only": residual, "suppress-on-put": exact(0)},
        savable={"preempt-only": savable, "suppress-on-put": exact(0)},
    )


def test_each_handler_is_a_line_under_the_first_policy() -> None:
    summary = with_posts()
    summary.handlers = [handler(48, "EPT_VIOLATION", Bounds(3, 5), Bounds(2, 4))]
    lines = render(summary).splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [x for x in lines if "EPT_VIOLATION" in x and "ms" in x]
    assert " ".join(line.split()) == (
        "EPT_VIOLATION 1,200 1,000 3.2 ms 2.1 ms 3 to 5 2 to 4"
    )


def test_the_rest_is_counted() -> None:
    summary = with_posts()
    summary.handlers = [
        handler(n, f"REASON_{n}", exact(0), exact(0)) for n in range(12)
    ]
    text = render(summary)
    assert "REASON_7" in text
    assert "REASON_8" not in text
    assert "4 more exit reasons" in text


def test_what_left_an_event_is_told() -> None:
    summary = with_posts()
    summary.observed = Observed(3, 37, 5)
    text = " ".join(render(summary).split())
    assert "3 VM-exits by 0xF2 (L2, or APICv inhibited); 37 VM-exits by 0xF1;" in text
    assert "pi_wakeup_handler ran 5 times" in text


def test_what_can_not_be_seen_is_not_told() -> None:
    summary = with_posts()
    summary.observed = Observed(None, None, None)
    assert "observed" not in render(summary)
