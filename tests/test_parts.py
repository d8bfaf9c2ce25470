"""Parts: each row is the own one of one part, and what adds up gives the whole."""

from __future__ import annotations

from dataclasses import fields
from itertools import chain

import numpy as np
import pytest
from conftest import SAMPLES
from split_analysis import even_cuts, split

from piscope import pipeline
from piscope.pipeline import Analysis, Part
from piscope.sources.detect import open_trace

TRACES = (
    "proof/vmx-6.12.117-ipiv-us.l_wrong_vcpu.trace.dat",
    "proof/vmx-6.17.13-ipiv.b_pid_x2apic.trace.dat",
    "vmx-6.12.117-ipiv.f_2vm.trace.dat",
    "vmx-6.12.117-ipiv.g_lost.trace.dat",
    "vmx-6.17.13-ipiv-tools.p_min.perf.data",
)
POLICIES = ("preempt-only", "suppress-on-put", "legacy-5.10")


@pytest.fixture(scope="module", params=TRACES)
def whole(request: pytest.FixtureRequest) -> Analysis:
    source = open_trace(str(SAMPLES / request.param))
    try:
        return pipeline.analyze(source, policies=POLICIES)
    finally:
        source.close()


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_each_row_is_the_own_one_of_one_part(whole: Analysis, parts: int) -> None:
    made = list(split(whole, even_cuts(whole, parts)))
    t = whole.timeline
    for masks in (
        [p.own.windows(t.windows) for p in made],
        [p.own.intervals(t.intervals) for p in made],
        [p.own.acts(t.acts) for p in made],
        [p.own.posts(t.posts) for p in made],
        [p.own.stimuli(whole.stimuli, t.posts, t.windows) for p in made],
    ):
        assert (np.sum(masks, axis=0) == 1).all()


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_what_has_no_row_adds_up(whole: Analysis, parts: int) -> None:
    made = list(split(whole, even_cuts(whole, parts)))
    for name, result in whole.results.items():
        found = [part.analysis.results[name] for part in made]
        for cost in fields(result.costs):
            each = [getattr(r.costs, cost.name) for r in found]
            assert (np.sum(each, axis=0) == getattr(result.costs, cost.name)).all()
        invisible = np.sum([r.exposure.invisible for r in found], axis=0)
        assert (invisible == result.exposure.invisible).all()
        rows = [
            sorted(
                zip(
                    r.residual.vcpu,
                    r.residual.cpu,
                    r.residual.surely,
                    r.residual.seen,
                    strict=True,
                )
            )
            for r in found
        ]
        r = result.residual
        assert sorted(chain.from_iterable(rows)) == sorted(
            zip(r.vcpu, r.cpu, r.surely, r.seen, strict=True)
        )
        assert sum(r.contradictions for r in found) == result.contradictions


def test_an_analysis_made_at_once_is_one_part(whole: Analysis) -> None:
    part = Part.of_whole(whole)
    assert part.own.is_whole
    assert part.own.windows(whole.timeline.windows).all()
    assert part.rows.tolist() == list(range(len(whole.events)))
