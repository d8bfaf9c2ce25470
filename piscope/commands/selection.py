"""Which rows of a chunk a user asked for, beyond what a source selects itself.

A source selects by event, pCPU and time (sources.raw.Wanted); threads and vCPUs
need the decoded fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.sources.raw import Payload, RawChunk

__all__ = ("Rows", "kept", "parse_numbers", "without_fields")

_NUMBERS = re.compile(r"[0-9]{1,10}(?:-[0-9]{1,10})?(?:,[0-9]{1,10}(?:-[0-9]{1,10})?)*")
_MOST_NUMBERS = 1 << 16

_NAMING_FIELDS = {
    # `apicid` of the accept events is KVM's vcpu_id, whatever it is called.
    "kvm": ("vcpu_id", "apicid"),
    # sched_switch and sched_wakeup name the threads that they are about.
    "sched": ("prev_pid", "next_pid", "pid"),
}


def parse_numbers(text: str) -> frozenset[int]:
    """The numbers of a list such as `0-3,5`.

    Raises UsageError for any other shape, for a range that runs backwards and for
    more than 65,536 numbers.
    """
    if not _NUMBERS.fullmatch(text):
        raise UsageError(f"{text!r} is not a list of numbers such as 0-3,5")
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if high < low:
            raise UsageError(f"{part!r} runs backwards: write {last}-{first}")
        if high - low + len(numbers) >= _MOST_NUMBERS:
            raise UsageError(f"{text!r} is more than {_MOST_NUMBERS:,} numbers")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


@dataclass(frozen=True, slots=True)
class Rows:
    """The threads and vCPUs whose events are wanted; None: all.

    tids          threads: the events that happened while they ran
    vcpu_ids      vCPUs of any VM: the events of their threads, those that name the
                  vCPU in a field, and the switches and wakeups of their threads
    vcpu_threads  tid -> vcpu_ids that it ran, over the whole trace
    """

    tids: Set[int] | None = None
    vcpu_ids: Set[int] | None = None
    vcpu_threads: Mapping[int, Set[int]] | None = None

    def mask(
        self, chunk: RawChunk, events: list[tuple[str, str]]
    ) -> npt.NDArray[np.bool_] | None:
        """bool[n]: the rows to keep; None: all. `events` is Source.events."""
        result: npt.NDArray[np.bool_] | None = None
        if self.tids is not None:
            result = np.isin(chunk.tid, list(self.tids))
        if self.vcpu_ids is not None:
            of_vcpus = self._of_vcpus(chunk, events)
            result = of_vcpus if result is None else result & of_vcpus
        return result

    def _of_vcpus(
        self, chunk: RawChunk, events: list[tuple[str, str]]
    ) -> npt.NDArray[np.bool_]:
        vcpu_ids = self.vcpu_ids or frozenset()
        threads = [
            tid for tid, ran in (self.vcpu_threads or {}).items() if ran & vcpu_ids
        ]
        result: npt.NDArray[np.bool_] = np.isin(chunk.tid, threads)
        for index, payload in chunk.payload.items():
            system, event = events[index]
            # A text tells no systems, but these events' names begin with theirs.
            system = system or event.partition("_")[0]
            wanted = list(vcpu_ids) if system == "kvm" else threads
            for name in _NAMING_FIELDS.get(system, ()):
                _mark(result, payload, name, wanted)
        return result


def _mark(
    result: npt.NDArray[np.bool_], payload: Payload, name: str, wanted: list[int]
) -> None:
    values = payload.columns.get(name)
    if values is None or values.dtype.kind not in "iu":
        return
    found = np.isin(values, wanted)
    if name in payload.valid:
        found &= payload.valid[name]
    result[payload.rows[found]] = True


def kept(chunk: RawChunk, mask: npt.NDArray[np.bool_]) -> RawChunk:
    """The rows of a chunk that `mask` (bool[n]) marks, in the same order."""
    place = np.cumsum(mask, dtype=np.int64) - 1
    payload: dict[int, Payload] = {}
    for index, p in chunk.payload.items():
        stay = mask[p.rows]
        if stay.any():
            payload[index] = Payload(
                place[p.rows[stay]],
                {name: values[stay] for name, values in p.columns.items()},
                {name: known[stay] for name, known in p.valid.items()},
            )
    return RawChunk(
        ts_ns=chunk.ts_ns[mask],
        cpu=chunk.cpu[mask],
        seq=chunk.seq[mask],
        tid=chunk.tid[mask],
        flags=chunk.flags[mask],
        event=chunk.event[mask],
        payload=payload,
        watermark_ns=chunk.watermark_ns,
        place=None if chunk.place is None else chunk.place[mask],
    )


def without_fields(
    chunk: RawChunk, absent: frozenset[str], events: list[tuple[str, str]]
) -> None:
    """Take fields out of a chunk, as if the kernel had not recorded them.

    `absent` holds field names, alone or as `event.field`.
    """
    for index, payload in chunk.payload.items():
        event = events[index][1]
        for name in [
            n for n in payload.columns if n in absent or f"{event}.{n}" in absent
        ]:
            del payload.columns[name]
            payload.valid.pop(name, None)
