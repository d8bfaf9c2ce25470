"""Rows of events as the records that the kernel's ring buffer holds, many at once.

A record is what the format text says: common fields, then the event's own at their
offsets. Strings of any length lie behind them (__data_loc), so that records of one
event may have several lengths: rows of one length make one `Records`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Field
from piscope.synth.events import FIELDS, HEADER_COLUMNS, E
from piscope.synth.kernels import KernelEvent

__all__ = ("Lost", "Records", "Tasks", "records_of")

_UINT64 = npt.NDArray[np.uint64]
_PRIO = 120  # a task of nice 0

# Fields that name a task, and the field that holds its tid.
_COMM_OF = {"comm": "pid", "prev_comm": "prev_pid", "next_comm": "next_pid"}
_PRIO_FIELDS = ("prio", "prev_prio", "next_prio")


@dataclass(slots=True)
class Records:
    """Records of one event and one length.

    ts_ns  int64[n]
    cpu    int32[n]
    tid    int32[n]
    data   uint8[n, size]; `size` is a multiple of 4
    bytes  of a record without what fills it up
    """

    event: E
    ts_ns: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    tid: npt.NDArray[np.int32]
    data: npt.NDArray[np.uint8]
    bytes: int

    def __getitem__(self, which: npt.NDArray[Any]) -> Records:
        return Records(
            self.event,
            self.ts_ns[which],
            self.cpu[which],
            self.tid[which],
            self.data[which],
            self.bytes,
        )


@dataclass(frozen=True, slots=True)
class Lost:
    """Events of a pCPU from `start_ns` until before `end_ns` are lost."""

    cpu: int
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class Tasks:
    """What the machine's tasks are called, and the texts that fields refer to."""

    comms: Mapping[int, str]
    strings: list[str]

    def name(self, tid: int) -> str:
        """The kernel's name of a task."""
        return "swapper/0" if tid == 0 else self.comms.get(tid, "")


def records_of(
    rows: list[array[int]], kernel: Mapping[E, KernelEvent], tasks: Tasks
) -> Iterator[Records]:
    """The records of a batch, event after event, in time order within each."""
    for event, flat in enumerate(rows):
        known = kernel.get(E(event))
        if known is not None and len(flat):
            width = HEADER_COLUMNS + len(FIELDS[known.event])
            table = np.frombuffer(flat, np.uint64).reshape(-1, width)
            yield from _records(known, table, tasks)


def _records(known: KernelEvent, table: _UINT64, tasks: Tasks) -> Iterator[Records]:
    fields = known.format.fields
    own = FIELDS[known.event]
    columns = {name: table[:, HEADER_COLUMNS + i] for i, name in enumerate(own)}
    texts = {f.name: f for f in fields if f.kind == "dynamic"}
    if not texts:
        yield _same_length(known, table, columns, tasks, {})
        return
    ((name, _),) = texts.items()  # no event of ours has two
    keys = columns[_COMM_OF.get(name, name)]
    for key in np.unique(keys):
        at = keys == key
        text = tasks.name(int(key)) if name in _COMM_OF else tasks.strings[int(key)]
        some = {n: c[at] for n, c in columns.items()}
        yield _same_length(known, table[at], some, tasks, {name: text.encode() + b"\0"})


def _same_length(
    known: KernelEvent,
    table: _UINT64,
    columns: Mapping[str, _UINT64],
    tasks: Tasks,
    texts: Mapping[str, bytes],
) -> Records:
    fields = (*known.format.common, *known.format.fields)
    fixed = max(f.offset + f.size for f in fields)
    # the kernel's struct is as long as its widest member's alignment makes it
    if not texts and known.format.system != "pi":
        fixed = -(-fixed // 4) * 4
    size = fixed + sum(map(len, texts.values()))
    data = np.zeros((len(table), -(-size // 4) * 4), np.uint8)
    given = {
        "common_type": np.full(len(table), known.format.id, np.uint64),
        "common_flags": table[:, 3],
        "common_pid": table[:, 2],
        **columns,
    }
    end = fixed
    for field in fields:
        if field.name in texts:
            text = texts[field.name]
            data[:, end : end + len(text)] = np.frombuffer(text, np.uint8)
            value = np.full(len(table), len(text) << 16 | end, np.uint64)
            _put(data, field, value)
            end += len(text)
        elif field.name in _COMM_OF and field.kind == "chars":
            data[:, field.offset : field.offset + field.size] = _comms(
                given[_COMM_OF[field.name]], table[:, 1], tasks, field.size
            )
        elif field.name in _PRIO_FIELDS:
            _put(data, field, np.full(len(table), _PRIO, np.uint64))
        elif field.name in given:
            _put(data, field, given[field.name])
    return Records(
        known.event,
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int32),
        table[:, 2].astype(np.int32),
        data,
        size,
    )


def _put(data: npt.NDArray[np.uint8], field: Field, values: _UINT64) -> None:
    raw = values.astype(f"<u{field.size}").view(np.uint8).reshape(-1, field.size)
    data[:, field.offset : field.offset + field.size] = raw


def _comms(
    tids: _UINT64, cpus: _UINT64, tasks: Tasks, size: int
) -> npt.NDArray[np.uint8]:
    """The names of tasks; the idle task is named after its pCPU."""
    key = tids << np.uint64(16) | np.where(tids == 0, cpus, np.uint64(0))
    found, inverse = np.unique(key, return_inverse=True)
    names = [
        tasks.name(k >> 16) if k >> 16 else f"swapper/{k & 0xFFFF}"
        for k in found.tolist()
    ]
    padded = np.array([n.encode()[: size - 1] for n in names], f"S{size}")
    table = padded.view(np.uint8).reshape(-1, size)
    result: npt.NDArray[np.uint8] = table[inverse]
    return result


def without(
    records: Iterable[Records], lost: Iterable[Lost]
) -> Iterator[tuple[Records, npt.NDArray[np.int64]]]:
    """What was not lost, and how many were by stretch (int64[len(lost)])."""
    stretches = list(lost)
    for one in records:
        counts = np.zeros(len(stretches), np.int64)
        keep = np.ones(len(one.ts_ns), np.bool_)
        for i, stretch in enumerate(stretches):
            gone = one.cpu == stretch.cpu
            gone &= (one.ts_ns >= stretch.start_ns) & (one.ts_ns < stretch.end_ns)
            counts[i] = np.count_nonzero(gone & keep)
            keep &= ~gone
        yield (one if keep.all() else one[keep]), counts
