"""An analysis made into the summary: counted, grouped, and said what it can't tell."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from piscope import __version__
from piscope.report.analyzed import Analyzed
from piscope.report.gaps import cannot_tell
from piscope.report.selection import Selection
from piscope.report.summarize_handlers import summarize_handlers
from piscope.report.summarize_observed import summarize_observed
from piscope.report.summarize_policy import summarize_policy
from piscope.report.summarize_question import summarize_question
from piscope.report.summarize_removed import summarize_removed
from piscope.report.summary import (
    SCHEMA_VERSION,
    LossLine,
    Summary,
    TraceSummary,
    VcpuSummary,
)
from piscope.sources.raw import Loss
from piscope.tables import Kind, PutReason, Timeline

__all__ = ("summarize", "summarize_losses")

_ENTER = 4  # timeline.lifecycle.Act.ENTER, a bit of ACTS.act


def summarize(analysis: Analyzed, selection: Selection | None = None) -> Summary:
    """Count everything that a report says, once.

    Raises UsageError where the selection names what the trace does not hold.
    """
    selection = selection or Selection()
    timeline = analysis.timeline
    chosen = selection.of_vcpus(timeline.vcpus)
    policies = {
        name: summarize_policy(analysis, result, chosen, selection)
        for name, result in analysis.results.items()
    }
    summary = Summary(
        schema_version=SCHEMA_VERSION,
        piscope_version=__version__,
        trace=_trace(analysis),
        question=summarize_question(analysis, chosen),
        vcpus=_vcpus(timeline, chosen),
        policies=policies,
        removed=summarize_removed(analysis, chosen, selection),
        narrowed=selection.as_text(),
        handlers=summarize_handlers(analysis, chosen, selection),
        observed=summarize_observed(analysis),
    )
    summary.cannot_tell = cannot_tell(summary, analysis.events, timeline)
    return summary


def _trace(analysis: Analyzed) -> TraceSummary:
    events, timeline = analysis.events, analysis.timeline
    info = events.info
    vms = {row.vm for row in timeline.vcpus.rows}
    begin_ns, end_ns = timeline.span_ns
    return TraceSummary(
        path=info.path,
        format=info.format,
        kernel_release=info.kernel_release,
        clock=info.clock,
        ts_resolution_ns=info.ts_resolution_ns,
        start_ns=begin_ns,
        end_ns=end_ns,
        duration_ns=end_ns - begin_ns,
        cpus=events.cpus,
        host_cpus=info.host_cpus,
        vms=None if None in vms else len(vms),
        events=sum(events.counts.values()),
        events_used=len(events),
        losses=summarize_losses(events.losses),
        captured_policy=analysis.captured.policy,
        captured_policy_by=analysis.captured.by,
        captured_policy_evidence=analysis.captured.evidence,
        posting_by_hardware=analysis.posting_by_hardware,
        probes=list(timeline.probes),
        notes=list(info.notes),
    )


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


def _vcpus(timeline: Timeline, chosen: npt.NDArray[np.bool_]) -> list[VcpuSummary]:
    i, w, acts = timeline.intervals, timeline.windows, timeline.acts
    n = len(timeline.vcpus)
    time_ns = np.zeros((n, len(Kind)), np.int64)
    for vcpu, own in enumerate(_runs(i.vcpu, n)):
        # float64 holds whole ns up to 104 days
        length = (i.end_ns[own] - i.start_ns[own]).astype(np.float64)
        time_ns[vcpu] = np.bincount(i.kind[own], length, minlength=len(Kind))
    puts = np.bincount(
        w.vcpu * len(PutReason) + w.reason, minlength=n * len(PutReason)
    ).reshape(n, -1)
    unsure = np.bincount(w.vcpu[~w.certain], minlength=n)
    entries = [
        int(np.count_nonzero(acts.act[own] & _ENTER)) for own in _runs(acts.vcpu, n)
    ]
    return [
        VcpuSummary(
            label=row.label,
            vm=row.vm,
            vcpu_id=row.vcpu_id,
            tid=row.tid,
            tgid=row.tgid,
            comm=row.comm,
            evidence=row.evidence,
            time_ns={k.label: int(time_ns[row.vcpu, k]) for k in Kind},
            puts={
                r.label: int(puts[row.vcpu, r]) for r in PutReason if puts[row.vcpu, r]
            },
            entries=entries[row.vcpu],
            uncertain_puts=int(unsure[row.vcpu]),
        )
        for row in timeline.vcpus.rows
        if chosen[row.vcpu]
    ]


def _runs(vcpu: npt.NDArray[np.int32], vcpus: int) -> list[slice]:
    """Each vCPU's rows of a table that holds vCPU after vCPU."""
    ends = np.searchsorted(vcpu, np.arange(vcpus + 1)).tolist()
    return [slice(*pair) for pair in pairwise(ends)]
