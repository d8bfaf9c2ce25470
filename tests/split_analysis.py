"""A whole analysis split into parts, as `piscope.parts` defines them.

Each part has all tables of the whole as context, so that what consumers of parts make
of them can be compared with what they make of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from piscope.outcomes import PolicyResult
from piscope.parts import Own
from piscope.pipeline import Analysis, Part
from piscope.replay.exposure import expose

__all__ = ("even_cuts", "split")


def even_cuts(analysis: Analysis, parts: int) -> list[int]:
    """Rows of EVENTS at which that many parts begin, but for the first."""
    n = len(analysis.events)
    return [n * i // parts for i in range(1, parts)]


def split(analysis: Analysis, cuts: Sequence[int]) -> Iterator[Part]:
    """The parts between these rows of EVENTS (ascending; the ends are added)."""
    n = len(analysis.events)
    bounds = [0, *cuts, n]
    for i in range(len(bounds) - 1):
        own = Own(bounds[i], bounds[i + 1], first=i == 0, last=i == len(bounds) - 2)
        results = {name: _result(analysis, name, own) for name in analysis.results}
        yield Part(replace(analysis, results=results), own, np.arange(n))


def _result(analysis: Analysis, name: str, own: Own) -> PolicyResult:
    result, walked = analysis.results[name], analysis.walks[name]
    exposure, residual, costs = expose(
        analysis.timeline,
        analysis.stimuli,
        walked,
        result.findings,
        analysis.occupancy,
        analysis.posted != "none",
        None,
        own,
    )
    surprise = walked.automaton.surprise[walked.walk.before, walked.letters]
    surprise &= own.rows(analysis.stimuli.row)
    return replace(
        result,
        exposure=exposure,
        residual=residual,
        costs=costs,
        contradictions=int(surprise.sum()),
    )
