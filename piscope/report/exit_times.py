"""How long VM-exits took, by class (reason and isa) and vCPU, added up part by part.

A duration is kept in 4 bytes, so that percentiles are exact:

    block    class a: vCPU 0 | vCPU 1 | ...   class b: vCPU 0 | ...     one a part
    at last  all blocks' a, vCPU 0 | all blocks' a, vCPU 1 | ...

What 32 bits of ns do not hold (more than 4.29 s) is kept beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.report.exit_names import OTHER
from piscope.sources.raw import Array

__all__ = ("ExitTimes", "Times", "TimesOf", "class_keys")

Numbers = npt.NDArray[np.int64]

_MOST_REASONS = 512
# VMX has 80 reasons, SVM 160; a damaged trace may claim millions.

_MOST_NS = (1 << 32) - 1  # this and more, and less than 0, is kept beside

_PERCENTILES = (50, 90, 99)


def class_keys(reason: Array, isa: Array) -> Numbers:
    """int64[n]: one number for each exit's (reason, isa)."""
    keys: Numbers = (reason.astype(np.int64) + 1) * 4 + (isa & 3)
    return keys


@dataclass(slots=True)
class TimesOf:
    """The exits of one class and some vCPUs.

    percentiles_ns  50, 90, 99: nearest rank, the least that so many do not exceed
    max_at_ns       when the longest began; of equals that of the first vCPU
    """

    count: int
    total_ns: int
    min_ns: int
    max_ns: int
    max_at_ns: int
    percentiles_ns: tuple[int, int, int]


@dataclass(slots=True)
class _Groups:
    """Exits by class and vCPU, group after group; the first columns are int64[groups].

    key        class_keys; in the end the number of the class
    total_ns, min_ns, max_ns
    max_at_ns  when the longest began, the earliest of equals
    ns         uint32[exits]: from 0 to _MOST_NS, group after group
    beside     those that ns does not hold: int64[2, m], group and duration
    """

    key: Numbers
    vcpu: Numbers
    count: Numbers
    total_ns: Numbers
    min_ns: Numbers
    max_ns: Numbers
    max_at_ns: Numbers
    ns: npt.NDArray[np.uint32]
    beside: Numbers

    @property
    def starts(self) -> Numbers:
        """int64[groups + 1]: where in `ns` each group's begin."""
        return np.append(0, np.cumsum(self.count))


class ExitTimes:
    """Durations of the parts of a trace, added in its order."""

    def __init__(self) -> None:
        self._blocks: list[_Groups] = []

    def add(self, key: Numbers, vcpu: Array, ts_ns: Numbers, dur_ns: Numbers) -> None:
        """Add exits in time order: class_keys, vCPU, begin, and time to the entry."""
        if len(key):
            self._blocks.append(_grouped(key, vcpu, ts_ns, dur_ns))

    def finish(self, vcpus: int) -> Times:
        """All that was added; the blocks are used up."""
        blocks, self._blocks = self._blocks, []
        if not blocks:
            return Times(_Classes(np.empty(0, np.int64), np.empty(0, np.int64)), None)
        key = np.concatenate([b.key for b in blocks])
        vcpu = np.concatenate([b.vcpu for b in blocks])
        count = np.concatenate([b.count for b in blocks])
        classes = _classes(key, count)
        code = classes.of(key)
        group = code * vcpus + vcpu
        order = np.argsort(group, kind="stable")
        first = _first_of_runs(group[order])
        heads = order[first]

        def added(name: str) -> Numbers:
            return np.concatenate([getattr(b, name) for b in blocks])[order]

        max_ns = np.maximum.reduceat(longest := added("max_ns"), first)
        runs = np.diff(np.append(first, len(order)))
        never = np.iinfo(np.int64).max
        at_ns = np.where(longest == np.repeat(max_ns, runs), added("max_at_ns"), never)
        whole = _Groups(
            key=code[heads],
            vcpu=vcpu[heads],
            count=np.add.reduceat(count[order], first),
            total_ns=np.add.reduceat(added("total_ns"), first),
            min_ns=np.minimum.reduceat(added("min_ns"), first),
            max_ns=max_ns,
            max_at_ns=np.minimum.reduceat(at_ns, first),
            ns=np.empty(0, np.uint32),
            beside=np.empty((2, 0), np.int64),
        )
        group_of = np.empty(len(order), np.int64)
        group_of[order] = np.repeat(np.arange(len(first)), runs)
        to = np.empty(len(order), np.int64)
        to[order] = np.cumsum(count[order]) - count[order]
        _gather(whole, blocks, group_of, to)
        return Times(classes, whole)


@dataclass(frozen=True, slots=True)
class _Classes:
    """Which class each key of the trace is of: both int64[keys], `keys` ascending."""

    keys: Numbers
    number: Numbers

    def of(self, key: Numbers) -> Numbers:
        """int64[n]: the classes of keys that there are."""
        result: Numbers = self.number[np.searchsorted(self.keys, key)]
        return result

    @property
    def reasons(self) -> list[tuple[int, int]]:
        """(reason, isa) by class."""
        found = [(OTHER, 0)] * (int(self.number.max(initial=-1)) + 1)
        named = self.number < _MOST_REASONS
        for key, number in zip(
            self.keys[named].tolist(), self.number[named].tolist(), strict=True
        ):
            found[number] = (key // 4 - 1, key % 4)
        return found


class Times:
    """Exits of a whole trace, to be asked of one class and any vCPUs.

    classes  (reason, isa) of each class; beyond the 512 most frequent ones all are
             one, OTHER
    """

    def __init__(self, classes: _Classes, groups: _Groups | None) -> None:
        self.classes = classes.reasons
        self._of_key = classes
        self._groups = groups
        if groups is not None:
            self._bounds = np.searchsorted(
                groups.key, np.arange(len(self.classes) + 1)
            ).tolist()
            self._starts = np.append(0, np.cumsum(groups.count)).tolist()

    def class_of(self, key: int) -> int:
        """The class of exits with this of `class_keys`."""
        return int(self._of_key.of(np.array(key)))

    def of(self, index: int, chosen: npt.NDArray[np.bool_]) -> TimesOf | None:
        """Class `index` of the vCPUs `chosen`, bool[vCPUs]; None: there are none."""
        g = self._groups
        assert g is not None
        here = slice(self._bounds[index], self._bounds[index + 1])
        at = here.start + np.flatnonzero(chosen[g.vcpu[here]])
        if not len(at):
            return None
        longest = at[g.max_ns[at].argmax()]
        return TimesOf(
            count=int(g.count[at].sum()),
            total_ns=int(g.total_ns[at].sum()),
            min_ns=int(g.min_ns[at].min()),
            max_ns=int(g.max_ns[longest]),
            max_at_ns=int(g.max_at_ns[longest]),
            percentiles_ns=self._percentiles(g, at),
        )

    def _percentiles(self, g: _Groups, at: Numbers) -> tuple[int, int, int]:
        spans = [slice(*self._starts[n : n + 2]) for n in at.tolist()]
        ns = np.concatenate([g.ns[span] for span in spans])
        n = len(ns)
        ranks = [max(-(-n * p // 100) - 1, 0) for p in _PERCENTILES]
        ns.partition(ranks)
        beside = np.sort(g.beside[1][np.isin(g.beside[0], at)])
        below = int(np.searchsorted(beside, 0))

        def at_rank(rank: int) -> int:
            if rank < below:
                return int(beside[rank])
            if rank >= n - (len(beside) - below):
                return int(beside[rank - n])
            return int(ns[rank])

        p50, p90, p99 = map(at_rank, ranks)
        return p50, p90, p99


def _grouped(key: Numbers, vcpu: Array, ts_ns: Numbers, dur_ns: Numbers) -> _Groups:
    # by vCPU, then by class, each time stable; sorts of 16 bits are by radix
    order = np.argsort(_narrow(vcpu), kind="stable")
    seen, code = _numbered(key)
    order = order[np.argsort(_narrow(code)[order], kind="stable")]
    code, vcpu, dur_ns = code[order], vcpu[order].astype(np.int64), dur_ns[order]
    changes = (code[1:] != code[:-1]) | (vcpu[1:] != vcpu[:-1])
    first = np.flatnonzero(np.append(True, changes))
    count = np.diff(np.append(first, len(order)))
    max_ns = np.maximum.reduceat(dur_ns, first)
    longest = np.flatnonzero(dur_ns == np.repeat(max_ns, count))
    longest = longest[np.searchsorted(longest, first)]
    outside = np.flatnonzero((dur_ns < 0) | (dur_ns >= _MOST_NS))
    group = np.searchsorted(first, outside, side="right") - 1
    return _Groups(
        key=seen[code[first]],
        vcpu=vcpu[first],
        count=count,
        total_ns=np.add.reduceat(dur_ns, first),
        min_ns=np.minimum.reduceat(dur_ns, first),
        max_ns=max_ns,
        max_at_ns=ts_ns[order[longest]],
        ns=np.clip(dur_ns, 0, _MOST_NS).astype(np.uint32),
        beside=np.stack([group, dur_ns[outside]]),
    )


def _gather(
    whole: _Groups, blocks: list[_Groups], group_of: Numbers, to: Numbers
) -> None:
    """Put the durations of the blocks where `to` says; the blocks are used up.

    `group_of` and `to`, int64[groups of all blocks]: the group of `whole` that each
    belongs to, and the place of its first duration.
    """
    if len(blocks) == 1 and (np.diff(to) > 0).all():
        whole.ns = blocks[0].ns
        whole.beside = blocks[0].beside
        whole.beside[0] = group_of[whole.beside[0]]
        return
    whole.ns = np.empty(int(whole.count.sum()), np.uint32)
    beside, done = [], 0
    while blocks:
        block = blocks.pop(0)
        mine = slice(done, done + len(block.key))
        done = mine.stop
        shift = to[mine] - block.starts[:-1]
        whole.ns[np.repeat(shift, block.count) + np.arange(len(block.ns))] = block.ns
        beside.append(np.stack([group_of[mine][block.beside[0]], block.beside[1]]))
    whole.beside = np.concatenate(beside, axis=1)


def _classes(key: Numbers, count: Numbers) -> _Classes:
    """Number the classes of groups that have `count` exits each."""
    keys, code = np.unique(key, return_inverse=True)
    number = np.arange(len(keys))
    if len(keys) > _MOST_REASONS:
        exits = np.zeros(len(keys), np.int64)
        np.add.at(exits, code, count)
        often = np.argsort(-exits, kind="stable")[:_MOST_REASONS]
        number[:] = _MOST_REASONS
        number[often] = np.arange(_MOST_REASONS)
    return _Classes(keys, number)


_MOST_TABLED = 1 << 16


def _numbered(key: Numbers) -> tuple[Numbers, Numbers]:
    """The different keys, ascending, and of each one its number among them."""
    if int(key.min()) < 0 or int(key.max()) >= _MOST_TABLED:
        return np.unique(key, return_inverse=True)
    seen = np.flatnonzero(np.bincount(key))
    number = np.zeros(_MOST_TABLED, np.int64)
    number[seen] = np.arange(len(seen))
    return seen, number[key]


def _narrow(values: Array) -> Array:
    few = int(values.max(initial=0)) < 1 << 16
    return values.astype(np.uint16 if few else np.uint32)


def _first_of_runs(values: Numbers) -> Numbers:
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))
