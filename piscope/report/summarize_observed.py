"""Notifications that left an event, and whether the replay agrees with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.observed import Sign
from piscope.outcomes import Hit
from piscope.report.analyzed import Analyzed
from piscope.report.summary import Observed
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason

__all__ = ("summarize_observed",)

_POSTED_INTR_VECTOR, _POSTED_INTR_WAKEUP_VECTOR = 0xF2, 0xF1
_BLOCKED = (PutReason.BLOCKING, PutReason.BLOCKING_PREEMPTED)


def summarize_observed(analysis: Analyzed) -> Observed:
    """Count them over the whole trace, whatever the policy, and check the replay.

    A vCPU that 0xF1 woke had armed it: it was blocked. ON was set then and stays so, up
    to the load. And a window that the replay takes for posted into, with the vector
    armed, is one of which 0xF1 woke the vCPU.
    """
    seen, w = analysis.observed, analysis.timeline.windows
    exits = seen.sign == Sign.VM_EXIT
    wakeups = seen.vector == _POSTED_INTR_WAKEUP_VECTOR
    woken = seen.sign == Sign.WAKING
    window = seen.window[woken]
    at = np.maximum(window, 0)
    away = window >= 0
    blocked = away.copy()
    on_load = np.full(len(at), -1, np.int8)
    if len(w):
        blocked &= np.isin(w.reason[at], _BLOCKED)
        on_load = np.where(away & w.probed[at], w.on_load[at], np.int8(-1))
    told = _told(analysis, seen.vcpu[woken], seen.row[woken])
    proved = _proved_windows(analysis)
    return Observed(
        notification_exits=(
            int((exits & (seen.vector == _POSTED_INTR_VECTOR)).sum())
            if seen.vectors_told
            else None
        ),
        wakeup_exits=int((exits & wakeups).sum()) if seen.vectors_told else None,
        wakeup_handler_calls=(
            int((seen.sign == Sign.HANDLER).sum()) if seen.probed else None
        ),
        unexplained_wakings=int(woken.sum()) if seen.wakings_told else None,
        wakeup_irqs=int((wakeups & ~seen.again).sum()),
        woken_blocked=int(blocked.sum()),
        woken_elsewhere=int((~blocked & told).sum()),
        on_read=int((on_load >= 0).sum()),
        on_missing=int((on_load == 0).sum()),
        proved=len(proved),
        proved_seen=int(np.isin(proved, window).sum()),
    )


def _told(analysis: Analyzed, vcpu: Array, row: Array) -> npt.NDArray[np.bool_]:
    """Whether the timeline is sure of what each vCPU did at that row."""
    i = analysis.timeline.intervals
    if not len(i) or not len(row):
        return np.zeros(len(row), np.bool_)
    ts_ns = analysis.events.ts_ns[row]
    begin_ns, span_ns = int(i.start_ns.min()), int(i.end_ns.max())
    span_ns += 2 - begin_ns
    key = i.vcpu.astype(np.int64) * span_ns + (i.start_ns - begin_ns)
    wanted = vcpu.astype(np.int64) * span_ns + (ts_ns - begin_ns)
    at = np.maximum(np.searchsorted(key, wanted, side="right") - 1, 0)
    result: npt.NDArray[np.bool_] = i.certain[at] & (i.kind[at] != Kind.UNKNOWN)
    return result


def _proved_windows(analysis: Analyzed) -> npt.NDArray[np.int64]:
    """Windows of which probes prove a post that the armed vector announced."""
    result = analysis.results.get(analysis.captured.policy or "")
    if result is None:
        return np.empty(0, np.int64)
    f = result.findings
    unseen = analysis.stimuli.post[f.stimulus] < 0
    windows = f.window[unseen & f.surely(Hit.WAKEUP)]
    return np.unique(windows[windows >= 0])
