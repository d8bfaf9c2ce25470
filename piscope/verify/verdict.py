"""The verdict in words, and the exit status.

0  what was verified has no disagreement, and the trace tells it from the others
1  something disagrees: a transition, or a counter outside its range
3  the trace can't tell: no probes that read, nothing to compare, or nothing seen
   on which the policies differ
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from piscope.verify.account import Account
from piscope.verify.finding import (
    MAIN,
    PUTS,
    Candidate,
    Finding,
    separating_puts,
)
from piscope.verify.observations import UNREAD
from piscope.verify.transitions import Transitions

__all__ = ("AGREES", "CANT_TELL", "DISAGREES", "PROBES_WANTED", "conclude")

AGREES, DISAGREES, CANT_TELL = 0, 1, 3

PLATFORM_WORDS = {
    "needs-pi-wakeup": "the VM needs PI wakeup",
    "no-pi-wakeup": "the VM needs no PI wakeup (no assigned device, no IPI "
    "virtualization)",
    "no-apicv": "no APICv, or the local APICs are not in the kernel",
}

PROBES_WANTED = (
    "p:pi/pi_load vmx_vcpu_pi_load vcpu=+VCPU_ID(%di):s32 ctl=+CTL(%di):x64 "
    "pir0=+PIR(%di):x64 ...",
    "p:pi/pi_put vmx_vcpu_pi_put preempted=+PREEMPTED(%di):u8 "
    "blocking=+WAIT(%di):x64 vcpu=... ctl=... pir0=...",
    "p:pi/pi_load_done vmx_vcpu_pi_load+RETURN ... (the same for pi_put_done)",
)
"""Lines for kprobe_events; offsets from `pahole -C vcpu_vmx kvm_intel`: PIR is that of
pi_desc, CTL is PIR+32."""


def conclude(
    account: Account, finding: Finding | None, transitions: Transitions, recorded: bool
) -> None:
    """Put status, verdict and remarks into the account."""
    if finding is None:
        account.status = CANT_TELL
        account.verdict = _nothing_to_compare(account)
        return
    outside = [line for line in account.counters if line.within is False]
    if finding.verified.disagreements:
        account.status = DISAGREES
        account.verdict = _disagreeing(account, finding)
    elif not finding.told:
        account.status = CANT_TELL
        account.verdict = _undecided(account, finding)
        account.separating = _separating(finding, transitions)
    else:
        account.status = AGREES
        account.verdict = _agreeing(account, finding)
    if outside and account.status != CANT_TELL:
        account.status = DISAGREES
        names = ", ".join(f"{line.counter} of pCPU {line.cpu}" for line in outside)
        account.verdict += (
            f" The kernel counted more or fewer than the trace allows: {names}."
        )
    account.remarks = _remarks(account, finding, recorded)


def _nothing_to_compare(account: Account) -> str:
    if not account.probes:
        return (
            "Can't tell: the trace holds no probe on vmx_vcpu_pi_load or "
            "vmx_vcpu_pi_put that piscope recognizes (see --probe-load, --arg)."
        )
    if not account.readings:
        return (
            "Can't tell: the probes read no control word (no argument ctl; see --arg)."
        )
    return "Can't tell: no two readings of one vCPU follow each other."


def _count(account: Account) -> str:
    return f"{account.transitions:,} transitions"


def _agreeing(account: Account, finding: Finding) -> str:
    verified = finding.verified
    if finding.puts_do_nothing:
        loads = "; loads do nothing either" if verified.platform == "no-apicv" else ""
        return (
            f"All {_count(account)} agree, with {' and '.join(MAIN)} alike: "
            f"{PLATFORM_WORDS[verified.platform]}, and puts leave the descriptor "
            f"alone{loads}."
        )
    subject = "This kernel does" if finding.asked else "Found:"
    others = " and ".join(
        f"{n:,} of them do not with {name}" for name, n in finding.rivals.items()
    )
    return (
        f"{subject} {verified.policy.name}; {PLATFORM_WORDS[verified.platform]}. "
        f"All {_count(account)} agree; {others}."
    )


def _disagreeing(account: Account, finding: Finding) -> str:
    verified = finding.verified
    n = account.disagreements
    text = (
        f"{n:,} of {_count(account)} disagree{'s' if n == 1 else ''} with "
        f"{verified.policy.name}, where {PLATFORM_WORDS[verified.platform]}."
    )
    best = finding.fits[0]
    if best.disagreements:
        if best is not verified:
            text += (
                f" No known policy allows all; {best.policy.name} comes nearest, with "
                f"{best.disagreements:,}."
            )
        elif finding.asked is None:
            text += " No known policy allows all; this one comes nearest."
    elif finding.asked is not None:
        text += f" All agree with {_names(finding.fits)}."
    return text


def _names(fits: tuple[Candidate, ...]) -> str:
    return " or ".join(dict.fromkeys(c.policy.name for c in fits))


def _undecided(account: Account, finding: Finding) -> str:
    verified = finding.verified
    if finding.puts_do_nothing:
        return (
            f"Can't tell: all {_count(account)} agree, but with any policy: "
            f"{PLATFORM_WORDS[verified.platform]}, and puts leave the descriptor "
            "alone. Capture a VM that needs it."
        )
    both = f"all {_count(account)} agree with {verified.policy.name}"
    rivals = [name for name in MAIN if name != verified.policy.name]
    fitting = {c.policy.name for c in finding.fits}
    others = [name for name in rivals if name in fitting]
    why = f"and with {' and '.join(others)}" if others else "and on several platforms"
    return f"Can't tell: {both}, {why}; nothing was seen on which they differ."


def _separating(finding: Finding, transitions: Transitions) -> list[str]:
    """Which puts would tell the verified candidate from others that fit as well."""
    seen = _puts_seen(transitions)
    sentences = []
    for other in finding.fits:
        if other is finding.verified or (
            other.policy.name not in MAIN and other.policy != finding.verified.policy
        ):
            continue
        for name, (mine, others) in separating_puts(finding.verified, other).items():
            sentences.append(
                f"a put {name} leaves {mine} under {_named(finding.verified)}, "
                f"{others} under {_named(other)}; seen: {seen(name)}"
            )
    return list(dict.fromkeys(sentences))


def _named(candidate: Candidate) -> str:
    if candidate.platform == "no-pi-wakeup":
        return "any policy without PI wakeup"
    if candidate.platform == "no-apicv":
        return "any policy without APICv"
    return candidate.policy.name


def _puts_seen(transitions: Transitions) -> Callable[[str], str]:
    count = np.bincount(transitions.case, minlength=len(transitions.cases)).tolist()
    puts = [
        (case, n)
        for case, n in zip(transitions.cases, count, strict=True)
        if "put" in case.steps
    ]

    def seen(name: str) -> str:
        put = PUTS[name]
        told = sum(
            n
            for case, n in puts
            if (case.preempted, case.blocking) == (put.preempted, put.blocking)
        )
        untold = sum(n for case, n in puts if UNREAD in (case.preempted, case.blocking))
        words = f"{told:,}" + (" of any IF" if put.blocking and told else "")
        return words + (f", and {untold:,} puts of unknown kind" if untold else "")

    return seen


def _remarks(account: Account, finding: Finding, recorded: bool) -> list[str]:
    remarks = []
    verified = finding.verified
    same = [
        _named(c)
        for c in finding.fits
        if c.policy is not verified.policy
        and (c.platform == "needs-pi-wakeup" or not finding.puts_do_nothing)
    ]
    if same and not verified.disagreements and account.status == AGREES:
        remarks.append(f"fits as well: {', '.join(same)}")
    if not recorded:
        remarks.append(
            "no post by KVM is recorded (kvm_apicv_accept_irq): one that left no event "
            "may be KVM's or the hardware's, and proves no notification"
        )
    if account.by_trace:
        remarks.append(
            f"{account.by_trace:,} blocking puts depend on the guest's IF, which no "
            f"probe reads: {account.by_trace_armed:,} armed the wakeup vector, as with "
            f"IF=1, {account.by_trace - account.by_trace_armed:,} did not, as with IF=0"
        )
    between = sum(k.between_reads for k in account.kinds)
    if between:
        remarks.append(
            f"{between:,} readings have a bit in PIR that ON belies: a post came "
            "between the probe's two reads, or the probe between KVM's two writes"
        )
    if account.unknown_hits:
        remarks.append(
            f"{account.unknown_hits:,} hits are of vCPUs that can't be told apart (two "
            "VMs with the same vcpu_id): not compared"
        )
    cut = {why: n for why, n in account.cuts.items() if why != "begins"}
    if cut:
        told = ", ".join(f"{why} {n:,}" for why, n in cut.items())
        remarks.append(f"not compared across: {told}")
    if account.apic_form == "not told":
        remarks.append("every NDST is 0: the form of APIC ids is not told")
    return remarks
