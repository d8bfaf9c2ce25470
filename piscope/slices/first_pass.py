"""The first pass over a long trace: its vCPUs, pCPUs, instants, losses and probes.

Few rows tell them: the first of each thread, and its first kvm_entry and kvm_exit. What
`find_vcpus` makes of these it would make of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from piscope.slices.rows import Rows
from piscope.sources.raw import Array, Source
from piscope.timeline.probes import is_probe

__all__ = ("Seen", "first_pass")

_PREEMPTED = 0x100  # TASK_REPORT_MAX, include/linux/sched.h: printed as "R+"

Numbers = npt.NDArray[np.int64]


@dataclass(slots=True)
class Seen:
    """What the pass saw.

    first_ns, last_ns  None: there are none
    telling  the rows that tell which threads are vCPUs
    probe_values  as in whole.Whole
    """

    first_ns: int | None = None
    last_ns: int | None = None
    cpus: set[int] = field(default_factory=set)
    telling: list[Rows] = field(default_factory=list)
    probe_values: dict[str, Counter[tuple[int, int]]] = field(default_factory=dict)
    preempted_told: bool = False


def first_pass(read: Iterable[Rows], source: Source) -> Seen:
    """Go through all blocks of a trace."""
    seen = Seen()
    known: set[tuple[str, int]] = set()
    for block in read:
        if not len(block):
            continue
        chunk = block.chunk
        first, last = int(chunk.ts_ns[0]), int(chunk.ts_ns[-1])
        seen.first_ns = first if seen.first_ns is None else seen.first_ns
        seen.last_ns = last
        seen.cpus.update(np.unique(chunk.cpu).tolist())
        at: list[int] = []

        def new(word: str, values: Numbers, rows: Numbers, at: list[int] = at) -> None:
            for number, i in _first_of_each(values):
                if (word, number) not in known:
                    known.add((word, number))
                    at.append(int(rows[i]))

        new("thread", chunk.tid.astype(np.int64), np.arange(len(block)))
        for index, p in chunk.payload.items():
            name = source.events[index][1]
            if name in ("kvm_entry", "kvm_exit"):
                tid = chunk.tid[p.rows].astype(np.int64)
                new(name, tid, p.rows)
                if "vcpu_id" in p.columns:
                    told = p.valid.get("vcpu_id", np.ones(len(p.rows), np.bool_))
                    new(f"{name}, with vcpu_id", tid[told], p.rows[told])
                if name == "kvm_exit" and "isa" in p.columns:
                    new("isa", p.columns["isa"].astype(np.int64), p.rows)
            elif name == "sched_switch" and "prev_state" in p.columns:
                state = p.columns["prev_state"].astype(np.int64)
                seen.preempted_told |= bool((state & _PREEMPTED).any())
            elif is_probe(name) and "vcpu" in p.columns:
                told = p.valid.get("vcpu", np.ones(len(p.rows), np.bool_))
                counts = seen.probe_values.setdefault(name, Counter())
                counts.update(_pairs(chunk.tid[p.rows[told]], p.columns["vcpu"][told]))
        seen.telling.append(block.take(np.unique(np.array(at, np.int64))))
    return seen


_MOST_COUNTED = 1 << 22  # as many as there can be threads


def _first_of_each(values: Numbers) -> list[tuple[int, int]]:
    """Each different value and its first index, in the order of the values."""
    if not len(values) or values.min() < 0 or values.max() > _MOST_COUNTED:
        numbers, where = np.unique(values, return_index=True)
    else:
        first = np.full(int(values.max()) + 1, -1)
        # written backwards, so that of several the first one stays
        first[values[::-1]] = np.arange(len(values) - 1, -1, -1)
        numbers = np.flatnonzero(first >= 0)
        where = first[numbers]
    return list(zip(numbers.tolist(), where.tolist(), strict=True))


def _pairs(tid: Array, value: Array) -> dict[tuple[int, int], int]:
    """How often each (tid, value) comes."""
    values, code = np.unique(value.astype(np.int64), return_inverse=True)
    pairs, count = np.unique(
        tid.astype(np.int64) * max(len(values), 1) + code, return_counts=True
    )
    return {
        (pair // len(values), int(values[pair % len(values)])): n
        for pair, n in zip(pairs.tolist(), count.tolist(), strict=True)
    }
