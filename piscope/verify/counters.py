"""PIN and PIW as the kernel counted them, and what the trace predicts.

               CPU0       CPU1
    PIN:          2          1   Posted-interrupt notification event
    PIW:         76         52   Posted-interrupt wakeup event

A prediction is a range: notifications leave no event, so some are only possible. Two
to one pCPU coalesce in its local APIC if its interrupts are off meanwhile, but never
two of one vCPU, which must run on that pCPU in between: what is proven is the most
that one vCPU caused.

Source: Documentation/filesystems/proc.rst, /proc/interrupts; arch/x86/kernel/irq.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.interrupts import Counted
from piscope.model.descriptor import POSTED_INTR_VECTOR, POSTED_INTR_WAKEUP_VECTOR
from piscope.sources.raw import Array
from piscope.tables import Kind, Timeline
from piscope.verify.account import CounterLine
from piscope.verify.allowed import Kernel
from piscope.verify.apic_ids import ApicIds
from piscope.verify.observations import CUTS, Hits
from piscope.verify.probe_names import Point
from piscope.verify.transitions import Transitions

__all__ = (
    "Evidence",
    "compare",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a prediction rests on.

    kernel        as found
    kvm_recorded  KVM's posts are in the trace
    lossy         events were lost, so that there is no upper end
    wakeups       int32[n]  the pCPU of each hit of a probe on pi_wakeup_handler; None:
                  no such probe
    """

    hits: Hits
    transitions: Transitions
    apic_ids: ApicIds
    timeline: Timeline
    kernel: Kernel
    kvm_recorded: bool
    lossy: bool
    wakeups: npt.NDArray[np.int32] | None

    @property
    def bounded(self) -> bool:
        """Whether there is an upper end: every put, load and window was read.

        Up to 5.16 the wakeup vector is armed while a vCPU polls, unseen.
        """
        whole = all(len(case.steps) == 1 for case in self.transitions.cases)
        cuts = self.hits.cut_by[~self.hits.joined]
        whole &= not (cuts == CUTS.index("missing hit")).any()
        return whole and not self.lossy and self.kernel.policy.block_in_put


def compare(counted: Counted, evidence: Evidence) -> list[CounterLine]:
    """Each pCPU's counts beside the range that the trace predicts."""
    size = 1 + max((cpu for c in counted.growth.values() for cpu in c), default=0)
    lines = []
    for name, (least, most) in (
        ("PIN", _pin(evidence, size)),
        ("PIW", _piw(evidence, size)),
    ):
        for cpu, count in counted.growth.get(name, {}).items():
            seen = None
            if name == "PIW" and evidence.wakeups is not None:
                seen = int((evidence.wakeups == cpu).sum())
            lines.append(
                CounterLine(
                    counter=name,
                    cpu=cpu,
                    counted=count,
                    least=int(least[cpu]),
                    most=None if most is None else int(most[cpu]),
                    seen=seen,
                )
            )
    return lines


Range = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]


def _pin(e: Evidence, size: int) -> Range:
    """Vector 0xf2 in the host: where, and how sure.

    unloaded  ON rose with SN=0 and NV=0xf2: one, unless another vCPU's guest mode or
              a post by KVM accounts for it
    loaded    ON at the put, and not since the load or the last entry: one. Each stretch
              in the host may have had one that its sync hid; each post by KVM, one
              whose IPI came behind the VM-exit
    load, put ON rose in it: perhaps one
    """
    t, hits = e.transitions, e.hits
    rose = ~hits.on[t.before] & hits.on[t.after]
    steps = _steps(t)
    sn, nv = hits.sn[t.before], hits.nv[t.before]
    cpu, vcpu = hits.cpu[t.after], hits.vcpu[t.after]

    away = rose & (steps == "away") & ~sn & (nv == POSTED_INTR_VECTOR)
    to = _notified(e, t.before)
    foreign = _other_guest(e, away, to)
    sure_away = away & ~t.kvm_possible & ~foreign

    put_next = (steps == "loaded") & (hits.point[t.after] == Point.PUT)
    new = rose | (hits.point[t.before] == Point.SYNC) | _entered(e)
    loaded = put_next & hits.on[t.after] & ~hits.sn[t.after] & new
    loaded &= hits.nv[t.after] == POSTED_INTR_VECTOR
    sure_loaded = loaded & ~t.kvm_possible
    sure_loaded[:] &= e.kernel.hardware
    least = _most_of_one_vcpu(
        [(to[sure_away], vcpu[sure_away]), (cpu[sure_loaded], vcpu[sure_loaded])],
        size,
        len(e.timeline.vcpus),
    )
    if not e.bounded:
        return least, None
    by_kvm = (steps == "loaded") & t.kvm_possible
    parts = [to[away], cpu[rose & ((steps == "load") | (steps == "put"))]]
    if e.kernel.hardware:
        acts = e.timeline.acts
        parts += [acts.cpu[(acts.act & _ENTER) != 0], cpu[loaded]]
    if e.kvm_recorded:
        parts += [np.repeat(cpu[by_kvm], t.kvm_posts[by_kvm])]
    elif not e.kernel.hardware:
        return least, None  # each post by KVM may be one, and none is recorded
    return least, _by_cpu(parts, size)


def _piw(e: Evidence, size: int) -> Range:
    """Vector 0xf1: ON rose with NV=0xf1 while unloaded, or was set as it was armed."""
    t, hits = e.transitions, e.hits
    rose = ~hits.on[t.before] & hits.on[t.after]
    steps = _steps(t)
    to, vcpu = _notified(e, t.before), hits.vcpu[t.after]
    armed = hits.nv[t.after] == POSTED_INTR_WAKEUP_VECTOR
    away = rose & (steps == "away") & armed & ~hits.sn[t.before]
    # the self-IPI of pi_enable_wakeup_handler, or a post right behind it
    put = (steps == "put") & armed & hits.on[t.after]
    put &= hits.nv[t.before] != POSTED_INTR_WAKEUP_VECTOR
    sure = (away & ~t.kvm_possible) | (put & (~rose | ~t.kvm_possible))
    if not e.kernel.policy.block_in_put:
        # up to 5.16 the vector is armed while the vCPU polls, still loaded
        return np.zeros(size, np.int64), None
    least = _most_of_one_vcpu([(to[sure], vcpu[sure])], size, len(e.timeline.vcpus))
    return least, _by_cpu([to[away | put]], size) if e.bounded else None


_ENTER = 4  # timeline.lifecycle.Act.ENTER, a bit of ACTS.act


def _steps(t: Transitions) -> npt.NDArray[np.str_]:
    """The step of each transition that has just one; "" for the others."""
    names = [case.steps[0] if len(case.steps) == 1 else "" for case in t.cases]
    result: npt.NDArray[np.str_] = np.array(names, "U6")[t.case]
    return result


def _notified(e: Evidence, hit: Array) -> npt.NDArray[np.int64]:
    """The pCPU that NDST names at each hit, -1: not known."""
    cpus = np.array(list(e.apic_ids.ndst), np.int64)
    ndst = np.array(list(e.apic_ids.ndst.values()), np.int64)
    if not len(cpus):
        return np.full(len(hit), -1, np.int64)
    order = np.argsort(ndst, kind="stable")
    wanted = e.hits.ndst[hit]
    at = np.minimum(np.searchsorted(ndst[order], wanted), len(cpus) - 1)
    return np.where(ndst[order][at] == wanted, cpus[order][at], -1)


def _entered(e: Evidence) -> npt.NDArray[np.bool_]:
    """Whether the vCPU entered its guest within each transition."""
    acts, t, hits = e.timeline.acts, e.transitions, e.hits
    at = np.flatnonzero((acts.act & _ENTER) != 0)
    span = int(max(acts.row.max(initial=0), hits.row.max(initial=0))) + 2
    key = np.sort(acts.vcpu[at].astype(np.int64) * span + acts.row[at])
    vcpu = hits.vcpu[t.before].astype(np.int64)
    first = np.searchsorted(key, vcpu * span + hits.row[t.before])
    result: npt.NDArray[np.bool_] = first < np.searchsorted(
        key, vcpu * span + hits.row[t.after]
    )
    return result


def _other_guest(e: Evidence, which: Array, to: Array) -> npt.NDArray[np.bool_]:
    """Whether a guest may have run on the notified pCPU during each transition."""
    i, t, hits = e.timeline.intervals, e.transitions, e.hits
    events_ns = hits.ts_ns
    found = np.zeros(len(t), np.bool_)
    unknown = i.kind == Kind.UNKNOWN
    for cpu in np.unique(to[which]).tolist():
        mine = np.flatnonzero(which & (to == cpu))
        guest = ((i.kind == Kind.GUEST) & (i.cpu == cpu)) | unknown
        starts, ends = np.sort(i.start_ns[guest]), np.sort(i.end_ns[guest])
        begun = np.searchsorted(starts, events_ns[t.after[mine]], side="left")
        over = np.searchsorted(ends, events_ns[t.before[mine]], side="right")
        found[mine] = (begun > over) | (cpu < 0)
    return found


def _by_cpu(parts: Iterable[Array], size: int) -> npt.NDArray[np.int64]:
    cpus = np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
    known = (cpus >= 0) & (cpus < size)
    result: npt.NDArray[np.int64] = np.bincount(cpus[known], minlength=size)
    # one to a pCPU that is not known may have gone to any
    return result + int((cpus < 0).sum())


def _most_of_one_vcpu(
    parts: Iterable[tuple[Array, Array]], size: int, vcpus: int
) -> npt.NDArray[np.int64]:
    """int64[size]: of each pCPU, the greatest number that one vCPU accounts for."""
    total = np.zeros((size, max(vcpus, 1)), np.int64)
    for cpu, vcpu in parts:
        known = (cpu >= 0) & (cpu < size)
        np.add.at(total, (cpu[known], vcpu[known]), 1)
    result: npt.NDArray[np.int64] = total.max(axis=1)
    return result
