"""Whether what was read is something that the model allows, and by what.

A transition that agrees says what it took: the model's own step, a post by KVM, or a
post that left no event. One that does not names the fields in which it differs from
the nearest state that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from piscope.model.descriptor import PiDesc, Put, Vcpu, vmx_vcpu_pi_put
from piscope.verify.allowed import (
    KVMS,
    OTHERS,
    By,
    Kernel,
    States,
    allowed,
    states_after_posts,
)
from piscope.verify.transitions import KVM_NONE, NDST_HERE, NDST_UNREAD, Case

__all__ = ("FIELDS", "Answer", "judge")

FIELDS = ("SN", "NV", "NDST", "ON", "PIR")
"""What is compared, in the order in which it is told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer to one case.

    by        what it needs to agree
    wrong     the fields that differ from the nearest states allowed; empty: it agrees
    by_trace  the trace decided between answers: the guest's IF at a blocking put
    """

    by: By
    wrong: tuple[str, ...] = ()
    by_trace: bool = False


def judge(case: Case, kernel: Kernel) -> Answer:
    """Whether the model allows what was seen, and by what."""
    states: States = frozenset()
    for by in (By.MODEL, By.KVM, By.HARDWARE, By.BETWEEN):
        if by is By.KVM and case.kvm == KVM_NONE:
            continue
        if by is By.HARDWARE and not kernel.hardware:
            continue
        if by is By.BETWEEN:
            if not _torn(case, states, kernel):
                continue
        else:
            states = allowed(case, kernel, by)
            if not any(not _differs(case, s) for s in states):
                continue
        return Answer(by, by_trace=_by_trace(case, kernel))
    wrong = [_differs(case, s) for s in states]
    least = min(map(_distance, wrong))
    nearest = {field for w in wrong if _distance(w) == least for field in w}
    return Answer(By.NOTHING, tuple(f for f in FIELDS if f in nearest))


def _distance(wrong: list[str]) -> tuple[int, int]:
    """NV and SN are what a policy is known by: states that have them right first."""
    return sum(2 if field in ("SN", "NV") else 1 for field in wrong), len(wrong)


def _differs(case: Case, vcpu: Vcpu) -> list[str]:
    """The fields in which what was read differs from a state."""
    pi = vcpu.pi
    wrong = []
    if pi.sn != bool(case.to_sn):
        wrong.append("SN")
    if pi.nv != case.to_nv:
        wrong.append("NV")
    if case.to_ndst not in (NDST_UNREAD, pi.ndst):
        wrong.append("NDST")
    if "loaded" in case.steps:
        return wrong  # syncs clear ON and PIR at any time
    if pi.on != bool(case.to_on):
        wrong.append("ON")
    if case.pir_read and _pir(case) != _pir_of(pi):
        wrong.append("PIR")
    return wrong


def _pir(case: Case) -> tuple[bool, bool, bool]:
    """What PIR gained and lost, in the terms of `_pir_of`."""
    return bool(case.lost or case.missed), bool(case.gained_kvm), bool(case.gained)


def _pir_of(pi: PiDesc) -> tuple[bool, bool, bool]:
    return False, bool(pi.pir >> KVMS & 1), bool(pi.pir >> OTHERS & 1)


def _torn(case: Case, states: States, kernel: Kernel) -> bool:
    """Whether ON and PIR fit as readings of two instants, with a post between them."""
    if "loaded" in case.steps or not case.pir_read or case.lost or case.missed:
        return False
    if not kernel.hardware and (case.kvm == KVM_NONE or case.gained):
        return False
    for first in states:
        for second in states_after_posts(first, case, kernel):
            for on, pir in ((first, second), (second, first)):
                if kernel.ctl_first is (on is second) and first != second:
                    continue  # the probes read in the other order
                seen = replace(first, pi=replace(on.pi, pir=pir.pi.pir))
                if not _differs(case, seen):
                    return True
    return False


def _by_trace(case: Case, kernel: Kernel) -> bool:
    """Whether a blocking put has two answers, by the guest's IF."""
    if case.blocking != 1 or case.steps[0] != "put":
        return False
    clean = Vcpu(PiDesc(sn=False, ndst=NDST_HERE), cpu=NDST_HERE, loaded=True)
    puts = [Put(case.preempted == 1, True, blocked) for blocked in (False, True)]
    answers = {
        vmx_vcpu_pi_put(clean, put, kernel.policy, kernel.platform).vcpu.pi
        for put in puts
    }
    return len(answers) > 1
