"""Which notification is meant: at an instant, by its row of FINDINGS, or the n-th of
a kind.

Each way to choose goes through the parts of an analysis, in order, and says afterwards
which of them has the finding as its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.outcomes import Findings, Hit
from piscope.pipeline import Analysis, Part
from piscope.report.render_words import duration_text
from piscope.report.selection import Selection
from piscope.sources.raw import Array

__all__ = (
    "HIT_GROUPS",
    "NEAR_NS",
    "AtInstant",
    "ByRow",
    "NthOfKind",
    "Picked",
    "Picker",
    "own_findings",
)

NEAR_NS = 1_000_000
"""How far from the instant that is asked for a post may be."""

HIT_GROUPS: dict[str, tuple[Hit, ...]] = {
    "unloaded": (Hit.UNLOADED_HOST, Hit.WRONG_VCPU),
    "residual": (Hit.HOST,),
} | {hit.label: (hit,) for hit in Hit}
"""What `--hit` takes: the words of outcomes.Hit, and two sums of the report."""


@dataclass(frozen=True, slots=True)
class Picked:
    """One finding, and how it was found.

    index  within each policy's findings of its part
    part   the part's number, from 0
    """

    index: int
    found_by: str
    part: int = 0


class Picker(Protocol):
    """A way to choose a finding."""

    def add(self, part: Part) -> None:
        """Look at the next part. Raises UsageError for vCPUs that there are not."""

    def picked(self) -> Picked:
        """The finding that is meant. Raises UsageError where there is none."""


def own_findings(part: Part) -> npt.NDArray[np.bool_]:
    """bool[findings]: of any policy, those that are the part's own."""
    analysis, timeline = part.analysis, part.analysis.timeline
    own = part.own.stimuli(analysis.stimuli, timeline.posts, timeline.windows)
    result: npt.NDArray[np.bool_] = own[_findings(analysis).stimulus]
    return result


def _findings(analysis: Analysis) -> Findings:
    """Those of the first policy; all have the same stimuli."""
    return next(iter(analysis.results.values())).findings


class ByRow:
    """The finding in that row of FINDINGS as `piscope report` writes it.

    Without a policy, rows count over all of them, one policy behind the other; so they
    do in each part of a long trace.
    """

    def __init__(self, row: int, policy: str | None) -> None:
        self._row, self._policy = row, policy
        self._parts = self._rows = 0
        self._picked: Picked | None = None

    def add(self, part: Part) -> None:
        """Look at the next part."""
        own = np.flatnonzero(own_findings(part))
        names = [self._policy] if self._policy else list(part.analysis.results)
        row = self._row - self._rows
        if 0 <= row < len(names) * len(own):
            which, place = divmod(row, len(own))
            found_by = f"--finding {self._row}"
            found_by += (
                f" of {names[which]}" if self._policy else f", of {names[which]}"
            )
            self._picked = Picked(int(own[place]), found_by, self._parts)
        self._parts += 1
        self._rows += len(names) * len(own)

    def picked(self) -> Picked:
        """The finding. Raises UsageError for a row that there is not."""
        if self._picked is None:
            asked = f"--finding {self._row}"
            asked += f" of {self._policy}" if self._policy else ""
            raise UsageError(f"{asked}: {_there_are(self._rows)}")
        return self._picked


def _there_are(count: int) -> str:
    if not count:
        return "FINDINGS has no row: nothing was posted that the trace tells of"
    return f"FINDINGS has rows 0 to {count - 1}"


class NthOfKind:
    """The n-th (from 1) finding with that outcome under a policy, by time.

    Those that surely have it come first, then those that may.
    """

    def __init__(self, kind: str, nth: int, policy: str, selection: Selection) -> None:
        self._kind, self._nth, self._policy = kind, nth, policy
        self._selection = selection
        self._parts = self._sure = self._maybe = 0
        self._first_sure = self._first_maybe = np.empty((0, 3), np.int64)
        self._there: Counter[str] = Counter()

    def add(self, part: Part) -> None:
        """Look at the next part. Raises UsageError for vCPUs that there are not."""
        analysis, stimuli = part.analysis, part.analysis.stimuli
        f = analysis.results[self._policy].findings
        hits = HIT_GROUPS[self._kind]
        chosen = self._selection.of_vcpus(analysis.timeline.vcpus)
        mine = own_findings(part) & chosen[stimuli.vcpu[f.stimulus]]
        sure, maybe = f.surely(*hits) & mine, f.maybe(*hits) & mine
        ts_ns = stimuli.ts_ns[f.stimulus]
        for hit in Hit:
            self._there[hit.label] += int((f.maybe(hit) & mine).sum())
        self._first_sure = self._earliest(self._first_sure, ts_ns, sure)
        self._first_maybe = self._earliest(self._first_maybe, ts_ns, maybe & ~sure)
        self._sure += int(sure.sum())
        self._maybe += int((maybe & ~sure).sum())
        self._parts += 1

    def _earliest(self, known: Array, ts_ns: Array, which: Array) -> Array:
        """int64[n, 3]: instant, part and index of the first that may be asked for."""
        at = np.flatnonzero(which)
        part = np.full(len(at), self._parts)
        every = np.concatenate([known, np.stack([ts_ns[at], part, at], axis=1)])
        result: Array = every[np.argsort(every[:, 0], kind="stable")[: self._nth]]
        return result

    def picked(self) -> Picked:
        """The finding. Raises UsageError where there are fewer."""
        count, nth = self._sure + self._maybe, self._nth
        if nth > count:
            raise UsageError(self._too_few(count))
        surely = "" if nth <= self._sure else ", which may be one"
        if nth <= self._sure:
            found = self._first_sure[nth - 1]
        else:
            found = self._first_maybe[nth - self._sure - 1]
        return Picked(
            int(found[2]),
            f"--hit {self._kind}, number {nth:,} of {count:,} under {self._policy}"
            f"{surely}",
            int(found[1]),
        )

    def _too_few(self, count: int) -> str:
        kind, policy = self._kind, self._policy
        if count:
            return f"--nth {self._nth}: only {count:,} may be {kind} under {policy}"
        there = {label: n for label, n in self._there.items() if n}
        if not there:
            return f"--hit {kind}: nothing was posted that the trace tells of"
        listed = ", ".join(f"{label} ({n:,})" for label, n in there.items())
        return f"--hit {kind}: no post under {policy}; there are {listed}"


@dataclass(frozen=True, slots=True)
class _Placed:
    """A finding and how good it is: the least of `order` is best."""

    order: tuple[int, int]
    index: int
    part: int


class AtInstant:
    """The post nearest to an instant, or that whose window holds it.

    A post that only probes betray lies somewhere in its window.
    """

    def __init__(self, ts_ns: int, selection: Selection, asked: str) -> None:
        self._ts_ns, self._selection, self._asked = ts_ns, selection, asked
        self._parts = 0
        self._best: _Placed | None = None
        self._before: tuple[int, str] | None = None
        self._behind: tuple[int, str] | None = None

    def add(self, part: Part) -> None:
        """Look at the next part. Raises UsageError for vCPUs that there are not."""
        analysis = part.analysis
        f, stimuli = _findings(analysis), analysis.stimuli
        chosen = self._selection.of_vcpus(analysis.timeline.vcpus)
        mine = np.flatnonzero(own_findings(part) & chosen[stimuli.vcpu[f.stimulus]])
        if len(mine):
            self._look(analysis, f, mine)
        self._parts += 1

    def _look(self, analysis: Analysis, f: Findings, mine: Array) -> None:
        stimuli, ts_ns = analysis.stimuli, self._ts_ns
        at = f.stimulus[mine]
        start_ns = stimuli.ts_ns[at]
        end_ns = start_ns.copy()
        hidden = (stimuli.post[at] < 0) & (f.window[mine] >= 0)
        end_ns[hidden] = analysis.timeline.windows.load_ns[f.window[mine[hidden]]]
        away_ns = np.maximum(np.maximum(start_ns - ts_ns, ts_ns - end_ns), 0)
        # of several windows that hold it, the shortest says most
        i = int(np.lexsort((end_ns - start_ns, away_ns))[0])
        order = int(away_ns[i]), int(end_ns[i] - start_ns[i])
        if self._best is None or order < self._best.order:
            self._best = _Placed(order, int(mine[i]), self._parts)

        def named(i: int, instant_ns: int) -> str:
            return _named(analysis, int(stimuli.vcpu[at[i]]), instant_ns, ts_ns)

        before, behind = (
            np.flatnonzero(end_ns < ts_ns),
            np.flatnonzero(start_ns > ts_ns),
        )
        if len(before):
            i = int(before[np.argmax(end_ns[before])])
            instant_ns = int(end_ns[i])
            if self._before is None or instant_ns > self._before[0]:
                self._before = instant_ns, named(i, instant_ns)
        if len(behind):
            i = int(behind[np.argmin(start_ns[behind])])
            instant_ns = int(start_ns[i])
            if self._behind is None or instant_ns < self._behind[0]:
                self._behind = instant_ns, named(i, instant_ns)

    def picked(self) -> Picked:
        """The finding.

        Raises UsageError, naming the nearest ones, where none is within NEAR_NS.
        """
        if self._best is None:
            raise UsageError(
                f"--at {self._asked}: nothing was posted to these vCPUs that the trace"
                " tells of"
            )
        if self._best.order[0] > NEAR_NS:
            near = [
                side[1] for side in (self._before, self._behind) if side is not None
            ]
            raise UsageError(
                f"--at {self._asked}: nothing posted within {duration_text(NEAR_NS)};"
                f" the nearest: {', '.join(near)}"
            )
        return Picked(self._best.index, f"--at {self._asked}", self._best.part)


def _named(analysis: Analysis, vcpu: int, instant_ns: int, ts_ns: int) -> str:
    from piscope.explain.words import offset_text

    label = analysis.timeline.vcpus.rows[vcpu].label
    seconds = f"{instant_ns // 10**9}.{instant_ns % 10**9:09d}"
    if analysis.events.info.ts_unit != "ns":
        seconds = str(instant_ns)
    return f"{seconds} to {label} ({offset_text(instant_ns - ts_ns)})"
