"""Which policy and platform a kernel implements, and whether the asked one is it.

Every known policy, on every platform, is held against all transitions. What a kernel
does is what disagrees with nothing; where several fit, the trace lacks the puts on
which they differ, and the model itself says which puts those are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from piscope.model.descriptor import (
    POSTED_INTR_VECTOR,
    PiDesc,
    Put,
    Vcpu,
    vmx_vcpu_pi_put,
)
from piscope.model.policy import DEFAULT_PLATFORM, POLICIES, Platform, Policy
from piscope.verify.allowed import By, Kernel
from piscope.verify.judge import Answer, judge
from piscope.verify.transitions import Transitions

__all__ = (
    "MAIN",
    "PLATFORMS",
    "PUTS",
    "Candidate",
    "Finding",
    "PlatformName",
    "candidates",
    "find",
    "separating_puts",
)

PlatformName = Literal["needs-pi-wakeup", "no-pi-wakeup", "no-apicv"]

PLATFORMS: dict[PlatformName, Platform] = {
    "needs-pi-wakeup": DEFAULT_PLATFORM,
    "no-pi-wakeup": replace(DEFAULT_PLATFORM, vtd_posting=False, assigned_device=False),
    "no-apicv": replace(DEFAULT_PLATFORM, apicv=False),
}
"""What vmx_needs_pi_wakeup() finds, and whether pi_load does anything at all."""

MAIN = ("preempt-only", "suppress-on-put")
"""The two that a kernel developer asks about: before and after 6737557442e5."""

PUTS: dict[str, Put] = {
    "neither preempted nor blocking (to userspace, asleep)": Put(),
    "preempted": Put(preempted=True),
    "blocking, the guest's IF=1": Put(blocking=True),
    "blocking, the guest's IF=0": Put(blocking=True, irqs_blocked=True),
    "preempted while blocking, IF=1": Put(preempted=True, blocking=True),
    "preempted while blocking, IF=0": Put(True, True, True),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy on a platform, held against a trace.

    answers        to each case of TRANSITIONS
    disagreements  transitions that it does not allow
    """

    policy: Policy
    platform: PlatformName
    kernel: Kernel
    answers: tuple[Answer, ...]
    disagreements: int

    @property
    def agrees(self) -> npt.NDArray[np.bool_]:
        """bool[cases]."""
        return np.array([a.by is not By.NOTHING for a in self.answers], np.bool_)


def candidates(
    transitions: Transitions,
    ctl_first: bool | None,
    policies: Iterable[str] = tuple(POLICIES),
) -> list[Candidate]:
    """All policies on all platforms, in the order of POLICIES and PLATFORMS."""
    count = np.bincount(transitions.case, minlength=len(transitions.cases))
    found = []
    for name in policies:
        for platform_name, platform in PLATFORMS.items():
            kernel = Kernel(
                POLICIES[name],
                platform,
                hardware=platform_name == "needs-pi-wakeup",
                ctl_first=ctl_first,
            )
            answers = tuple(judge(case, kernel) for case in transitions.cases)
            wrong = np.array([a.by is By.NOTHING for a in answers], np.bool_)
            found.append(
                Candidate(
                    POLICIES[name],
                    platform_name,
                    kernel,
                    answers,
                    int(count[wrong].sum()),
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class Finding:
    """What the transitions say of the kernel.

    verified   the candidate whose disagreements are reported
    asked      the policy that was named; None: it was to be found
    fits       candidates with the fewest disagreements, the likeliest first
    told       the trace tells the verified policy (or that the platform needs no PI
               wakeup) from the others
    rivals     policy -> transitions that agree with the verified policy and not with
               that one, on the same platform
    """

    verified: Candidate
    asked: str | None
    fits: tuple[Candidate, ...]
    told: bool
    rivals: dict[str, int]

    @property
    def puts_do_nothing(self) -> bool:
        """Only platforms fit on which vmx_vcpu_pi_put does nothing."""
        return all(c.platform != "needs-pi-wakeup" for c in _released(self.fits))


def find(
    transitions: Transitions,
    held: Sequence[Candidate],
    asked: str | None,
    release_policy: str | None,
) -> Finding:
    """Choose what is verified, and say whether the trace can tell it from the rest.

    `release_policy` is the default of the trace's kernel release: it only orders
    candidates that fit equally well.
    """
    fewest = min(c.disagreements for c in held)
    fits = sorted(
        (c for c in held if c.disagreements == fewest),
        key=lambda c: _likelihood(c, release_policy),
    )
    if asked is None:
        verified = fits[0]
        told = fewest == 0 and _told_alone(fits)
    else:
        mine = [c for c in held if c.policy.name == asked]
        perfect = [c for c in mine if c.disagreements == 0]
        if perfect:
            verified = perfect[0]
        else:
            # the platform is found from what all policies say; only then the policy
            verified = next(c for c in mine if c.platform == fits[0].platform)
        told = bool(perfect) and not any(
            c.disagreements == 0 for c in held if c.policy.name in _rivals_of(asked)
        )
    rivals = {
        c.policy.name: _only_first(transitions, verified, c)
        for c in held
        if c.platform == verified.platform
        and c.policy.name in _rivals_of(verified.policy.name)
    }
    return Finding(verified, asked, tuple(fits), told, rivals)


def _rivals_of(policy: str) -> tuple[str, ...]:
    return tuple(name for name in MAIN if name != policy)


def _likelihood(candidate: Candidate, release_policy: str | None) -> tuple[int, ...]:
    policy = candidate.policy
    return (
        policy.releases == "hypothetical",
        policy.name != release_policy,
        list(PLATFORMS).index(candidate.platform),
        policy.name not in MAIN,
        list(POLICIES).index(policy.name),
    )


def _told_alone(fits: Sequence[Candidate]) -> bool:
    """Whether what fits is one platform, and on it one of the two main policies.

    Where the platform needs no PI wakeup all policies are one: that is an answer. A
    policy that no kernel has is no doubt that the trace must remove.
    """
    fits = _released(fits)
    platforms = {c.platform for c in fits}
    if "needs-pi-wakeup" not in platforms:
        return True
    main = {c.policy.name for c in fits} & set(MAIN)
    return len(platforms) == 1 and len(main) < len(MAIN)


def _released(fits: Sequence[Candidate]) -> Sequence[Candidate]:
    """The candidates that some kernel implements, or all where none is."""
    return [c for c in fits if c.policy.releases != "hypothetical"] or fits


def _only_first(transitions: Transitions, first: Candidate, second: Candidate) -> int:
    count = np.bincount(transitions.case, minlength=len(transitions.cases))
    return int(count[first.agrees & ~second.agrees].sum())


def separating_puts(one: Candidate, other: Candidate) -> dict[str, tuple[str, str]]:
    """The puts after which two candidates leave different descriptors.

    Name of the put -> what each leaves, as `SN=1 NV=0xf2`; by calling the model for a
    loaded vCPU with nothing posted.
    """
    found = {}
    for name, put in PUTS.items():
        left = _left_by(one, put), _left_by(other, put)
        if left[0] != left[1]:
            found[name] = left
    return found


def _left_by(candidate: Candidate, put: Put) -> str:
    loaded = Vcpu(
        PiDesc(sn=False, nv=POSTED_INTR_VECTOR), cpu=0, loaded=True, wakeup_cpu=None
    )
    step = vmx_vcpu_pi_put(loaded, put, candidate.policy, PLATFORMS[candidate.platform])
    return f"SN={step.vcpu.pi.sn:d} NV={step.vcpu.pi.nv:#x}"
