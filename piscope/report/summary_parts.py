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
    """

    notification_exits: int | None
    wakeup_exits: int | None
    wakeup_handler_calls: int | None
