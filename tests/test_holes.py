"""What a capture with holes allows to say holds what the whole one proves."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from holed_source import Hole, HoledSource

from piscope.pipeline import analyze
from piscope.report.summarize import summarize
from piscope.report.summary import Bounds, Summary
from piscope.sources.detect import open_trace
from piscope.sources.raw import Source

CAPTURES = (
    "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat",
    "vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat",
    "vmx-6.12.117-ipiv-us.o_wrong_vcpu_slow.trace.dat",
    "vmx-6.12.117-ipiv-us.m_userspace_msi.trace.dat",
    "vmx-6.17.13-ipiv.e_min.trace.dat",
    "vmx-6.17.13-ipiv-tools.p_rich.perf.data",
)


def _summary(source: Source) -> Summary:
    try:
        return summarize(analyze(source))
    finally:
        source.close()


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not-counted"])
@pytest.mark.parametrize("name", CAPTURES)
def test_ranges_hold_what_the_holes_hide(
    samples: Path, name: str, counted: bool
) -> None:
    whole = _summary(open_trace(samples / name))
    draw = random.Random(f"{name} {counted}")
    source = open_trace(samples / name)
    span_ns = analyze(source).timeline.span_ns
    source.close()
    for _ in range(4):
        holes = [_hole(draw, span_ns) for _ in range(draw.randint(1, 3))]
        source = HoledSource(open_trace(samples / name), holes, counted=counted)
        holed = _summary(source)
        for policy, expected in whole.policies.items():
            found = holed.policies[policy]
            for number in (
                "unloaded_notifications",
                "residual_notifications",
                "wrong_vcpu",
            ):
                _meet(
                    getattr(expected, number),
                    getattr(found, number),
                    f"{holes} {policy} {number}",
                )


def _hole(draw: random.Random, span_ns: tuple[int, int]) -> Hole:
    first_ns, last_ns = span_ns
    length_ns = int((last_ns - first_ns) * draw.choice((0.001, 0.01, 0.1, 0.4)))
    start_ns = draw.randint(first_ns, last_ns - length_ns)
    return draw.choice((0, 1)), start_ns, start_ns + length_ns


def _meet(whole: Bounds, holed: Bounds, where: str) -> None:
    """Some number is within both: what one proves, the other does not exclude."""
    assert whole.min <= holed.max, where
    assert holed.min <= whole.max, where
