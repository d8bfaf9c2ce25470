"""Whose posts a trace holds: by origin, vCPU, vector and poster, and what is not told.

`PostsReport` is what every form of `piscope posts` is made from; posts_tally makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from piscope import __version__
from piscope.origins import EVIDENCE

__all__ = ("Missing", "OriginLine", "PostsReport", "evidence_text", "shares")

SCHEMA_VERSION = 1


@dataclass(slots=True)
class OriginLine:
    """The posts of one origin.

    Evidence and posters come most posts first; of equally many, evidence in the order
    of origins.Evidence, interrupts in that of their first post, then threads by number.

    origin    a word of origins.Origin
    meaning   what it is, for people
    posts     how many
    inferred  of them: on evidence that leaves another origin possible
    postable  of them: hardware could have posted them
    evidence  how many by what tells
    posters   thread name, or the interrupt's name -> how many
    vcpus     label -> how many; posts without a target are under "?"
    vectors   vector -> how many
    """

    origin: str
    meaning: str
    posts: int
    inferred: int
    postable: int
    evidence: dict[str, int]
    posters: dict[str, int]
    vcpus: dict[str, int]
    vectors: dict[int, int]


@dataclass(slots=True)
class Missing:
    """Events that this trace lacks, and what they would have told of how many posts.

    events  `system:name` each
    tells   a clause for people
    posts   that it concerns
    """

    events: list[str]
    tells: str
    posts: int


@dataclass(slots=True)
class PostsReport:
    """The posts of one trace.

    posts        interrupts that KVM accepted, in what was asked for
    known        those whose origin is told
    inferred     of the known: on evidence that leaves another origin possible
    targets      those whose target vCPU is told
    learned      of these: from other posts
    target_by    how many by what tells the target
    not_posted   of all: into IRR, since APICv was off
    unseen       windows into which hardware posted without an event, as probes betray;
                 null: no probe tells
    origins      most posts first, "unknown" last
    missing      what to record to know more
    """

    path: str
    kernel_release: str | None
    duration_ns: int
    posts: int
    known: int
    inferred: int
    targets: int
    learned: int
    target_by: dict[str, int]
    not_posted: int
    unseen: int | None
    origins: list[OriginLine]
    missing: list[Missing]
    narrowed: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    piscope_version: str = __version__

    def as_dict(self) -> dict[str, Any]:
        """The JSON document, as plain values."""
        return asdict(self)


def shares(number: int, of: int) -> str:
    """`12.5%`, and never 100% of what is not all."""
    if not of:
        return "-"
    if number == of:
        return "100%"
    return f"{min(100 * number / of, 99.9):.1f}%"


def evidence_text(evidence: Iterable[tuple[str, int]]) -> Sequence[str]:
    """Each evidence with its number, in words."""
    meaning = {e.label: text for e, text in EVIDENCE.items()}
    return [f"{number:,}: {meaning[name]}" for name, number in evidence]
