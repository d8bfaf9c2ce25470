"""What makes a comparison of two captures unfair, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from piscope.compare.account import Capture, Pair
from piscope.report.render_words import duration_text

__all__ = ("unfair",)

_TWICE = 2.0  # a difference in size that no run of the same workload should have
_MOST_NAMES = 6
_MUCH_UNKNOWN = 0.05


def unfair(a: Capture, b: Capture, pairs: Sequence[Pair]) -> list[str]:
    """Differences other than the change that is to be judged, and gaps of either."""
    return [
        *_of_kernels(a, b, pairs),
        *_of_sizes(a, b),
        *_of_recording(a, b),
        *_of_gaps(a, b),
    ]


def _of_kernels(a: Capture, b: Capture, pairs: Sequence[Pair]) -> Iterator[str]:
    for name, capture, policies in (
        ("A", a, {pair.a for pair in pairs}),
        ("B", b, {pair.b for pair in pairs}),
    ):
        own = capture.captured_policy
        if own is None:
            yield f"The policy of {name}'s own kernel is not known."
        elif policies != {own}:
            yield (
                f"{name}'s own kernel has {own}: what is told of it under"
                f" {' and '.join(sorted(policies - {own}))} is replayed over a timeline"
                " that kernel did not have."
            )
        elif capture.captured_policy_by == "release":
            yield f"That {name}'s kernel has {own} is told by its release alone."
    if a.kernel_release is None or b.kernel_release is None:
        which = "A" if a.kernel_release is None else "B"
        yield f"{which} does not tell its kernel's release."


def _of_sizes(a: Capture, b: Capture) -> Iterator[str]:
    if _far(a.duration_ns, b.duration_ns):
        yield (
            f"One lasts longer: A {duration_text(a.duration_ns)}, B"
            f" {duration_text(b.duration_ns)}."
        )
    for what, x, y in (
        ("vCPUs", a.vcpus, b.vcpus),
        ("VMs", a.vms, b.vms),
        ("pCPUs with events", a.cpus, b.cpus),
    ):
        if x != y:
            yield f"The number of {what} differs: A {_told(x)}, B {_told(y)}."
    per_s = [
        capture.entries * 1e9 / capture.duration_ns if capture.duration_ns else 0.0
        for capture in (a, b)
    ]
    if _far(*per_s):
        yield (
            f"The workload differs: {per_s[0]:,.0f} VM-entries a second in A,"
            f" {per_s[1]:,.0f} in B."
        )
    if a.posted != b.posted:
        yield (
            f"Other posts are replayed as hardware's: A --posted {a.posted}, B --posted"
            f" {b.posted}. Give --posted to have one question."
        )
    if bool(a.posts) is not bool(b.posts):
        without = "A" if not a.posts else "B"
        yield f"No post is visible in {without}: its notifications are guessed at less."


def _told(number: int | None) -> str:
    return "not told" if number is None else f"{number:,}"


def _far(x: float, y: float) -> bool:
    return max(x, y) > _TWICE * min(x, y)


def _of_recording(a: Capture, b: Capture) -> Iterator[str]:
    kinds = [capture.format.split(" ")[0] for capture in (a, b)]
    if kinds[0] != kinds[1]:
        yield (
            f"The formats differ ({a.format}; {b.format}), and so does what recording"
            " costs."
        )
    for one, name, other, other_name in ((a, "A", b, "B"), (b, "B", a, "A")):
        missing = [event for event in one.events if event not in other.events]
        if missing:
            listed = ", ".join(missing[:_MOST_NAMES])
            more = f" and {len(missing) - _MOST_NAMES} more"
            listed += more if len(missing) > _MOST_NAMES else ""
            yield f"Only {name} holds {listed}: {other_name} may know less."
    if bool(a.probes) is not bool(b.probes):
        name = "A" if a.probes else "B"
        yield (
            f"Only {name} has probes on pi_load and pi_put, so that its ranges are"
            " narrower."
        )


def _of_gaps(a: Capture, b: Capture) -> Iterator[str]:
    for name, capture in (("A", a), ("B", b)):
        if capture.losses:
            events = capture.lost_events
            count = "an unknown number of" if events is None else f"{events:,}"
            yield f"{name} lost {count} events, in {_places(capture.losses)}."
        if capture.unknown > _MUCH_UNKNOWN:
            yield (
                f"In {name}, what the vCPUs did is unknown for"
                f" {100 * capture.unknown:.0f}% of their time."
            )


def _places(count: int) -> str:
    return "1 place" if count == 1 else f"{count:,} places"
