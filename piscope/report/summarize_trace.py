"""What was analyzed, and what it lost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from piscope.parts import Own
from piscope.report.own_part import ChosenPart
from piscope.report.summary import LossLine, TraceSummary
from piscope.sources.raw import Loss
from piscope.tables import Events

__all__ = ("TraceTally", "summarize_losses")


class TraceTally:
    """The trace as each part knows it, and the events and pCPUs of all parts."""

    def __init__(self) -> None:
        self._trace: TraceSummary | None = None
        self._cpus: set[int] = set()
        self._used = 0

    def add(self, part: ChosenPart) -> None:
        """Add a part's own events."""
        analysis, own = part.analysis, part.own
        events, timeline = analysis.events, analysis.timeline
        self._cpus.update(_cpus(events, own))
        self._used += own.end - own.begin
        info = events.info
        vms = {row.vm for row in timeline.vcpus.rows}
        begin_ns, end_ns = timeline.span_ns
        self._trace = TraceSummary(
            path=info.path,
            format=info.format,
            kernel_release=info.kernel_release,
            clock=info.clock,
            ts_resolution_ns=info.ts_resolution_ns,
            start_ns=begin_ns,
            end_ns=end_ns,
            duration_ns=end_ns - begin_ns,
            cpus=sorted(self._cpus),
            host_cpus=info.host_cpus,
            vms=None if None in vms else len(vms),
            events=sum(events.counts.values()),
            events_used=self._used,
            losses=summarize_losses(events.losses),
            captured_policy=analysis.captured.policy,
            captured_policy_by=analysis.captured.by,
            captured_policy_evidence=analysis.captured.evidence,
            posting_by_hardware=analysis.posting_by_hardware,
            probes=list(timeline.probes),
            notes=list(info.notes),
        )

    def finish(self) -> TraceSummary:
        """The trace. Raises ValueError where no part was added."""
        if self._trace is None:
            raise ValueError("a summary needs at least one part")
        return self._trace


def _cpus(events: Events, own: Own) -> list[int]:
    """The pCPUs that traced an own event."""
    if own.is_whole:
        return events.cpus
    cpus: list[int] = np.unique(events.cpu[own.begin : own.end]).tolist()
    return cpus


def summarize_losses(losses: Iterable[Loss]) -> list[LossLine]:
    """One line for each cause of loss, in the order of their first rows."""
    by_cause: dict[str, list[Loss]] = {}
    for loss in losses:
        by_cause.setdefault(loss.cause, []).append(loss)
    return [
        LossLine(
            cause=cause,
            times=len(rows),
            events=(
                None
                if any(r.count is None for r in rows)
                else sum(r.count or 0 for r in rows)
            ),
            cpus=sorted({r.cpu for r in rows if r.cpu is not None}),
            detail=rows[0].detail,
        )
        for cause, rows in by_cause.items()
    ]
