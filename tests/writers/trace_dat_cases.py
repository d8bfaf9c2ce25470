"""Small trace.dat files with numbered events, and what of them comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from piscope.sources.raw import Wanted
from piscope.sources.trace_dat import TraceDatSource
from writers import trace_dat as w
from writers.trace_events import Event

EVERY = Wanted({"*": None})
PER_PAGE = 5


def events(count: int = 120, cpus: int = 2) -> list[Event]:
    """Events 100 ns apart in each pCPU; tid tells which event it is."""
    return [
        Event("kvm_exit", 10**6 + 100 * (i // cpus), i % cpus, i, {"exit_reason": i})
        for i in range(count)
    ]


def made(own: Sequence[Event] | None = None, **variant: Any) -> w.Recording:
    return w.recording(own or events(), per_page=PER_PAGE, **variant)


def tids(source: TraceDatSource) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for chunk in source.chunks(EVERY):
        for cpu, tid in zip(chunk.cpu.tolist(), chunk.tid.tolist(), strict=True):
            out.setdefault(cpu, []).append(tid)
    return out


def causes(source: TraceDatSource) -> Counter[str]:
    return Counter(loss.cause for loss in source.losses)


ALL = {cpu: list(range(cpu, 120, 2)) for cpu in (0, 1)}
FILES = [(6, "none"), (7, "none"), (7, "zlib"), (7, "zstd")]
