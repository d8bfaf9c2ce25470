"""What the kernel counted, beside what the replay predicts, and the rate behind it.

PIN counts vector 0xF2 in the host, that is what the replay calls a notification that
is taken as an IRQ; PIW counts 0xF1. Both are held against the captured kernel's policy
and its own posts: KVM's stay KVM's, whatever `--posted` asks. The estimate then lets
posts of unknown instants stand for what hardware made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from piscope.interrupts import COUNTERS, Counts, counted_between
from piscope.model.letters import Letter
from piscope.model.policy import Platform
from piscope.outcomes import Findings, Hit
from piscope.pipeline import Analysis
from piscope.rates_pipeline import arrivals_at, openings_of, walked_again
from piscope.replay.arrivals import Arrivals
from piscope.replay.estimate import Estimate, Prediction, estimate, predict
from piscope.replay.exposure import expose
from piscope.replay.findings import Replayed, find
from piscope.replay.hidden_posts import WindowPosts
from piscope.replay.met import what_posts_met
from piscope.replay.openings import Openings
from piscope.replay.rates import IN_HOST
from piscope.replay.stimuli import build_stimuli
from piscope.report.rates_report import (
    Counters,
    CountersInterval,
    CountersLine,
    PredictedCount,
    RateEstimate,
)
from piscope.report.selection import Selection

__all__ = ("Snapshot", "counters_of")

Snapshot = tuple[int | None, Counts]
"""(instant on the trace's clock, or None; the counts)."""

Bools = npt.NDArray[np.bool_]


def counters_of(
    analysis: Analysis,
    snapshots: Sequence[Snapshot],
    selection: Selection,
    *,
    source: str,
    path: str,
    senders: Sequence[str] = (),
) -> Counters:
    """Compare two snapshots or more, in order, with the replay; estimate the rate.

    `source` is "files" or "trace", `path` names them in errors. The selection's vCPUs
    are those taken to receive the unseen posts, its pCPUs those that are looked at.

    Raises TraceFormatError where a counter falls from one snapshot to the next.
    """
    spans, grown = [], []
    for (start_ns, before), (end_ns, after) in pairwise(snapshots):
        spans.append((start_ns, end_ns))
        grown.append(counted_between([before, after], path).growth)
    result = Counters(
        source=source,
        policy=analysis.captured.policy,
        intervals=[
            CountersInterval(
                start_ns=start_ns, end_ns=end_ns, lines=_lines(growth, selection)
            )
            for (start_ns, end_ns), growth in zip(spans, grown, strict=True)
        ],
        estimates=[],
        total={},
        senders=list(senders),
        notes=[],
    )
    if analysis.captured.policy is None:
        result.notes.append(
            "The captured kernel's policy is not known, so nothing is predicted."
        )
    elif analysis.walks:
        _Kernel(analysis, arrivals_at(analysis, senders)).judge(result, selection)
    return result


def _lines(
    growth: Mapping[str, Mapping[int, int]], selection: Selection
) -> list[CountersLine]:
    return [
        CountersLine(counter, cpu, count, None, None)
        for counter in COUNTERS
        for cpu, count in growth.get(counter, {}).items()
        if selection.cpus is None or cpu in selection.cpus
    ]


class _Kernel:
    """The captured kernel, replayed as it was."""

    def __init__(self, analysis: Analysis, arrivals: Arrivals) -> None:
        self.analysis, self.arrivals = analysis, arrivals
        assert analysis.captured.policy is not None
        self.policy = analysis.captured.policy
        self.platform = self._platform()
        self.stimuli = (
            analysis.stimuli
            if analysis.posted == "none"
            else build_stimuli(analysis.timeline, analysis.events, "none")
        )

    def _platform(self) -> Platform:
        some = next(iter(self.analysis.walks.values()))
        platform = some.automaton.table.platform
        if self.analysis.posting_by_hardware is False:
            return replace(platform, assigned_device=False, ipiv=False)
        return platform

    def judge(self, result: Counters, selection: Selection) -> None:
        """Predict each line, and estimate the rate from PIN."""
        analysis, timeline = self.analysis, self.analysis.timeline
        walked = walked_again(analysis, self.stimuli, self.policy, self.platform)
        met = what_posts_met(timeline, self.stimuli, analysis.occupancy)
        found = find(timeline, self.stimuli, walked, analysis.occupancy, met)
        by_hardware = analysis.posting_by_hardware is not False
        others = [name for name in analysis.walks if name != self.policy]
        openings = openings_of(
            analysis, self.stimuli, [self.policy, *others], self.arrivals, self.platform
        )
        mine = openings[self.policy]
        if not by_hardware:
            result.notes.append(
                "The probes show that nothing but KVM posted: no rate is estimated."
            )
        for interval in result.intervals:
            for line in interval.lines:
                start_ns, end_ns = interval.start_ns, interval.end_ns
                inside = _Inside(timeline.span_ns, start_ns, end_ns)
                if line.counter == "PIN":
                    line.min, line.max = self._pin(
                        line.cpu, found, mine, inside, by_hardware
                    )
                elif line.counter == "PIW":
                    line.min, line.max = self._piw(line.cpu, found, walked, inside)
        if _is_whole(result.intervals):
            self._residual(result, walked, found, met.windows)
        if by_hardware:
            self._estimate(result, openings, others, selection)

    def _pin(
        self,
        cpu: int,
        found: Findings,
        openings: Openings,
        inside: _Inside,
        by_hardware: bool,
    ) -> tuple[int, int | None]:
        ts_ns = self.stimuli.ts_ns[found.stimulus]
        here = (found.cpu == cpu) & inside.of(ts_ns)
        sure = here & found.surely(*IN_HOST) & (found.coalesced == 0) & found.certain
        least = int(sure.sum())
        if not by_hardware:
            return least, int((here & found.maybe(*IN_HOST)).sum())
        some = openings.maybe(*IN_HOST) & inside.of(openings.ts_ns)
        some &= (openings.cpu == cpu) | (openings.cpu < 0)
        if (some & openings.unknown).any():
            return least, None
        return least, len(np.unique(openings.epoch_most[some]))

    def _piw(
        self, cpu: int, found: Findings, walked: Replayed, inside: _Inside
    ) -> tuple[int, int | None]:
        ts_ns = self.stimuli.ts_ns[found.stimulus]
        here = (found.cpu == cpu) & inside.of(ts_ns)
        sure = here & found.surely(Hit.WAKEUP) & (found.coalesced == 0)
        least = int((sure & found.certain).sum())
        timeline = self.analysis.timeline
        if not walked.policy.block_in_put or len(timeline.blind):
            return least, None
        w = timeline.windows
        armed = np.zeros(len(w), np.bool_)
        put = (walked.letters >= Letter.PUT_RUN_PREEMPTED) & (
            walked.letters <= Letter.PUT_BLOCK_IF0_NOT
        )
        after = walked.walk.after[put]
        armed[self.stimuli.window[put]] = walked.automaton.nv_f1.max[after] > 0
        armed |= ~w.certain
        armed &= (w.put_cpu == cpu) & inside.of(w.put_ns)
        return least, int(armed.sum())

    def _residual(
        self, result: Counters, walked: Replayed, found: Findings, windows: WindowPosts
    ) -> None:
        """Posts to loaded vCPUs that probes betray at a put are proven, too."""
        analysis = self.analysis
        _, residual, _ = expose(
            analysis.timeline,
            self.stimuli,
            walked,
            found,
            analysis.occupancy,
            False,
            windows,
        )
        for line in result.intervals[0].lines:
            if line.counter == "PIN" and line.min is not None:
                line.min += int((residual.surely & (residual.cpu == line.cpu)).sum())

    def _estimate(
        self,
        result: Counters,
        openings: dict[str, Openings],
        others: Sequence[str],
        selection: Selection,
    ) -> None:
        timeline = self.analysis.timeline
        chosen = selection.of_vcpus(timeline.vcpus)
        counted: dict[int, int] = {}
        for interval in result.intervals:
            for line in interval.lines:
                if line.counter == "PIN":
                    counted[line.cpu] = counted.get(line.cpu, 0) + line.counted
        whole = _Inside(
            timeline.span_ns,
            result.intervals[0].start_ns,
            result.intervals[-1].end_ns,
        )

        def of(o: Openings, cpu: int) -> Bools:
            mask: Bools = chosen[o.vcpu] & (o.cpu == cpu) & whole.of(o.ts_ns)
            return mask

        mine = openings[self.policy]
        predicted: dict[str, list[Prediction]] = {name: [] for name in others}
        shared: list[int] = []
        for cpu, count in sorted(counted.items()):
            where = of(mine, cpu)
            if not (where & mine.maybe(*IN_HOST)).any():
                continue
            fitted = estimate(mine, IN_HOST, where, count)
            estimated = _estimate_line(cpu, fitted)
            if fitted.possible:
                for name in others:
                    o = openings[name]
                    one = predict(o, IN_HOST, of(o, cpu), fitted)
                    predicted[name].append(one)
                    estimated.predicted[name] = _count(one)
            else:
                result.notes.append(
                    f"cpu{cpu}: no rate gives a PIN of {count:,} under {self.policy}:"
                    " the trace has too few openings, or something else was counted."
                )
            result.estimates.append(estimated)
            if len(np.unique(mine.vcpu[where])) > 1:
                shared.append(cpu)
        if shared:
            names = ", ".join(f"cpu{cpu}" for cpu in shared)
            result.notes.append(
                f"{names}: several vCPUs notified it, and all are taken to receive"
                " posts at one rate; name those that do with --vcpu."
            )
        for name, found in predicted.items():
            if found:
                result.total[name] = _count(_sum(found))


def _is_whole(intervals: Sequence[CountersInterval]) -> bool:
    """Whether there is one interval, and it is that of the whole trace."""
    return len(intervals) == 1 and intervals[0].start_ns is None


class _Inside:
    """Which instants lie between two snapshots."""

    def __init__(
        self, span_ns: tuple[int, int], start_ns: int | None, end_ns: int | None
    ) -> None:
        self.start_ns = span_ns[0] if start_ns is None else start_ns
        self.end_ns = span_ns[1] + 1 if end_ns is None else end_ns

    def of(self, ts_ns: npt.NDArray[np.int64]) -> Bools:
        """bool[n]."""
        result: Bools = (ts_ns >= self.start_ns) & (ts_ns < self.end_ns)
        return result


def _estimate_line(cpu: int, fitted: Estimate) -> RateEstimate:
    least, most = fitted.rate_hz
    return RateEstimate(
        cpu=cpu,
        counted=fitted.counted,
        min_hz=_finite(least) if fitted.possible else None,
        max_hz=_finite(most) if fitted.possible else None,
        low_hz=_finite(fitted.low_hz) if fitted.possible else None,
        high_hz=_finite(fitted.high_hz) if fitted.possible else None,
        predicted={},
    )


def _finite(value: float) -> float | None:
    return _rounded(value) if np.isfinite(value) else None


def _rounded(value: float) -> float:
    return float(f"{value:.5g}") + 0.0


def _count(found: Prediction) -> PredictedCount:
    return PredictedCount(
        min=_rounded(found.least),
        max=_rounded(found.most),
        low=_rounded(found.low),
        high=_rounded(found.high),
    )


def _sum(found: Sequence[Prediction]) -> Prediction:
    """The sum of independent predictions: their spreads add as squares."""
    least, most = sum(p.least for p in found), sum(p.most for p in found)
    below = np.sqrt(sum((p.least - p.low) ** 2 for p in found))
    above = np.sqrt(sum((p.high - p.most) ** 2 for p in found))
    return Prediction(least, most, max(least - float(below), 0.0), most + float(above))
