"""What a trace could not show, said to people, with what to record next time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from piscope.posted import parse_posted
from piscope.report.own_part import ChosenPart
from piscope.report.summary import Question, Summary
from piscope.tables import PutReason

__all__ = ("GapsTally",)

_ASKED = (
    "sched_waking",
    "sched_wakeup",
    "sched_switch",
    "kvm_apicv_accept_irq",
    "kvm_apic_accept_irq",
)


class GapsTally:
    """What no number of a summary tells of what the trace could not show."""

    def __init__(self) -> None:
        self._has: dict[str, bool] = {}
        self._userspace_visible = True
        self._halts = 0

    def add(self, part: ChosenPart) -> None:
        """Count a part's own halts that are taken to have interrupts enabled."""
        events, timeline = part.analysis.events, part.analysis.timeline
        w = timeline.windows
        self._has = {name: events.has(name) for name in _ASKED}
        self._userspace_visible = timeline.userspace_visible
        halts = (w.reason == PutReason.BLOCKING) & (w.nv_put < 0) & part.windows
        self._halts += int(np.count_nonzero(halts))

    def finish(self, summary: Summary) -> list[str]:
        """A sentence for each thing that the numbers leave open, most telling first."""
        return _cannot_tell(summary, self._has, self._userspace_visible, self._halts)


def _cannot_tell(
    summary: Summary, has: dict[str, bool], userspace_visible: bool, halts: int
) -> list[str]:
    said: list[str] = []
    trace, question = summary.trace, summary.question
    for loss in trace.losses:
        count = "an unknown number of" if loss.events is None else f"{loss.events:,}"
        said.append(
            f"{loss.cause}: {count} events ({loss.detail}); what they covered is "
            "unknown, not zero"
        )
    if trace.posting_by_hardware is None:
        said.append(
            "Posts by a device (VT-d) or by IPI virtualization leave no event, and no "
            "probe reads the descriptor: each exposed window may hold one. Probes on "
            "vmx_vcpu_pi_load and vmx_vcpu_pi_put tell (see README, Probes)."
        )
    elif trace.posting_by_hardware is False:
        said.append(
            "The probes show that this kernel found no need for PI wakeup (no assigned "
            "device, no IPI virtualization): nothing but KVM posted here, and both "
            "policies are replayed as if it had been needed."
        )
    if halts and trace.posting_by_hardware is not False:
        said.append(
            f"{halts:,} puts of a blocked vCPU are taken to be of a guest that halted "
            "with interrupts enabled (IF=1), and so to arm the wakeup vector; no event "
            "tells. With IF=0 (a vCPU going offline) SN and NV stay as they were. "
            "Probes tell."
        )
    if not userspace_visible:
        said.append(
            "Visits to userspace leave no event here; each is a window that is not "
            "counted for sure. Record kvm:kvm_userspace_exit and kvm:kvm_fpu."
        )
    if not (has["sched_waking"] or has["sched_wakeup"]):
        said.append(
            "Without sched:sched_waking a sleep can't be told from a preemption that "
            "prints as one (kernels 5.18 to 6.15)."
        )
    if not has["sched_switch"]:
        said.append(
            "Without sched:sched_switch no preemption, block or sleep is visible, and "
            "no pCPU's other work. Record sched:sched_switch."
        )
    if not (has["kvm_apicv_accept_irq"] or has["kvm_apic_accept_irq"]):
        said.append(
            "No post by KVM is in this trace: either none was made, or its events were "
            "not recorded (kvm:kvm_apicv_accept_irq, kvm:kvm_apic_accept_irq, "
            "kvm:kvm_msi_set_irq)."
        )
    if question.no_target:
        said.append(
            f"{question.no_target:,} posts name a vcpu_id that several VMs have; they "
            "are left out. Record with `trace-cmd record -c` or perf, which tell "
            "processes apart."
        )
    if question.not_posted:
        said.append(
            f"{question.not_posted:,} interrupts were accepted without APICv; they "
            "never touched a descriptor and are left out."
        )
    said += _what_if(question)
    seen = summary.observed
    if seen is not None and (seen.woken_elsewhere or seen.on_missing):
        said.append(
            f"{seen.woken_elsewhere:,} wakings by 0xF1 found a vCPU that is not "
            f"blocked in this timeline, and behind {seen.on_missing:,} a probe read "
            "ON=0: it misses something there."
        )
    unsure = sum(v.uncertain_puts for v in summary.vcpus)
    if unsure:
        total = sum(sum(v.puts.values()) for v in summary.vcpus)
        said.append(
            f"{unsure:,} of {total:,} puts have an uncertain reason or instant."
        )
    contradictions = max(
        (p.contradictions for p in summary.policies.values()), default=0
    )
    if contradictions:
        said.append(
            f"{contradictions:,} events contradict the ones before them: something was "
            "missed there that no loss accounts for."
        )
    said.append(
        "Removing an IRQ would itself shift the timeline (an idle pCPU sleeps on, a "
        "task runs on); both policies are replayed over the one timeline that was "
        "recorded."
    )
    return said


def _what_if(question: Question) -> Iterator[str]:
    """What became of each origin that `--posted` named, where it is not plain."""
    words = parse_posted(question.posted)
    if "vfio" in words and "vfio" in question.reinterpreted:
        yield (
            "The host handled the assigned devices' interrupts (remapped mode), which "
            "shaped this timeline: host IRQs, VM-exits and wakings that VT-d's posting "
            "spares. The comparison of the policies holds, the counts are estimates."
        )
    for word in words:
        kept = question.kept.get(word, 0)
        if kept:
            yield (
                f"{kept:,} posts of origin {word} stay KVM's: hardware can't post a "
                "line, an interrupt with several destinations, or an IPI that is not "
                "fixed, physical and edge."
            )
        elif word not in ("msi", "none") and word not in question.reinterpreted:
            yield (
                f"No post of origin {word} is in this trace; `piscope posts` tells "
                "whose the others are."
            )
