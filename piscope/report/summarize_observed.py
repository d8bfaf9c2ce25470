"""Notifications that left an event, and whether the replay agrees with them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from piscope.observed import Sign
from piscope.outcomes import Hit
from piscope.report.analyzed import Analyzed
from piscope.report.own_part import ChosenPart
from piscope.report.summary import Observed
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason

__all__ = ("ObservedTally",)

_POSTED_INTR_VECTOR, _POSTED_INTR_WAKEUP_VECTOR = 0xF2, 0xF1
_BLOCKED = (PutReason.BLOCKING, PutReason.BLOCKING_PREEMPTED)


class ObservedTally:
    """Signs of notifications over the whole trace, whatever the policy.

    A vCPU that 0xF1 woke had armed it: it was blocked. ON was set then and stays so, up
    to the load. And a window that the replay takes for posted into, with the vector
    armed, is one of which 0xF1 woke the vCPU.
    """

    def __init__(self) -> None:
        self._sum = Observed(0, 0, 0, 0)
        self._vectors_told = self._probed = self._wakings_told = False

    def add(self, part: ChosenPart) -> None:
        """Count a part's own signs, and check the replay by them."""
        analysis = part.analysis
        seen, w = analysis.observed, analysis.timeline.windows
        mine = part.own.rows(seen.row)
        exits = (seen.sign == Sign.VM_EXIT) & mine
        wakeups = (seen.vector == _POSTED_INTR_WAKEUP_VECTOR) & mine
        wakings = seen.sign == Sign.WAKING
        woken = wakings & mine
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
        proved = proved[part.windows[proved]]
        # a part may hold none of the events that tell
        self._vectors_told |= seen.vectors_told
        self._probed |= seen.probed
        self._wakings_told |= seen.wakings_told
        found = Observed(
            notification_exits=int(
                (exits & (seen.vector == _POSTED_INTR_VECTOR)).sum()
            ),
            wakeup_exits=int((exits & wakeups).sum()),
            wakeup_handler_calls=int(((seen.sign == Sign.HANDLER) & mine).sum()),
            unexplained_wakings=int(woken.sum()),
            wakeup_irqs=int((wakeups & ~seen.again).sum()),
            woken_blocked=int(blocked.sum()),
            woken_elsewhere=int((~blocked & told).sum()),
            on_read=int((on_load >= 0).sum()),
            on_missing=int((on_load == 0).sum()),
            proved=len(proved),
            # the waking may be another part's own
            proved_seen=int(np.isin(proved, seen.window[wakings]).sum()),
        )
        for column in fields(Observed):
            total = getattr(self._sum, column.name) + getattr(found, column.name)
            setattr(self._sum, column.name, total)

    def finish(self) -> Observed:
        """The counts; those that the trace's events can't tell are None."""
        result = replace(self._sum)
        if not self._vectors_told:
            result.notification_exits = result.wakeup_exits = None
        if not self._probed:
            result.wakeup_handler_calls = None
        if not self._wakings_told:
            result.unexplained_wakings = None
        return result


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
