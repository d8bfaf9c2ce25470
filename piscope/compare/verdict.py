"""What a comparison comes to, in sentences that can be quoted."""

from __future__ import annotations

from collections.abc import Sequence

from piscope.compare.account import Capture, Figure, Pair, Rate, Span, Spread

__all__ = ("MAIN", "main_figure", "number_text", "ratio_text", "spread_text", "verdict")

MAIN = "unloaded_notifications"
"""What the verdict is about."""


def main_figure(figures: Sequence[Figure], pair: Pair) -> Figure:
    """The figure that the verdict is about."""
    under = (pair.a, pair.b)
    return next(
        f
        for f in figures
        if f.metric == MAIN and not f.key and (f.policy_a, f.policy_b) == under
    )


def verdict(main: Figure, a: Capture, b: Capture, pairs: Sequence[Pair]) -> list[str]:
    """One to three sentences."""
    policy_a, policy_b = pairs[0].a, pairs[0].b
    if not main.rates:
        return ["Nothing can be told: one of the captures has no length."]
    rate = main.rates[0]
    sentences = [
        "To vCPUs that are not loaded:"
        f" {spread_text(rate.a)} notifications a second in A ({policy_a}),"
        f" {spread_text(rate.b)} in B ({policy_b}): {_judged(rate)}."
    ]
    others = [r for r in main.rates[1:] if r.verdict != rate.verdict]
    if others:
        from piscope.compare.account import PERS

        sentences.append(
            "But " + "; ".join(f"{PERS[r.per]}: {_judged(r)}" for r in others) + "."
        )
    if policy_a != policy_b:
        sentences.append(
            "The kernels' policies differ, and so may the workloads: --policy"
            f" {policy_b} replays both under one."
        )
    return sentences


def _judged(rate: Rate) -> str:
    ratio = "" if rate.confidence is None else f", {ratio_text(rate.confidence)}"
    return {
        "rises": f"more, beyond the ranges and chance{ratio}",
        "falls": f"fewer, beyond the ranges and chance{ratio}",
        "noise": "no difference beyond chance",
        "open": "can't tell, the traces leave it open",
        "same": "the same",
        "differs": "they differ beyond the ranges",
    }[rate.verdict]


def ratio_text(span: Span) -> str:
    """An interval of B divided by A: `B/A 0.35 to 0.51`, `B/A below 0.02`."""
    if span.max is None:
        return f"B/A above {number_text(span.min or 0)}" if span.min else "B/A any"
    if not span.min:
        return f"B/A below {number_text(span.max)}"
    return f"B/A {number_text(span.min)} to {number_text(span.max)}"


def spread_text(number: Spread) -> str:
    """A rate: `243.1`, `0 to 12.5`."""
    if number.max is None:
        return f"{number_text(number.min)} or more"
    least, most = number_text(number.min), number_text(number.max)
    return least if least == most else f"{least} to {most}"


def number_text(number: float) -> str:
    """Three digits that count, or all of those before the point."""
    if not number:
        return "0"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    for digits, least in ((1, 10.0), (2, 1.0), (3, 0.1)):
        if abs(number) >= least:
            return f"{number:.{digits}f}"
    return f"{number:.2g}"
