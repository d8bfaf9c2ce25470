"""What a trace lacks that would tell more of its posts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from piscope.origins import Evidence
from piscope.report.posts_report import Missing
from piscope.tables import Events, Given, Posts

__all__ = ("MissingTally",)

# For each: the posts that it concerns by their evidence, the events, what they tell.
_TELLING: tuple[tuple[frozenset[Evidence], tuple[str, ...], str], ...] = (
    (
        frozenset({Evidence.IRQ_CONTEXT}),
        ("irq:irq_handler_entry", "irq:irq_handler_exit"),
        "which device's interrupt the host handled",
    ),
    (
        frozenset(
            {Evidence.IRQ_CONTEXT, Evidence.PENDING_TIMER, Evidence.TIMER_VECTOR}
        ),
        ("irq_vectors:local_timer_entry", "irq_vectors:local_timer_exit"),
        "that a timer of the host expired",
    ),
    (
        frozenset({Evidence.EXIT_REASON, Evidence.OWN_THREAD}),
        ("kvm:kvm_apic_ipi",),
        "that a vCPU sent an IPI, of which kind",
    ),
    (
        frozenset({Evidence.EXIT_REASON, Evidence.OWN_THREAD}),
        ("kvm:kvm_exit",),
        "why the poster left its guest",
    ),
    (
        frozenset({Evidence.OWN_THREAD, Evidence.PENDING_TIMER}),
        ("kvm:kvm_vcpu_wakeup",),
        "that a halt had ended",
    ),
    (
        frozenset({Evidence.PENDING_TIMER}),
        ("sched:sched_waking",),
        "who woke the vCPU from its halt",
    ),
    (
        frozenset({Evidence.USER_THREAD, Evidence.OWN_THREAD, Evidence.VFIO_IRQ}),
        ("kvm:kvm_msi_set_irq",),
        "that it was an MSI, and whether it had one destination",
    ),
    (
        frozenset({Evidence.USER_THREAD}),
        ("kvm:kvm_set_irq", "kvm:kvm_ioapic_set_irq"),
        "that it was an interrupt line",
    ),
    (
        frozenset({Evidence.KWORKER, Evidence.IRQFD_INJECT}),
        ("workqueue:workqueue_queue_work", "workqueue:workqueue_execute_start"),
        "who signaled the irqfd",
    ),
)
_ACCEPTS = ("kvm:kvm_apicv_accept_irq", "kvm:kvm_apic_accept_irq")
_WAKING = "sched:sched_waking"
_ASKED_FOR = {*_ACCEPTS, _WAKING, *(name for _, names, _ in _TELLING for name in names)}


class MissingTally:
    """Counts of the posts of which a trace tells little, by what it tells."""

    def __init__(self) -> None:
        self._evidence: Counter[int] = Counter()
        self._no_target = 0
        self._lacking: set[str] = set()

    def add(self, events: Events, posts: Posts, which: npt.NDArray[np.int64]) -> None:
        """Count the posts of those indices."""
        traced = which[posts.given[which] == Given.TRACED]
        self._evidence.update(posts.evidence[traced].tolist())
        self._no_target += int((posts.vcpu[traced] < 0).sum())
        self._lacking = {
            name for name in _ASKED_FOR if not events.has(name.partition(":")[2])
        }

    def finish(self) -> list[Missing]:
        """What to record to know more, and of how many posts."""
        result = []
        for concerns, names, tells in _TELLING:
            number = sum(self._evidence[evidence] for evidence in concerns)
            if number and self._lacking.issuperset(names):
                result.append(Missing(list(names), tells, number))
        if self._lacking.issuperset(_ACCEPTS):
            result.append(Missing(list(_ACCEPTS), "which interrupts KVM posted", 0))
        if self._no_target and _WAKING in self._lacking:
            tells = "which vCPU a post woke"
            result.append(Missing([_WAKING], tells, self._no_target))
        return result
