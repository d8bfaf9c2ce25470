"""The event formats of real kernels, as their tracefs printed them.

`kernels/RELEASE.formats` holds texts of events/SYSTEM/NAME/format, each behind a line
`system: NAME`, taken from captures of those kernels (see sample_traces/README.md). A
release in between, or older, gets those of the newest kernel that is not newer, or the
oldest that there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from piscope.model.policy import policy_of_release
from piscope.sources.event_format import parse_event_format
from piscope.sources.raw import EventFormat
from piscope.synth.events import FIELDS, E

__all__ = ("KernelEvent", "kernel_events", "version_of", "without_arguments")

_FOLDER = Path(__file__).parent / "kernels"

# Names of kprobes hold the offset of the return that they are set on.
_PROBE_OFFSETS = ("_done_0x",)


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """A tracepoint of a kernel: its format text, and what that says."""

    event: E
    format: EventFormat
    text: bytes


def version_of(release: str) -> tuple[int, int]:
    """MAJOR and MINOR of a `uname -r`.

    Raises UsageError if it does not begin with two numbers.
    """
    policy_of_release(release)
    major, minor = release.strip().split(".")[:2]
    digits = "".join(c for c in minor if c.isdigit() or c == "-").split("-")[0]
    return int(major), int(digits)


def kernel_events(release: str) -> dict[E, KernelEvent]:
    """The events of a kernel with that `uname -r`, by what they are.

    kvm_apicv_accept_irq is left out before 5.15, which has none.

    Raises UsageError if the release does not begin with two numbers.
    """
    asked = version_of(release)
    known = sorted((version_of(path.stem), path) for path in _FOLDER.glob("*.formats"))
    (_, path) = max((one for one in known if one[0] <= asked), default=known[0])
    found: dict[E, KernelEvent] = {}
    for part in path.read_text(encoding="utf-8").split("system: ")[1:]:
        system, _, text = part.partition("\n")
        text = text.rstrip("\n") + "\n"
        parsed = parse_event_format(text, system.strip())
        name = parsed.name
        for mark in _PROBE_OFFSETS:
            name = name.partition(mark)[0] + ("_done" if mark in name else "")
        if name in E.__members__ and E[name] not in found:
            found[E[name]] = KernelEvent(E[name], parsed, text.encode())
    if asked < (5, 15):
        found.pop(E.kvm_apicv_accept_irq, None)
    missing = [event.name for event in FIELDS if event not in found]
    assert asked < (5, 15) or not missing, f"{path.name} lacks {missing}"
    return found


def without_arguments(known: KernelEvent) -> KernelEvent:
    """A kprobe's event, as one that fetches nothing has it."""
    head, _, _ = known.text.decode().partition("\nprint fmt:")
    kept: list[str] = []
    for line in head.split("\n"):
        kept.append(line)
        if "__probe_ip;" in line:
            break
    text = "\n".join([*kept, "", 'print fmt: "(%lx)", REC->__probe_ip', ""])
    parsed = parse_event_format(text, known.format.system)
    return KernelEvent(known.event, parsed, text.encode())
