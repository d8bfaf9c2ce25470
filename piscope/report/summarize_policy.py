"""One policy's outcome, counted: what was sent, to what effect, at what cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Findings, Hit, PolicyResult, Row
from piscope.report.analyzed import UNLOADED, Analyzed
from piscope.report.selection import Selection
from piscope.report.summary import Bounds, Exposed, PolicySummary
from piscope.sources.raw import Array
from piscope.tables import Kind, PutReason

__all__ = ("summarize_policy",)


def summarize_policy(
    analysis: Analyzed,
    result: PolicyResult,
    chosen: npt.NDArray[np.bool_],
    selection: Selection,
) -> PolicySummary:
    """Count the findings, exposure and costs of the chosen vCPUs and pCPUs."""
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

    unloaded, wrong = count(*UNLOADED), count(Hit.WRONG_VCPU)
    r = result.residual
    res = chosen[r.vcpu] & selection.of_cpus(r.cpu)
    observed = Bounds(int((r.surely & res).sum()), int((r.seen & res).sum()))
    residual = count(Hit.HOST) + observed
    unseen = int((result.exposure.unseen & win).sum())
    hidden = int(result.exposure.invisible[vcpu_mask].sum())
    lost = result.exposure.lost
    unseen += hidden + lost
    unseen_wrong = int((result.exposure.unseen_wrong & win).sum())
    if result.exposure.invisible.any():
        unseen_wrong += int(result.exposure.invisible[vcpu_mask].sum())
    unseen_wrong += lost
    unseen_residual = int((~r.seen & res).sum()) + r.lost
    # Each event that was lost nobody knows where may hide a window, or fake one; only
    # a policy that leaves some window open can have sent anything into it.
    slack = timeline.unplaced_losses
    open_slack = slack if unloaded.max + unseen else 0
    # outside of any window, but maybe not loaded: where the trace lost the vCPU
    reason = np.full(len(f), PutReason.UNKNOWN, np.uint8)
    reason[f.window >= 0] = w.reason[f.window[f.window >= 0]]

    return PolicySummary(
        name=result.policy,
        title=result.title,
        unloaded_notifications=_widened(unloaded, unseen, open_slack),
        residual_notifications=_widened(residual, unseen_residual, slack),
        wrong_vcpu=_widened(wrong, unseen_wrong, open_slack),
        wrong_vcpu_if_evenly_spread=round(
            float(f.wrong_share[f.maybe(*UNLOADED) & mine].sum()), 1
        ),
        known={
            "unloaded_notifications": unloaded,
            "residual_notifications": residual,
            "wrong_vcpu": wrong,
        },
        outcomes={hit.label: count(hit) for hit in Hit},
        unloaded_by_reason=_grouped(
            lambda m: count(*UNLOADED, where=m),
            {p.label: reason == p for p in PutReason},
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
            for name in ("pir_scans", "empty_scans", "locked_ops", "list_locks")
        },
        contradictions=result.contradictions,
        hidden_windows=hidden + lost + open_slack,
        lost_windows=lost,
        host_irqs=_host_irqs(f, mine),
        coalesced=_coalesced(f, mine & f.maybe(Hit.HOST, Hit.UNLOADED_HOST)),
        rows=_rows(f.row[mine]),
        not_certain=int((mine & ~f.certain).sum()),
        as_if=_as_if(result.policy, analysis.captured.policy),
    )


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
    return Bounds(int(surely.sum()), int(maybe.sum()))


def _coalesced(f: Findings, sent: Array) -> Bounds:
    surely = int((sent & (f.coalesced == 1)).sum())
    return Bounds(surely, surely + int((sent & (f.coalesced < 0)).sum()))


def _rows(bits: Array) -> dict[str, int]:
    """Posts by the rows of the state table that they may be, most first."""
    values, counts = np.unique(bits, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {
        "|".join(row.label for row in Row if int(values[i]) >> row & 1): int(counts[i])
        for i in order
    }


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
