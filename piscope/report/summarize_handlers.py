"""Which VM-exit handlers would gain most from a fast path, and what exits betray.

A notification to a vCPU whose handler runs with IRQs on is a host IRQ under every
policy. Posts by hardware leave no event, so besides the known ones the table tells how
often and how long each handler ran: that is where the unseen ones were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from piscope.report.own_part import ChosenPart
from piscope.report.render_words import exit_reason_name
from piscope.report.summarize_policy import PolicyTally
from piscope.report.summary import Handler
from piscope.sources.raw import Array
from piscope.tables import Acts, Kind

__all__ = ("HandlersTally",)

# timeline.lifecycle.Act, bits of ACTS.act
_LOAD, _PUT, _ENTER, _EXIT = 1, 2, 4, 8


class HandlersTally:
    """VM-exits and the time of their handlers, by reason."""

    def __init__(self) -> None:
        self._exits: Counter[int] = Counter()
        self._straight: Counter[int] = Counter()
        self._straight_ns: Counter[int] = Counter()
        self._host_ns: Counter[int] = Counter()

    def add(self, part: ChosenPart) -> None:
        """Count a part's own acts and intervals of selected vCPUs and pCPUs."""
        timeline, chosen, of_cpus = (
            part.analysis.timeline,
            part.chosen,
            part.selection.of_cpus,
        )
        acts, i = timeline.acts, timeline.intervals
        exits = (acts.act & _EXIT) != 0
        exits &= chosen[acts.vcpu] & of_cpus(acts.cpu) & (acts.reason >= 0)
        exits &= part.own.acts(acts)
        # the entry may be another part's own
        straight = exits & _straight_back(acts)
        back_ns = np.zeros(len(acts.act), np.int64)
        back_ns[:-1] = np.diff(acts.ts_ns)
        in_kvm = np.isin(i.kind, (Kind.HOST, Kind.HOST_IRQS_OFF)) & (i.reason >= 0)
        in_kvm &= chosen[i.vcpu] & of_cpus(i.cpu) & part.own.intervals(i)
        at = np.flatnonzero(in_kvm)
        direct = acts.reason[straight]
        self._exits.update(_by_reason(acts.reason[exits]))
        self._straight.update(_by_reason(direct))
        self._straight_ns.update(_by_reason(direct, back_ns[straight]))
        self._host_ns.update(_by_reason(i.reason[at], (i.end_ns - i.start_ns)[at]))

    def finish(self, policies: Mapping[str, PolicyTally]) -> list[Handler]:
        """One line a VM-exit reason, most known residual notifications first.

        Then by the time that its handler took on the way straight back to the guest.
        """
        lines = [
            Handler(
                reason=reason,
                name=exit_reason_name(str(reason)),
                exits=number,
                straight_back=self._straight[reason],
                host_ns=self._host_ns[reason],
                straight_back_ns=self._straight_ns[reason],
                residual={n: p.residual_by_exit[reason] for n, p in policies.items()},
                savable={n: p.savable_by_exit[reason] for n, p in policies.items()},
            )
            for reason, number in self._exits.items()
        ]
        lines.sort(
            key=lambda x: (
                -max((b.max for b in x.residual.values()), default=0),
                -x.straight_back_ns,
                x.reason,
            )
        )
        return lines


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
