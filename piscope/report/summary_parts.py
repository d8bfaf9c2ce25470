"""Parts of the summary: a range of counts, a VM-exit's handler, what left an event."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("Bounds", "Handler", "Observed")


@dataclass(slots=True)
class Bounds:
    """A count that lies between `min` and `max`.

    min  what the trace proves
    max  what it can't exclude
    """

    min: int = 0
    max: int = 0

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.min + other.min, self.max + other.max)

    def __str__(self) -> str:
        if self.min == self.max:
            return f"{self.min:,}"
        return f"{self.min:,} to {self.max:,}"


@dataclass(slots=True)
class Handler:
    """What KVM did behind the VM-exits of one reason.

    reason            its number
    name              KVM's name of it
    exits             VM-exits of that reason
    straight_back     of them: the entry follows, without a sleep, a halt or userspace
    host_ns           time in KVM behind them, without polling
    straight_back_ns  time from exit to entry of those that go straight back
    residual          by policy: known notifications that hit such a handler
    savable           of those: sent to a handler that went straight back, so that one
                      with IRQs off would have saved the IRQ
    """

    reason: int
    name: str
    exits: int
    straight_back: int
    host_ns: int
    straight_back_ns: int
    residual: dict[str, Bounds]
    savable: dict[str, Bounds]


@dataclass(slots=True)
class Observed:
    """Notifications of the captured kernel that left an event of their own.

    notification_exits    VM-exits by vector 0xF2: L2 ran, or APICv was inhibited; null:
                          kvm_exit does not tell the vector
    wakeup_exits          VM-exits by vector 0xF1; null likewise
    wakeup_handler_calls  hits of a probe on pi_wakeup_handler; null: no such probe
    unexplained_wakings   wakings of vCPUs in interrupts that nothing but 0xF1 explains;
                          null: not all that may explain one was recorded
    wakeup_irqs           interrupts 0xF1 that any of these shows, each once
    woken_blocked         of the wakings: the vCPU was blocked, as it must be
    woken_elsewhere       it was surely not: the timeline and 0xF1 disagree
    on_read               probes read ON at the load that followed
    on_missing            it was 0, though a post had set it
    proved                windows of blocked vCPUs that probes prove a post by hardware
                          into, under the captured policy
    proved_seen           of them: a waking by 0xF1 was seen
    """

    notification_exits: int | None
    wakeup_exits: int | None
    wakeup_handler_calls: int | None
    unexplained_wakings: int | None = None
    wakeup_irqs: int = 0
    woken_blocked: int = 0
    woken_elsewhere: int = 0
    on_read: int = 0
    on_missing: int = 0
    proved: int = 0
    proved_seen: int = 0
