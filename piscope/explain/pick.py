"""Which notification is meant: at an instant, by its row of FINDINGS, or the n-th of
a kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.outcomes import Findings, Hit
from piscope.pipeline import Analysis
from piscope.report.render_words import duration_text
from piscope.sources.raw import Array

__all__ = ("HIT_GROUPS", "NEAR_NS", "Picked", "at_instant", "by_row", "nth_of_kind")

NEAR_NS = 1_000_000
"""How far from the instant that is asked for a post may be."""

HIT_GROUPS: dict[str, tuple[Hit, ...]] = {
    "unloaded": (Hit.UNLOADED_HOST, Hit.WRONG_VCPU),
    "residual": (Hit.HOST,),
} | {hit.label: (hit,) for hit in Hit}
"""What `--hit` takes: the words of outcomes.Hit, and two sums of the report."""


@dataclass(frozen=True, slots=True)
class Picked:
    """One finding: its index within each policy's findings, and how it was found."""

    index: int
    found_by: str


def by_row(analysis: Analysis, row: int, policy: str | None) -> Picked:
    """The finding in that row of FINDINGS as `piscope report` writes it.

    Without a policy, rows count over all of them, one policy behind the other.

    Raises UsageError for a row that there is not.
    """
    counts = [len(result.findings) for result in analysis.results.values()]
    found_by = f"--finding {row}"
    if policy is not None:
        counts = [len(analysis.results[policy].findings)]
        found_by += f" of {policy}"
    if row >= sum(counts):
        raise UsageError(f"{found_by}: {_there_are(sum(counts))}")
    for name, count in zip(analysis.results, counts, strict=False):
        if row < count:
            return Picked(row, found_by if policy else f"{found_by}, of {name}")
        row -= count
    raise AssertionError("the row is in none of the policies")


def _there_are(count: int) -> str:
    if not count:
        return "FINDINGS has no row: nothing was posted that the trace tells of"
    return f"FINDINGS has rows 0 to {count - 1}"


def nth_of_kind(
    analysis: Analysis, kind: str, nth: int, policy: str, chosen: npt.NDArray[np.bool_]
) -> Picked:
    """The n-th (from 1) finding with that outcome under a policy, by time.

    Those that surely have it come first, then those that may. `chosen` bool[vCPUs].

    Raises UsageError where there are fewer.
    """
    f = analysis.results[policy].findings
    hits = HIT_GROUPS[kind]
    mine = chosen[analysis.stimuli.vcpu[f.stimulus]]
    sure = np.flatnonzero(f.surely(*hits) & mine)
    maybe = np.flatnonzero(f.maybe(*hits) & ~f.surely(*hits) & mine)
    ts_ns = analysis.stimuli.ts_ns[f.stimulus]
    order = [*sure[_by_time(ts_ns[sure])], *maybe[_by_time(ts_ns[maybe])]]
    if nth > len(order):
        raise UsageError(_too_few(f, mine, kind, nth, policy, len(order)))
    surely = "" if nth <= len(sure) else ", which may be one"
    return Picked(
        int(order[nth - 1]),
        f"--hit {kind}, number {nth:,} of {len(order):,} under {policy}{surely}",
    )


def _by_time(ts_ns: Array) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = np.argsort(ts_ns, kind="stable")
    return order


def _too_few(
    f: Findings, mine: Array, kind: str, nth: int, policy: str, count: int
) -> str:
    if count:
        return f"--nth {nth}: only {count:,} may be {kind} under {policy}"
    there = {hit.label: n for hit in Hit if (n := int((f.maybe(hit) & mine).sum())) > 0}
    if not there:
        return f"--hit {kind}: nothing was posted that the trace tells of"
    listed = ", ".join(f"{label} ({n:,})" for label, n in there.items())
    return f"--hit {kind}: no post under {policy}; there are {listed}"


def at_instant(
    analysis: Analysis, ts_ns: int, chosen: npt.NDArray[np.bool_], asked: str
) -> Picked:
    """The post nearest to an instant, or that whose window holds it.

    A post that only probes betray lies somewhere in its window.

    Raises UsageError, naming the nearest ones, where none is within NEAR_NS.
    """
    f = next(iter(analysis.results.values())).findings
    stimuli, windows = analysis.stimuli, analysis.timeline.windows
    mine = np.flatnonzero(chosen[stimuli.vcpu[f.stimulus]])
    if not len(mine):
        raise UsageError(
            f"--at {asked}: nothing was posted to these vCPUs that the trace tells of"
        )
    at = f.stimulus[mine]
    start_ns = stimuli.ts_ns[at]
    end_ns = start_ns.copy()
    hidden = (stimuli.post[at] < 0) & (f.window[mine] >= 0)
    end_ns[hidden] = windows.load_ns[f.window[mine[hidden]]]
    away_ns = np.maximum(np.maximum(start_ns - ts_ns, ts_ns - end_ns), 0)
    # of several windows that hold it, the shortest says most
    best = int(np.lexsort((end_ns - start_ns, away_ns))[0])
    if away_ns[best] > NEAR_NS:
        raise UsageError(
            f"--at {asked}: nothing posted within {duration_text(NEAR_NS)};"
            f" {_nearest(analysis, at, start_ns, end_ns, ts_ns)}"
        )
    return Picked(int(mine[best]), f"--at {asked}")


def _nearest(
    analysis: Analysis, at: Array, start_ns: Array, end_ns: Array, ts_ns: int
) -> str:
    from piscope.explain.words import offset_text

    def named(i: int, instant_ns: int) -> str:
        label = analysis.timeline.vcpus.rows[int(analysis.stimuli.vcpu[at[i]])].label
        seconds = f"{instant_ns // 10**9}.{instant_ns % 10**9:09d}"
        if analysis.events.info.ts_unit != "ns":
            seconds = str(instant_ns)
        return f"{seconds} to {label} ({offset_text(instant_ns - ts_ns)})"

    words = []
    before, behind = np.flatnonzero(end_ns < ts_ns), np.flatnonzero(start_ns > ts_ns)
    if len(before):
        i = int(before[np.argmax(end_ns[before])])
        words.append(named(i, int(end_ns[i])))
    if len(behind):
        i = int(behind[np.argmin(start_ns[behind])])
        words.append(named(i, int(start_ns[i])))
    return f"the nearest: {', '.join(words)}"
