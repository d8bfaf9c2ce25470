"""The summary of an analysis in parts is that of the whole, however it was split."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import SAMPLES
from split_analysis import even_cuts, split

from piscope import pipeline
from piscope.errors import UsageError
from piscope.model.policy import POLICIES
from piscope.pipeline import Analysis
from piscope.posted import Posted
from piscope.report.selection import Selection
from piscope.report.summarize import summarize
from piscope.report.summary import Summary
from piscope.report.tally import Tallies
from piscope.sources.detect import open_trace

FOUR = ("preempt-only", "suppress-on-put", "legacy-5.10", "suppress-at-exit")
TRACES = sorted(
    str(path.relative_to(SAMPLES))
    for folder in (SAMPLES, SAMPLES / "proof")
    for path in folder.glob("vmx-*")
    if path.name.endswith((".trace.dat", ".perf.data"))
)


def analyzed(
    trace: str, policies: tuple[str, ...], posted: Posted = "auto"
) -> Analysis:
    source = open_trace(str(SAMPLES / trace))
    try:
        return pipeline.analyze(source, policies=policies, posted=posted)
    finally:
        source.close()


def odd_cuts(analysis: Analysis) -> list[int]:
    """Some random ones, one part without a row, and parts of one row at the ends."""
    n = len(analysis.events)
    some = random.Random(n).choices(range(n + 1), k=3)
    return sorted([min(1, n), *some, some[0], max(n - 1, 0)])


def all_cuts(analysis: Analysis) -> list[list[int]]:
    return [*(even_cuts(analysis, parts) for parts in (2, 3, 11)), odd_cuts(analysis)]


def selections(analysis: Analysis) -> list[Selection | None]:
    vcpus = analysis.timeline.vcpus.rows
    cpus = analysis.events.cpus
    return [
        None,
        Selection(vcpus=(vcpus[-1].label,)),
        Selection(cpus=frozenset(cpus[:1])),
    ]


def tallied(
    analysis: Analysis, cuts: Sequence[int], chosen: Sequence[Selection | None]
) -> list[Tallies]:
    """The tallies for each selection; the parts are made once."""
    result = [Tallies(selection) for selection in chosen]
    for part in split(analysis, cuts):
        for tallies in result:
            tallies.add(part)
    return result


def same(parts: Summary, whole: Summary) -> bool:
    # the order of keys as well
    return parts == whole and json.dumps(parts.as_dict()) == json.dumps(whole.as_dict())


def check(analysis: Analysis) -> None:
    chosen = selections(analysis)
    wholes = [summarize(analysis, selection) for selection in chosen]
    for cuts in all_cuts(analysis):
        for tallies, whole in zip(tallied(analysis, cuts, chosen), wholes, strict=True):
            assert same(tallies.finish(), whole), (cuts, whole.narrowed)


@pytest.fixture(scope="module", params=TRACES)
def trace(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_four_policies(trace: str) -> None:
    assert set(FOUR) <= set(POLICIES)
    check(analyzed(trace, FOUR))


def test_two_policies_and_what_the_second_removes(trace: str) -> None:
    analysis = analyzed(trace, pipeline.DEFAULT_POLICIES)
    assert summarize(analysis).removed is not None
    check(analysis)


def test_no_post_as_hardwares(trace: str) -> None:
    check(analyzed(trace, FOUR[:2], "none"))


def test_time_that_is_known(trace: str) -> None:
    analysis = analyzed(trace, ())
    labels = [vcpu.label for vcpu in analysis.timeline.vcpus.rows]
    (whole,) = tallied(analysis, [], [None])
    for cuts in all_cuts(analysis):
        (tallies,) = tallied(analysis, cuts, [None])
        for asked in (labels, labels[:1], labels[-1:], []):
            told = tallies.known_time.timeline_unknown(asked)
            assert told == whole.known_time.timeline_unknown(asked)


@pytest.mark.parametrize("unknown", [0.2, 0.5, 0.8])
def test_unknown_time_counts_between_what_is_known(unknown: float) -> None:
    analysis = analyzed(_SMALL, ())
    i = analysis.timeline.intervals
    draw = random.Random(7)
    labels = [vcpu.label for vcpu in analysis.timeline.vcpus.rows]
    i.kind[[draw.random() < unknown for _ in range(len(i))]] = 0
    for label in labels:
        told = {
            tallied(analysis, cuts, [None])[0].known_time.timeline_unknown([label])
            for cuts in ([], *all_cuts(analysis))
        }
        (whole,) = tallied(analysis, [], [None])
        assert told == {whole.known_time.timeline_unknown([label])}


_SMALL = "vmx-6.12.117-ipiv.f_2vm.trace.dat"


def test_what_the_trace_does_not_hold_is_refused() -> None:
    analysis = analyzed(_SMALL, ())
    with pytest.raises(UsageError, match="--vcpu vm9/vcpu9"):
        tallied(analysis, [], [Selection(vcpus=("vm9/vcpu9",))])


def test_a_summary_needs_a_part() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        Tallies().finish()


def test_all_captures_are_there() -> None:
    assert len(TRACES) > 20
    assert all(Path(SAMPLES / name).is_file() for name in TRACES)
