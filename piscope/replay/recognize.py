"""Which policy the captured kernel itself has: by its probes, else by its release.

A distribution may carry the patch earlier than mainline does, so what the descriptor
shows goes before what the release says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from piscope.tables import PutReason, Timeline

__all__ = ("Recognized", "recognize_policy")


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


def recognize_policy(timeline: Timeline, by_release: str | None) -> Recognized:
    """Tell the captured kernel's policy from puts that are no preemption.

    After such a put (userspace, or asleep in KVM) SN is 1 under suppress-on-put and 0
    under preempt-only; the latter only counts where preemptions do set SN, since a VM
    that needs no PI wakeup never has it set. A vCPU's first put is left out: SN is 1
    from its creation.
    """
    w = timeline.windows
    first = np.ones(len(w), np.bool_)
    first[1:] = w.vcpu[1:] != w.vcpu[:-1]
    read = (w.sn_put >= 0) & ~first
    plain = read & np.isin(
        w.reason, (PutReason.USERSPACE, PutReason.ASLEEP, PutReason.IOCTL)
    )
    preempted = read & (w.reason == PutReason.PREEMPTED)
    suppressed = int((plain & (w.sn_put == 1)).sum())
    total = int(plain.sum())
    if total and suppressed == total:
        return Recognized(
            "suppress-on-put", "probes", f"SN=1 after {total} puts without preemption"
        )
    if total and not suppressed and (preempted & (w.sn_put == 1)).any():
        return Recognized(
            "preempt-only",
            "probes",
            f"SN=0 after {total} puts without preemption, SN=1 after preemptions",
        )
    if by_release is not None:
        return Recognized(by_release, "release", "by the kernel release alone")
    return Recognized(None, "nothing", "the trace names no kernel release")
