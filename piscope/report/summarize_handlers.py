"""Which VM-exit handlers would gain most from a fast path, and what exits betray.

A notification to a vCPU whose handler runs with IRQs on is a host IRQ under every
policy. Posts by hardware leave no event, so besides the known ones the table tells how
often and how long each handler ran: that is where the unseen ones were.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit
from piscope.report.analyzed import Analyzed
from piscope.report.render_words import exit_reason_name
from piscope.report.selection import Selection
from piscope.report.summary import Bounds, Handler
from piscope.sources.raw import Array
from piscope.tables import Acts, Kind

__all__ = ("summarize_handlers",)

# timeline.lifecycle.Act, bits of ACTS.act
_LOAD, _PUT, _ENTER, _EXIT = 1, 2, 4, 8


def summarize_handlers(
    analysis: Analyzed, chosen: npt.NDArray[np.bool_], selection: Selection
) -> list[Handler]:
    """One line a VM-exit reason, most known residual notifications first.

    Then by the time that its handler took on the way straight back to the guest.
    """
    timeline = analysis.timeline
    acts, i = timeline.acts, timeline.intervals
    exits = (acts.act & _EXIT) != 0
    exits &= chosen[acts.vcpu] & selection.of_cpus(acts.cpu) & (acts.reason >= 0)
    straight = exits & _straight_back(acts)
    back_ns = np.zeros(len(acts.act), np.int64)
    back_ns[:-1] = np.diff(acts.ts_ns)
    in_kvm = np.isin(i.kind, (Kind.HOST, Kind.HOST_IRQS_OFF)) & (i.reason >= 0)
    in_kvm &= chosen[i.vcpu] & selection.of_cpus(i.cpu)
    at = np.flatnonzero(in_kvm)
    count = _by_reason(acts.reason[exits])
    direct = _by_reason(acts.reason[straight])
    direct_ns = _by_reason(acts.reason[straight], back_ns[straight])
    time_ns = _by_reason(i.reason[at], (i.end_ns - i.start_ns)[at])

    lines = [
        Handler(
            reason=reason,
            name=exit_reason_name(str(reason)),
            exits=number,
            straight_back=direct.get(reason, 0),
            host_ns=time_ns.get(reason, 0),
            straight_back_ns=direct_ns.get(reason, 0),
            residual={},
            savable={},
        )
        for reason, number in count.items()
    ]
    for name, result in analysis.results.items():
        f = result.findings
        mine = chosen[analysis.stimuli.vcpu[f.stimulus]] & selection.of_cpus(f.cpu)
        mine &= f.maybe(Hit.HOST)
        surely = f.surely(Hit.HOST)
        for line in lines:
            here = mine & (f.reason == line.reason)
            line.residual[name] = _bounds(surely, here)
            line.savable[name] = _bounds(surely, here & f.straight)
    lines.sort(
        key=lambda x: (
            -max((b.max for b in x.residual.values()), default=0),
            -x.straight_back_ns,
            x.reason,
        )
    )
    return lines


def _bounds(surely: Array, here: Array) -> Bounds:
    return Bounds(int((surely & here).sum()), int(here.sum()))


def _straight_back(acts: Acts) -> npt.NDArray[np.bool_]:
    """VM-exits whose vCPU's next act is the entry: no put, load or sync between."""
    result = np.zeros(len(acts.act), np.bool_)
    enters = (acts.act & (_LOAD | _PUT | _ENTER | _EXIT)) == _ENTER
    result[:-1] = enters[1:] & (acts.vcpu[1:] == acts.vcpu[:-1])
    return result


def _by_reason(reason: Array, weight: Array | None = None) -> dict[int, int]:
    if not len(reason):
        return {}
    if weight is not None:  # float64 holds whole ns up to 104 days
        weight = weight.astype(np.float64)
    totals = np.bincount(reason, weight)
    present = np.flatnonzero(np.bincount(reason))
    return {int(code): int(totals[code]) for code in present}
