"""One policy's outcome, counted: what was sent, to what effect, at what cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Exposure, Findings, Hit, PolicyResult, Row
from piscope.report.analyzed import UNLOADED
from piscope.report.bounds_by import BoundsBy, bounds_of
from piscope.report.own_part import ChosenPart
from piscope.report.summarize_exposure import ExposureTally
from piscope.report.summary import Bounds, PolicySummary
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason, Vcpu

__all__ = ("PolicyTally",)


class PolicyTally:
    """One policy's findings, exposure and costs, of the selected vCPUs and pCPUs.

    residual_by_exit  known residual ones, by the VM-exit reason that was being handled
    savable_by_exit   of those: the handler went straight back to the guest
    """

    def __init__(self, vcpus: int) -> None:
        self._name = self._title = ""
        self._outcomes = [Bounds() for _ in Hit]
        self._unloaded, self._observed = Bounds(), Bounds()
        self._host_irqs, self._coalesced = Bounds(), Bounds()
        self._wrong_share = 0  # in parts of 2 ** -53
        self._by_put, self._by_state = BoundsBy(), BoundsBy()
        self.residual_by_exit, self.savable_by_exit = BoundsBy(), BoundsBy()
        self._rows: Counter[int] = Counter()
        self._not_certain = self._contradictions = 0
        self._exposure = ExposureTally(vcpus)
        self._unseen = self._unseen_wrong = self._unseen_residual = self._hidden = 0
        self._costs = {name: Bounds() for name in _COSTS}
        self._lost = self._residual_lost = self._slack = 0

    def add(self, part: ChosenPart, result: PolicyResult) -> None:
        """Count a part's own findings and windows, and what of the rest is its own."""
        self._name, self._title = result.policy, result.title
        self._slack = part.analysis.timeline.unplaced_losses
        self._contradictions += result.contradictions
        self._add_findings(part, result.findings)
        self._add_exposure(part, result.exposure)
        r = result.residual
        mine = part.chosen[r.vcpu] & part.selection.of_cpus(r.cpu)
        self._observed += bounds_of(r.surely & mine, r.seen & mine)
        self._unseen_residual += int((~r.seen & mine).sum())
        self._residual_lost = r.lost
        for name, known in self._costs.items():
            least, most = getattr(result.costs, name)[part.chosen].sum(0).tolist()
            self._costs[name] = known + Bounds(least, most)

    def _add_findings(self, part: ChosenPart, f: Findings) -> None:
        mine = part.findings(f)
        for hit in Hit:
            self._outcomes[hit] += bounds_of(f.surely(hit) & mine, f.maybe(hit) & mine)
        surely, maybe = f.surely(*UNLOADED) & mine, f.maybe(*UNLOADED) & mine
        self._unloaded += bounds_of(surely, maybe)
        self._by_put.add(part.put_reasons(f), surely, maybe)
        self._wrong_share += _exact_sum(f.wrong_share[maybe])
        surely, maybe = f.surely(Hit.HOST) & mine, f.maybe(Hit.HOST) & mine
        self._by_state.add(f.kind, surely, maybe)
        self.residual_by_exit.add(f.reason, surely, maybe)
        self.savable_by_exit.add(f.reason, surely & f.straight, maybe & f.straight)
        self._host_irqs += _host_irqs(f, mine)
        sent = mine & f.maybe(Hit.HOST, Hit.UNLOADED_HOST)
        self._coalesced += bounds_of(
            sent & (f.coalesced == 1), sent & (f.coalesced != 0)
        )
        values, counts = np.unique(f.row[mine], return_counts=True)
        self._rows.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self._not_certain += int((mine & ~f.certain).sum())

    def _add_exposure(self, part: ChosenPart, exposure: Exposure) -> None:
        timeline = part.analysis.timeline
        self._exposure.add(part, exposure)
        self._unseen += int((exposure.unseen & part.puts).sum())
        self._unseen_wrong += int((exposure.unseen_wrong & part.puts).sum())
        if part.selection.cpus is None or not timeline.userspace_visible:
            self._hidden += int(exposure.invisible[part.chosen].sum())
        self._lost = exposure.lost

    def finish(self, vcpus: Sequence[Vcpu], captured: str | None) -> PolicySummary:
        """The outcome; of the selected vCPUs, `captured` is the kernel's policy."""
        unloaded, wrong = self._unloaded, self._outcomes[Hit.WRONG_VCPU]
        residual = self._outcomes[Hit.HOST] + self._observed
        hidden = self._hidden + self._lost
        unseen = self._unseen + hidden
        # Each event that was lost nobody knows where may hide a window, or fake one;
        # only a policy that leaves some window open can have sent anything into it.
        slack = self._slack
        open_slack = slack if unloaded.max + unseen else 0
        by_state = {Kind(k).label: b for k, b in self._by_state.items()}
        if self._observed.max:
            by_state["before-put"] = self._observed
        return PolicySummary(
            name=self._name,
            title=self._title,
            unloaded_notifications=_widened(unloaded, unseen, open_slack),
            residual_notifications=_widened(
                residual, self._unseen_residual + self._residual_lost, slack
            ),
            wrong_vcpu=_widened(wrong, self._unseen_wrong + hidden, open_slack),
            wrong_vcpu_if_evenly_spread=round(self._wrong_share / _ONE, 1),
            known={
                "unloaded_notifications": unloaded,
                "residual_notifications": residual,
                "wrong_vcpu": wrong,
            },
            outcomes={hit.label: self._outcomes[hit] for hit in Hit},
            unloaded_by_reason={PutReason(p).label: b for p, b in self._by_put.items()},
            residual_by_state=by_state,
            residual_by_exit_reason={
                str(code): b for code, b in self.residual_by_exit.items() if code >= 0
            },
            exposure=self._exposure.total(),
            exposure_by_reason=self._exposure.by_reason(),
            exposure_by_vcpu=self._exposure.by_vcpu(vcpus),
            costs=dict(self._costs),
            contradictions=self._contradictions,
            hidden_windows=hidden + open_slack,
            lost_windows=self._lost,
            host_irqs=self._host_irqs,
            coalesced=self._coalesced,
            rows=_labeled_rows(self._rows),
            not_certain=self._not_certain,
            as_if=_as_if(self._name, captured),
        )


_COSTS = ("pir_scans", "empty_scans", "locked_ops", "list_locks")
_ONE = 1 << 53


def _exact_sum(shares: npt.NDArray[np.float64]) -> int:
    """The sum of numbers from 0 to 1, in parts of 2 ** -53; in integers, so that it is
    the same in whatever order and parts they are summed.
    """
    scaled = shares * 2.0**26
    high = np.floor(scaled)
    low = np.rint((scaled - high) * 2.0**27)
    return (int(high.astype(np.int64).sum()) << 27) + int(low.astype(np.int64).sum())


_NO_KERNEL = ("suppress-at-exit", "more-fastpath", "no-suppression")


def _as_if(policy: str, captured: str | None) -> str:
    if policy in _NO_KERNEL:
        return "hypothetical, as if the timeline were the same; no kernel does this."
    if policy.startswith("legacy-") and captured != policy:
        return (
            "as if that kernel had met this trace: the wakeup vector from before"
            " halt-polling on, and no lock in a load that changes nothing."
        )
    return ""


_AS_IRQ = (Hit.HOST, Hit.UNLOADED_HOST, Hit.GUEST_EXIT)


def _host_irqs(f: Findings, mine: Array) -> Bounds:
    """IRQs 0xF2, those counted once that are latched together."""
    surely = mine & f.surely(*_AS_IRQ) & (f.coalesced == 0)
    maybe = mine & f.maybe(*_AS_IRQ) & (f.coalesced != 1)
    return bounds_of(surely, maybe)


def _labeled_rows(rows: Mapping[int, int]) -> dict[str, int]:
    """Posts by the rows of the state table that they may be, most first."""
    return {
        "|".join(row.label for row in Row if bits >> row & 1): n
        for bits, n in sorted(rows.items(), key=lambda item: (-item[1], item[0]))
    }


def _widened(known: Bounds, unseen: int, slack: int) -> Bounds:
    return Bounds(max(known.min - slack, 0), known.max + unseen + slack)
