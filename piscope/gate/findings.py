"""What the gate found: a verdict for each limit, and one for the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from piscope.gate.limits import Limit
from piscope.gate.metrics import Range

__all__ = ("EXIT_STATUS", "Finding", "Report", "State", "TraceLine", "Verdict")


class Verdict(StrEnum):
    """What can be said of one limit."""

    KEPT = "kept"
    BROKEN = "broken"
    CANNOT_TELL = "cannot tell"
    NOT_ANALYZED = "not analyzed"


EXIT_STATUS = {
    Verdict.KEPT: 0,
    Verdict.BROKEN: 1,
    Verdict.NOT_ANALYZED: 2,
    Verdict.CANNOT_TELL: 3,
}
"""As the architecture has it for every command."""

_WORST_FIRST = (Verdict.NOT_ANALYZED, Verdict.BROKEN, Verdict.CANNOT_TELL)


class State(StrEnum):
    """A trace against the baseline."""

    UNCHANGED = "unchanged"  # the same bytes
    CHANGED = "changed"
    NEW = "new"  # the baseline does not know it
    MISSING = "missing"  # only the baseline knows it
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One trace of the corpus or the baseline.

    path    null: missing
    cached  whether its numbers come from an earlier run
    why     of an unreadable one, in one line
    """

    name: str
    path: str | None
    state: State
    cached: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One limit, and what it met.

    scope    "trace", "group", "corpus" or "baseline"
    name     of the trace or group
    path     of the trace that shows it best; null: none does
    limit    null: not about a limit (an unreadable trace, another version)
    was, now in the limit's own measure; null: not known
    why      of a verdict that the numbers alone don't explain
    command  the command line that shows why; "": none
    """

    verdict: Verdict
    scope: str
    name: str
    path: str | None = None
    limit: Limit | None = None
    was: Range | None = None
    now: Range | None = None
    why: str = ""
    command: str = ""

    @property
    def rule(self) -> str:
        """What it is about, as the baseline writes it."""
        return self.limit.name if self.limit is not None else self.verdict.value


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run of the gate.

    findings  all limits, kept or not: worst first, then by scope and name
    """

    baseline: str
    piscope: str
    traces: Sequence[TraceLine]
    findings: Sequence[Finding]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst of all: not analyzed, broken, cannot tell, kept."""
        met = {finding.verdict for finding in self.findings}
        return next((v for v in _WORST_FIRST if v in met), Verdict.KEPT)

    @property
    def exit_status(self) -> int:
        """That of the process."""
        return EXIT_STATUS[self.verdict]

    def count(self, verdict: Verdict) -> int:
        """How many limits have it."""
        return sum(finding.verdict == verdict for finding in self.findings)

    def open(self) -> list[Finding]:
        """All that are not kept."""
        return [f for f in self.findings if f.verdict != Verdict.KEPT]
