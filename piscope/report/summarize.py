"""An analysis made into the summary: counted, grouped, and said what it can't tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from piscope import __version__
from piscope.outcomes import Hit, PolicyResult
from piscope.report.gaps import cannot_tell
from piscope.report.selection import Selection
from piscope.report.summary import (
    SCHEMA_VERSION,
    Bounds,
    Exposed,
    Group,
    LossLine,
    PolicySummary,
    Question,
    Removed,
    Summary,
    TraceSummary,
    VcpuSummary,
    WindowLine,
)
from piscope.sources.raw import Array, Loss
from piscope.tables import Acts, Events, Kind, PutReason, Timeline

__all__ = ("Analyzed", "summarize")

_UNLOADED = (Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
_ENTER = 4  # timeline.lifecycle.Act.ENTER, a bit of ACTS.act
# Windows of one kind that are listed; the rest is in the totals.
_LINES = 10


class _Captured(Protocol):
    policy: str | None
    by: str
    evidence: str


class _Stimuli(Protocol):
    vcpu: npt.NDArray[np.int32]
    post: npt.NDArray[np.int64]
    letter: npt.NDArray[np.uint8]


class Analyzed(Protocol):
    """What is read of pipeline.Analysis."""

    events: Events
    timeline: Timeline
    posted: str
    posting_by_hardware: bool | None

    @property
    def stimuli(self) -> _Stimuli: ...  # noqa: D102
    @property
    def captured(self) -> _Captured: ...  # noqa: D102
    @property
    def results(self) -> Mapping[str, PolicyResult]: ...  # noqa: D102


def summarize(analysis: Analyzed, selection: Selection | None = None) -> Summary:
    """Count everything that a report says, once.

    Raises UsageError where the selection names what the trace does not hold.
    """
    selection = selection or Selection()
    timeline = analysis.timeline
    chosen = selection.of_vcpus(timeline.vcpus)
    policies = {
        name: _policy(analysis, result, chosen, selection)
        for name, result in analysis.results.items()
    }
    summary = Summary(
        schema_version=SCHEMA_VERSION,
        piscope_version=__version__,
        trace=_trace(analysis),
        question=_question(analysis, chosen),
        vcpus=_vcpus(timeline, chosen),
        policies=policies,
        removed=_removed(analysis, chosen, selection),
        narrowed=selection.as_text(),
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
        cpus=sorted(int(c) for c in np.unique(events.cpu)),
        host_cpus=info.host_cpus,
        vms=None if None in vms else len(vms),
        events=sum(events.counts.values()),
        events_used=len(events),
        losses=_losses(events.losses),
        captured_policy=analysis.captured.policy,
        captured_policy_by=analysis.captured.by,
        captured_policy_evidence=analysis.captured.evidence,
        posting_by_hardware=analysis.posting_by_hardware,
        probes=list(timeline.probes),
        notes=list(info.notes),
    )


def _losses(losses: Iterable[Loss]) -> list[LossLine]:
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


def _question(analysis: Analyzed, chosen: npt.NDArray[np.bool_]) -> Question:
    stimuli, posts = analysis.stimuli, analysis.timeline.posts
    mine = chosen[stimuli.vcpu] if len(stimuli.vcpu) else np.zeros(0, np.bool_)
    traced = mine & (stimuli.post >= 0)
    real = posts.posted & (posts.vcpu >= 0)
    real[real] &= chosen[posts.vcpu[real]]
    as_hardware = int((real & posts.unicast).sum()) if analysis.posted == "msi" else 0
    as_software = int(traced.sum()) - as_hardware
    hidden = mine & (stimuli.post < 0) & (stimuli.letter == _POST_HW)
    from_windows = int(hidden.sum())
    return Question(
        posted=analysis.posted,
        as_hardware=as_hardware,
        as_software=as_software,
        from_windows=from_windows,
        not_posted=int((~posts.posted).sum()),
        no_target=int((posts.posted & (posts.vcpu < 0)).sum()),
        text=_question_text(analysis.posted, as_hardware, as_software, from_windows),
    )


_POST_HW = 8  # model.letters.Letter.POST_HW, as in STIMULI.letter


def _question_text(
    posted: str, as_hardware: int, as_software: int, from_windows: int
) -> str:
    known = []
    if as_hardware:
        known.append(f"{as_hardware:,} MSIs replayed as posted by a device")
    if as_software:
        known.append(f"{as_software:,} posts by KVM replayed as such")
    if from_windows:
        known.append(f"{from_windows:,} posts by hardware that the probes betray")
    what = (
        "What if a device posted each MSI itself?"
        if posted == "msi" and as_hardware
        else "What became of the notifications?"
    )
    return f"{what} {'; '.join(known) if known else 'No post is visible.'}"


def _vcpus(timeline: Timeline, chosen: npt.NDArray[np.bool_]) -> list[VcpuSummary]:
    i, w, acts = timeline.intervals, timeline.windows, timeline.acts
    n = len(timeline.vcpus)
    length = (i.end_ns - i.start_ns).astype(np.float64)
    time_ns = np.zeros((n, len(Kind)), np.int64)
    for kind in Kind:
        which = i.kind == kind
        # float64 holds whole ns up to 104 days
        time_ns[:, kind] = np.bincount(i.vcpu[which], length[which], minlength=n)
    puts = np.zeros((n, len(PutReason)), np.int64)
    np.add.at(puts, (w.vcpu, w.reason), 1)
    unsure = np.bincount(w.vcpu[~w.certain], minlength=n)
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
            entries=_entries(acts, row.vcpu),
            uncertain_puts=int(unsure[row.vcpu]),
        )
        for row in timeline.vcpus.rows
        if chosen[row.vcpu]
    ]


def _entries(acts: Acts, vcpu: int) -> int:
    return int(((acts.vcpu == vcpu) & (acts.act & _ENTER != 0)).sum())


def _policy(
    analysis: Analyzed,
    result: PolicyResult,
    chosen: npt.NDArray[np.bool_],
    selection: Selection,
) -> PolicySummary:
    timeline, stimuli = analysis.timeline, analysis.stimuli
    f, w = result.findings, timeline.windows
    mine = chosen[stimuli.vcpu[f.stimulus]] & (
        selection.of_cpus(f.cpu) | (selection.cpus is None)
    )
    win = chosen[w.vcpu] & selection.of_cpus(w.put_cpu)
    vcpu_mask = chosen & (selection.cpus is None or not timeline.userspace_visible)

    def count(*hits: Hit, where: Array | None = None) -> Bounds:
        which = mine if where is None else mine & where
        return Bounds(
            int((f.surely(*hits) & which).sum()), int((f.maybe(*hits) & which).sum())
        )

    unloaded, wrong = count(*_UNLOADED), count(Hit.WRONG_VCPU)
    r = result.residual
    res = chosen[r.vcpu] & selection.of_cpus(r.cpu)
    observed = Bounds(int((r.surely & res).sum()), int((r.seen & res).sum()))
    residual = count(Hit.HOST) + observed
    unseen = int((result.exposure.unseen & win).sum())
    unseen += int(result.exposure.invisible[vcpu_mask].sum())
    unseen_wrong = int((result.exposure.unseen_wrong & win).sum())
    if result.exposure.invisible.any():
        unseen_wrong += int(result.exposure.invisible[vcpu_mask].sum())
    unseen_residual = int((~r.seen & res).sum())
    # Each event that was lost nobody knows where may hide a window, or fake one; only
    # a policy that leaves some window open can have sent anything into it.
    slack = timeline.unplaced_losses
    open_slack = slack if unloaded.max + unseen else 0
    reason = w.reason[np.maximum(f.window, 0)] if len(w) else f.kind

    return PolicySummary(
        name=result.policy,
        title=result.title,
        unloaded_notifications=_widened(unloaded, unseen, open_slack),
        residual_notifications=_widened(residual, unseen_residual, slack),
        wrong_vcpu=_widened(wrong, unseen_wrong, open_slack),
        wrong_vcpu_if_evenly_spread=round(
            float(f.wrong_share[f.maybe(*_UNLOADED) & mine].sum()), 1
        ),
        known={
            "unloaded_notifications": unloaded,
            "residual_notifications": residual,
            "wrong_vcpu": wrong,
        },
        outcomes={hit.label: count(hit) for hit in Hit},
        unloaded_by_reason=_grouped(
            lambda m: count(*_UNLOADED, where=m),
            {p.label: (reason == p) & (f.window >= 0) for p in PutReason},
        ),
        residual_by_state=_grouped(
            lambda m: count(Hit.HOST, where=m),
            {k.label: f.kind == k for k in Kind},
        )
        | ({"before-put": observed} if observed.max else {}),
        residual_by_exit_reason=_grouped(
            lambda m: count(Hit.HOST, where=m),
            {
                str(code): f.reason == code
                for code in np.unique(f.reason).tolist()
                if code >= 0
            },
        ),
        exposure=_exposed(result, w.load_ns - w.put_ns, win),
        exposure_by_reason={
            p.label: _exposed(result, w.load_ns - w.put_ns, win & (w.reason == p))
            for p in PutReason
            if (result.exposure.maybe & win & (w.reason == p)).any()
        },
        exposure_by_vcpu={
            row.label: _exposed(
                result, w.load_ns - w.put_ns, win & (w.vcpu == row.vcpu)
            )
            for row in timeline.vcpus.rows
            if chosen[row.vcpu]
        },
        costs={
            name: Bounds(*(int(x) for x in getattr(result.costs, name)[chosen].sum(0)))
            for name in ("pir_scans", "locked_ops", "list_locks")
        },
        contradictions=result.contradictions,
    )


def _widened(known: Bounds, unseen: int, slack: int) -> Bounds:
    return Bounds(max(known.min - slack, 0), known.max + unseen + slack)


def _grouped(
    count: Callable[[Array], Bounds], masks: Mapping[str, Array]
) -> dict[str, Bounds]:
    groups = {name: count(mask) for name, mask in masks.items()}
    return {name: bounds for name, bounds in groups.items() if bounds.max}


def _exposed(
    result: PolicyResult, length_ns: Array, which: npt.NDArray[np.bool_]
) -> Exposed:
    surely, maybe = result.exposure.exposed & which, result.exposure.maybe & which
    return Exposed(
        windows=Bounds(int(surely.sum()), int(maybe.sum())),
        duration_ns=Bounds(int(length_ns[surely].sum()), int(length_ns[maybe].sum())),
        longest_ns=int(length_ns[maybe].max(initial=0)),
    )


def _removed(
    analysis: Analyzed, chosen: npt.NDArray[np.bool_], selection: Selection
) -> Removed | None:
    """What the last of the policies no longer sends that the first one sent."""
    names = list(analysis.results)
    if len(names) != 2:
        return None
    before, after = (analysis.results[n].findings for n in names)
    timeline, w = analysis.timeline, analysis.timeline.windows
    mine = chosen[analysis.stimuli.vcpu[before.stimulus]]
    mine &= selection.of_cpus(before.cpu)

    def bounds(*hits: Hit, where: Array) -> Bounds:
        surely = before.surely(*hits) & ~after.maybe(*hits)
        maybe = before.maybe(*hits) & ~after.surely(*hits)
        return Bounds(int((surely & where).sum()), int((maybe & where).sum()))

    def groups(keys: Array, name: Callable[[int], str]) -> list[Group]:
        gone = mine & before.maybe(*_UNLOADED)
        found = [
            Group(name(key), bounds(*_UNLOADED, where=mine & (keys == key)))
            for key in np.unique(keys[gone]).tolist()
        ]
        return sorted(
            (g for g in found if g.removed.max), key=lambda g: (-g.removed.max, g.name)
        )

    rows = timeline.vcpus.rows
    vcpu = analysis.stimuli.vcpu[before.stimulus]
    vm = np.array([-1 if r.vm is None else r.vm for r in rows], np.int64)[vcpu]
    at = np.maximum(before.window, 0)
    reason = w.reason[at] if len(w) else before.kind
    return Removed(
        before=names[0],
        after=names[1],
        total=bounds(*_UNLOADED, where=mine),
        host_irqs=bounds(Hit.UNLOADED_HOST, where=mine),
        by_vm=groups(vm, lambda v: f"vm{v}" if v >= 0 else "unknown VM"),
        by_vcpu=groups(vcpu, lambda v: rows[v].label),
        by_reason=groups(reason, lambda p: PutReason(p).label),
        by_cpu=groups(before.cpu, lambda c: f"cpu{c}"),
        windows=_window_lines(analysis, chosen, selection, mine, bounds),
    )


def _window_lines(
    analysis: Analyzed,
    chosen: npt.NDArray[np.bool_],
    selection: Selection,
    mine: npt.NDArray[np.bool_],
    bounds: Callable[..., Bounds],
) -> list[WindowLine]:
    """The kinds of window that the first policy leaves open and the last does not."""
    timeline, w = analysis.timeline, analysis.timeline.windows
    first, last = (analysis.results[n] for n in analysis.results)
    closed = first.exposure.maybe & ~last.exposure.exposed
    closed &= chosen[w.vcpu] & selection.of_cpus(w.put_cpu)
    f = first.findings
    at = np.maximum(f.window, 0)
    length = w.load_ns - w.put_ns
    lines = []
    key = (w.vcpu.astype(np.int64) << 32) | (w.reason.astype(np.int64) << 24)
    key |= w.put_cpu.astype(np.int64)
    for value in np.unique(key[closed]).tolist():
        kind = closed & (key == value)
        same = (f.window >= 0) & (key[at] == value)
        lines.append(
            WindowLine(
                vcpu=timeline.vcpus.rows[value >> 32].label,
                reason=PutReason((value >> 24) & 0xFF).label,
                cpu=int(value & 0xFFFFFF),
                windows=int(kind.sum()),
                removed=bounds(*_UNLOADED, where=mine & same),
                longest_ns=int(length[kind].max()),
                total_ns=int(length[kind].sum()),
            )
        )
    lines.sort(key=lambda x: (-x.removed.max, -x.windows, -x.total_ns))
    return lines[:_LINES]
