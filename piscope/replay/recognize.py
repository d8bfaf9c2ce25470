"""Which policy the captured kernel itself has: by its probes, else by its release.

A distribution may carry the patch earlier than mainline does, so what the descriptor
shows goes before what the release says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.model.descriptor import POSTED_INTR_WAKEUP_VECTOR
from piscope.tables import PutReason, Windows
from piscope.whole import Learned, Scope

__all__ = (
    "Recognized",
    "learn_windows",
    "learned_of",
    "posting_by_hardware",
    "recognize_policy",
)


@dataclass(frozen=True, slots=True)
class Recognized:
    """The captured kernel's policy.

    policy    its name; None: neither probes nor a release tell
    by        "probes", "release" or "nothing"
    evidence  what was seen, for people
    """

    policy: str | None
    by: str
    evidence: str


def learn_windows(
    learned: Learned,
    w: Windows,
    mine: npt.NDArray[np.bool_],
    put_row: npt.NDArray[np.int64],
) -> None:
    """Add what the probes of some windows say of the kernel.

    `mine` bool[windows] are those to add, of each vCPU in order; `put_row`
    int64[windows] are rows of the whole trace. A vCPU's first put tells less: SN is 1
    from its creation.
    """
    first = np.zeros(len(w), np.bool_)
    at = np.flatnonzero(mine)
    vcpus, heads = np.unique(w.vcpu[at], return_index=True)
    for vcpu, i in zip(vcpus.tolist(), at[heads].tolist(), strict=True):
        if vcpu not in learned.first_put:
            learned.first_put[vcpu] = int(put_row[i])
            first[i] = True
    read = mine & (w.sn_put >= 0) & ~first
    plain = read & np.isin(
        w.reason, (PutReason.USERSPACE, PutReason.ASLEEP, PutReason.IOCTL)
    )
    preempted = w.reason == PutReason.PREEMPTED
    learned.plain += int(plain.sum())
    learned.plain_suppressed += int((plain & (w.sn_put == 1)).sum())
    learned.preempted_suppressed += int((read & preempted & (w.sn_put == 1)).sum())
    armed = mine & (w.nv_put == POSTED_INTR_WAKEUP_VECTOR)
    learned.armed |= bool(armed.any())
    both = armed & (w.reason == PutReason.BLOCKING_PREEMPTED)
    learned.armed_preempted |= bool(both.any())
    learned.acted |= bool(((read & (w.sn_put == 1)) | armed).any())
    learned.idle |= bool((mine & (w.sn_put == 0) & preempted).any())


def learned_of(w: Windows, scope: Scope | None) -> Learned:
    """What all windows of the trace say: these, or what was learned before a part."""
    if scope is not None:
        return scope.learned
    learned = Learned()
    learn_windows(learned, w, np.ones(len(w), np.bool_), w.put_row)
    return learned


def posting_by_hardware(learned: Learned) -> bool | None:
    """Whether the captured host posts by hardware into these vCPUs; None: not told.

    Probes tell: a kernel whose puts leave SN=0 though the vCPU was preempted has found
    that the VM needs no PI wakeup (no assigned device, no IPI virtualization), so that
    nothing but KVM posts.
    """
    if learned.acted:
        return True
    return False if learned.idle else None


def recognize_policy(learned: Learned, by_release: str | None) -> Recognized:
    """Tell the captured kernel's policy from puts that are no preemption.

    After such a put (userspace, or asleep in KVM) SN is 1 under suppress-on-put and 0
    under preempt-only; the latter only counts where preemptions do set SN, since a VM
    that needs no PI wakeup never has it set.
    """
    total, suppressed = learned.plain, learned.plain_suppressed
    if total and suppressed == total:
        return Recognized(
            "suppress-on-put", "probes", f"SN=1 after {total} puts without preemption"
        )
    if total and not suppressed and learned.preempted_suppressed:
        return Recognized(
            "preempt-only",
            "probes",
            f"SN=0 after {total} puts without preemption, SN=1 after preemptions",
        )
    if by_release is not None:
        return Recognized(by_release, "release", "by the kernel release alone")
    return Recognized(None, "nothing", "the trace names no kernel release")
