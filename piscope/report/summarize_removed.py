"""What the second policy no longer sends, and where that was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.report.analyzed import UNLOADED, Analyzed, removed_by
from piscope.report.selection import Selection
from piscope.report.summary import Bounds, Group, Removed, WindowLine
from piscope.sources.raw import Array
from piscope.tables import PutReason

__all__ = ("summarize_removed",)

# Windows of one kind that are listed; the rest is in the totals.
_LINES = 10


def summarize_removed(
    analysis: Analyzed, chosen: npt.NDArray[np.bool_], selection: Selection
) -> Removed | None:
    """What the last of two policies no longer sends; None: not two were replayed."""
    names = list(analysis.results)
    if len(names) != 2:
        return None
    before, after = (analysis.results[n].findings for n in names)
    timeline, w = analysis.timeline, analysis.timeline.windows
    mine = chosen[analysis.stimuli.vcpu[before.stimulus]]
    mine &= selection.of_cpus(before.cpu)

    def bounds(*hits: Hit, where: Array) -> Bounds:
        surely, maybe = removed_by(before, after, *hits)
        return Bounds(int((surely & where).sum()), int((maybe & where).sum()))

    def groups(keys: Array, name: Callable[[int], str]) -> list[Group]:
        gone = mine & before.maybe(*UNLOADED)
        found = [
            Group(name(key), bounds(*UNLOADED, where=mine & (keys == key)))
            for key in np.unique(keys[gone]).tolist()
        ]
        return sorted(
            (g for g in found if g.removed.max), key=lambda g: (-g.removed.max, g.name)
        )

    rows = timeline.vcpus.rows
    vcpu = analysis.stimuli.vcpu[before.stimulus]
    vm = np.array([-1 if r.vm is None else r.vm for r in rows], np.int64)[vcpu]
    # outside of any window, but maybe not loaded: where the trace lost the vCPU
    reason = np.full(len(before), PutReason.UNKNOWN, np.uint8)
    inside = before.window >= 0
    reason[inside] = w.reason[before.window[inside]]
    return Removed(
        before=names[0],
        after=names[1],
        total=_widened(bounds(*UNLOADED, where=mine), timeline.unplaced_losses),
        host_irqs=_widened(
            bounds(Hit.UNLOADED_HOST, where=mine), timeline.unplaced_losses
        ),
        by_vm=groups(vm, lambda v: f"vm{v}" if v >= 0 else "unknown VM"),
        by_vcpu=groups(vcpu, lambda v: rows[v].label),
        by_reason=groups(reason, lambda p: PutReason(p).label),
        by_cpu=groups(before.cpu, lambda c: f"cpu{c}" if c >= 0 else "unknown pCPU"),
        windows=_window_lines(analysis, chosen, selection, mine, bounds),
    )


def _widened(removed: Bounds, slack: int) -> Bounds:
    # an event that was lost nobody knows where may have hidden or faked one
    return Bounds(max(removed.min - slack, 0), removed.max + slack)


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
                removed=bounds(*UNLOADED, where=mine & same),
                longest_ns=int(length[kind].max()),
                total_ns=int(length[kind].sum()),
            )
        )
    lines.sort(key=lambda x: (-x.removed.max, -x.windows, -x.total_ns))
    return lines[:_LINES]
