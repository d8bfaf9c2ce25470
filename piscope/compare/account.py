"""What is told of two captures: the object that every form is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = (
    "PERS",
    "VERDICTS",
    "Account",
    "Capture",
    "Figure",
    "Pair",
    "Rate",
    "Span",
    "Spread",
    "Verdict",
)

SCHEMA_VERSION = 1
"""Of the JSON; a key that is renamed, removed, or changes its meaning raises it."""

PERS: dict[str, str] = {
    "second": "a second",
    "1000_exits": "per 1,000 VM-exits",
    "1000_entries": "per 1,000 VM-entries",
}
"""What a number may be divided by, in the order told."""

VERDICTS: dict[str, str] = {
    "rises": "beyond what the ranges allow, and beyond chance",
    "falls": "likewise",
    "noise": "not beyond chance, whatever the ranges allow",
    "open": "that depends on what the traces leave open",
    "same": "the same number, for sure",
    "differs": "beyond the ranges; how much of it is chance is not known (times)",
}
"""What can be said of a difference."""

Verdict = Literal["rises", "falls", "noise", "open", "same", "differs"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A number that lies between `min` and `max`; `max` null: any number.

    min  what the trace proves
    max  what it can't exclude
    """

    min: float
    max: float | None

    @property
    def is_exact(self) -> bool:
        """Whether the trace leaves nothing open."""
        return self.min == self.max


@dataclass(frozen=True, slots=True)
class Span:
    """An interval.

    min  null: without end on that side
    max  null likewise
    """

    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Rate:
    """One figure of both captures, divided by the same thing.

    per         a key of PERS
    a           of the first capture
    b           of the second
    difference  b - a: what the ranges allow
    ratio       b / a: what the ranges allow; null: a is 0
    confidence  95% interval of b / a: what the ranges and chance allow, where the
                events counted come independently; null: not a count
    p           chance of counts so far apart with one rate, at best; null likewise
    verdict     a word of those below
    """

    per: str
    a: Spread
    b: Spread
    difference: Span
    ratio: Span | None
    confidence: Span | None
    p: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was counted or timed.

    metric     as `piscope gate` names it (docs/gate.md), or one of those below
    key        put reason, VM-exit, state or cost; "": none
    policy_a   that A is replayed under; null: the same under all
    policy_b   that B is
    unit       "count" or "ns"
    meaning    for people
    a          the first capture's number
    b          the second's
    rates      divided, a line each; empty where dividing makes no sense (a longest)
    """

    metric: str
    key: str
    policy_a: str | None
    policy_b: str | None
    unit: str
    meaning: str
    a: Spread
    b: Spread
    rates: list[Rate]


@dataclass(frozen=True, slots=True)
class Capture:
    """One of the two.

    path      as given
    format    of the file, for people
    kernel_release  of the traced host; null: not told
    captured_policy  of its own kernel; null: not known
    captured_policy_by  "probes", "release" or "nothing"
    duration_ns  from the first event to the last
    exits     VM-exits
    entries   VM-entries
    vcpus     with any event
    vms       how many; null: not told
    cpus      pCPUs with events
    probes    events on pi_load and pi_put that were used
    losses    places where events were lost
    lost_events  in all of them; null: not known
    unknown   share of the vCPUs' time of which nothing is known, 0 to 1
    posted    which of KVM's posts were replayed as hardware's
    posts     that are known
    events    names of the tracepoints that the analysis reads, and that were recorded
    """

    path: str
    format: str
    kernel_release: str | None
    captured_policy: str | None
    captured_policy_by: str
    duration_ns: int
    exits: int
    entries: int
    vcpus: int
    vms: int | None
    cpus: int
    probes: list[str]
    losses: int
    lost_events: int | None
    unknown: float
    posted: str
    posts: int
    events: list[str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Which policies are compared.

    a  that A is replayed under
    b  that B is
    """

    a: str
    b: str


@dataclass(slots=True)
class Account:
    """The whole comparison, ready to be rendered.

    schema_version  raised when a key is renamed, removed, or changes its meaning
    piscope_version  that made it
    question  which posts were replayed as hardware's, for people
    confidence  of the intervals
    a         the first capture
    b         the second
    verdict   the first sentences, on notifications to vCPUs that are not loaded
    cannot_tell  whether that verdict is open
    pairs     which policies were compared; the verdict is on the first
    figures   those that hold under all policies, then pair by pair
    unfair    what makes the comparison unfair, a sentence each
    remarks   how to read it
    """

    schema_version: int
    piscope_version: str
    question: str
    confidence: float
    a: Capture
    b: Capture
    verdict: list[str]
    cannot_tell: bool
    pairs: list[Pair]
    figures: list[Figure]
    unfair: list[str]
    remarks: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The account as plain dicts, lists and numbers, in the order of the JSON."""
        from dataclasses import asdict

        return asdict(self)
