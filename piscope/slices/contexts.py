"""What each slice of a long trace needs of the rows around it.

    slice      past |------ own ------| future
    a vCPU     e  x  o  i   e  x  e      x  e        e: kvm_entry
               ^                           ^
               since some entry before     up to an entry behind

Behind a kvm_entry nothing that came before matters to a vCPU: where it is, and what its
descriptor holds, is the same from any state. So its story since an entry, and up to one
behind, is all that its part of the slice rests on: what its thread traced, the switches
to it, what wakes it, and (once their targets are told) the posts to it. Rows of other
threads are taken with their neighbors on that pCPU, which tell what they are part of.

Of each pCPU the last rows before, and the first behind, and a switch of each side; and
every row right at a cut, because call chains are short. Rows beside lost events are
everybody's, with the trace's first and last one: events may be lost before and behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from piscope.slices.rows import Rows, together
from piscope.sources.raw import Array, Loss, Source
from piscope.tables import Vcpus
from piscope.timeline.probes import is_probe

__all__ = ("Contexts", "find_contexts")

Numbers = npt.NDArray[np.int64]

_ENTRIES = 4  # before a cut, and behind it
_AT_CUT = 2048  # rows on each side
_OF_CPU = 128  # rows of a pCPU on each side
_BEFORE, _BEHIND = 24, 12  # neighbors of another thread's row on its pCPU

_WAKES = ("sched_waking", "sched_wakeup")


@dataclass(slots=True)
class _Cut:
    """A cut, while the rows behind it are being gathered.

    left      int64[vCPUs]  entries to come until nothing more is needed
    since     int64[vCPUs]  the row from which on each one's story is in the past
    until     int64[vCPUs]  the row up to which it is in the future
    cpus      pCPUs of which no row came yet
    switching pCPUs of which no switch came yet
    """

    left: Numbers
    since: Numbers
    until: Numbers
    cpus: set[int]
    switching: set[int]
    past: Rows
    future: list[Rows] = field(default_factory=list)


@dataclass(slots=True)
class Contexts:
    """Per cut, the rows before it and behind it; `beside` are those beside losses."""

    cuts: list[_Cut]
    beside: Rows

    def around(self, i: int, block: Rows) -> Rows:
        """The table of slice `i`, whose own rows these are."""
        pieces = [block, self.beside]
        if i:
            pieces.append(self.cuts[i - 1].past)
        if i < len(self.cuts):
            pieces += self.cuts[i].future
        return together(pieces)

    def add_posts(
        self, i: int, table: Rows, vcpu: Numbers, at: Numbers
    ) -> npt.NDArray[np.bool_]:
        """Add posts of slice `i` to the stories of their targets.

        `at` int64[n, m] are the places of a post's rows in the slice's table, `vcpu`
        int64[n] its target. Which of them any story needs: bool[n].
        """
        needed = np.zeros(len(vcpu), np.bool_)
        number = table.number[at]
        near = _Near(table)
        for j, cut in enumerate(self.cuts):
            if j >= i:
                mine = number.max(axis=1) >= cut.since[vcpu]
            else:
                mine = number.min(axis=1) <= cut.until[vcpu]
            if not mine.any():
                continue
            needed |= mine
            rows = table.take(near.around(np.unique(at[mine])))
            if j >= i:
                cut.past = together([cut.past, rows])
            else:
                cut.future.append(rows)
        return needed


def find_contexts(
    read: Iterable[Rows],
    source: Source,
    vcpus: Vcpus,
    cpus: set[int],
    losses: list[Loss],
) -> Contexts:
    """Go through all blocks of a trace; each becomes a slice."""
    cuts: list[_Cut] = []
    beside: list[Rows] = []
    pairs = (np.empty(0, np.int64), np.empty(0, np.int64))
    since = np.full(len(vcpus), -1, np.int64)
    entries: list[Numbers] = [np.empty(0, np.int64) for _ in vcpus.rows]
    instants = _instants(losses)
    before: Rows | None = None
    for block in read:
        if before is not None:
            many = np.full(len(vcpus), _ENTRIES)
            ever = np.full(len(vcpus), np.iinfo(np.int64).max)
            cuts.append(_Cut(many, since, ever, set(cpus), set(cpus), before))
        table = block if before is None else together([before, block])
        near = _Near(table)
        story = _Story(table, source, vcpus, int(block.number[0]))
        if cuts and before is not None:
            cut = int(block.number[0])
            edge = np.arange(cut, min(cut + _AT_CUT, int(block.number[-1]) + 1))
            cuts[-1].future.append(table.take(table.places(edge)))
        switches = _of_event(table, source, _SWITCH)
        for open_ in cuts:
            _go_on(open_, story, near, table, block, switches)
        if len(instants):
            ends = [len(table) - 1] if before is not None else [0, len(table) - 1]
            beside.append(table.take(np.union1d(_beside(table, instants), ends)))
        since = _since(table, story, entries)
        before, pairs = _past(table, story, near, pairs, since, source)
    return Contexts(cuts, together(beside))


class _Story:
    """The rows of a block that are about each vCPU: its own, and others'.

    vcpu    int64[m]  ascending
    at      int64[m]  places in the table, ascending for each vCPU
    other   bool[m]   another thread's
    entry   bool[m]   a kvm_entry of its thread
    ends    int64[vCPUs + 1]
    """

    def __init__(self, table: Rows, source: Source, vcpus: Vcpus, first: int) -> None:
        chunk = table.chunk
        begin = int(np.searchsorted(table.number, first))
        lane = vcpus.of_tid(chunk.tid)
        own = np.flatnonzero(lane >= 0)
        of: list[Array] = [lane[own].astype(np.int64)]
        at: list[Array] = [own]
        entry = np.zeros(len(table), np.bool_)
        for index, p in chunk.payload.items():
            name = source.events[index][1]
            if name == "kvm_entry":
                entry[p.rows] = True
            for key, names in (
                ("next_pid", ("sched_switch",)),
                ("prev_pid", ("sched_switch",)),
                ("pid", _WAKES),
            ):
                if name in names and key in p.columns:
                    target = vcpus.of_tid(p.columns[key].astype(np.int32))
                    of.append(target[target >= 0].astype(np.int64))
                    at.append(p.rows[target >= 0])
            if is_probe(name):
                foreign = p.rows
                for row in vcpus.rows:
                    some = foreign[lane[foreign] != row.vcpu]
                    if "vcpu" in p.columns and row.vcpu_id is not None:
                        value = p.columns["vcpu"].astype(np.int64)
                        named = value[lane[foreign] != row.vcpu]
                        own_lane = lane[some]
                        some = some[(named == row.vcpu_id) | (own_lane < 0)]
                    of.append(np.full(len(some), row.vcpu))
                    at.append(some)
        vcpu, place = np.concatenate(of), np.concatenate(at).astype(np.int64)
        inside = place >= begin
        vcpu, place = vcpu[inside], place[inside]
        span = len(table) + 1
        both = np.sort(vcpu * span + place)  # np.unique is far slower
        both = both[np.append(True, both[1:] != both[:-1])] if len(both) else both
        self.vcpu, self.at = both // span, both % span
        self.other = lane[self.at] != self.vcpu
        self.entry = entry[self.at] & ~self.other
        self.ends = np.searchsorted(self.vcpu, np.arange(len(vcpus) + 1))

    def of(self, vcpu: int) -> slice:
        return slice(int(self.ends[vcpu]), int(self.ends[vcpu + 1]))


class _Near:
    """The rows of each pCPU around others."""

    def __init__(self, table: Rows) -> None:
        self._cpu = table.chunk.cpu
        self._order = np.argsort(self._cpu, kind="stable")
        self._place = np.empty(len(self._order), np.int64)
        self._place[self._order] = np.arange(len(self._order))

    def around(self, at: Numbers) -> Numbers:
        """Places from _BEFORE rows before each of `at` to _BEHIND behind, all told."""
        if not len(at):
            return at
        reach = np.arange(-_BEFORE, _BEHIND + 1)
        place = self._place[at][:, None] + reach
        np.clip(place, 0, len(self._order) - 1, out=place)
        found = self._order[place]
        same = self._cpu[found] == self._cpu[at][:, None]
        result: Numbers = np.unique(found[same])
        return result

    def last(self, at: Array, count: int, *, first: bool = False) -> Numbers:
        """Of the places `at` (ascending) each pCPU's last ones, or first ones."""
        order = np.argsort(self._cpu[at], kind="stable")
        at = at[order]
        cpu = self._cpu[at]
        heads = np.flatnonzero(np.append(True, cpu[1:] != cpu[:-1])) if len(at) else at
        lengths = np.diff(np.append(heads, len(at)))
        rank = np.arange(len(at)) - np.repeat(heads, lengths)
        if not first:
            rank = np.repeat(lengths, lengths) - 1 - rank
        result: Numbers = np.sort(at[rank < count])
        return result


def _go_on(
    cut: _Cut,
    story: _Story,
    near: _Near,
    table: Rows,
    block: Rows,
    switches: Numbers,
) -> None:
    """Add what a block has of the rows behind a cut."""
    picked: list[Array] = []
    others: list[Array] = []
    for vcpu in np.flatnonzero(cut.left > 0).tolist():
        mine = story.of(vcpu)
        at, entry = story.at[mine], story.entry[mine]
        if not len(at):
            continue
        ends = np.flatnonzero(entry)
        left = int(cut.left[vcpu])
        count = int(ends[left - 1]) + 1 if len(ends) >= left else len(at)
        picked.append(at[:count])
        others.append(at[:count][story.other[mine][:count]])
        cut.left[vcpu] = max(left - len(ends), 0)
        if not cut.left[vcpu]:
            cut.until[vcpu] = table.number[at[count - 1]]
    begin = int(np.searchsorted(table.number, block.number[0]))
    for cpus, rows, count in (
        (cut.cpus, np.arange(begin, len(table)), _OF_CPU),
        (cut.switching, switches[switches >= begin], 1),
    ):
        if cpus and len(rows):
            some = rows[np.isin(table.chunk.cpu[rows], sorted(cpus))]
            first = near.last(some, count, first=True)
            picked.append(first)
            cpus -= set(table.chunk.cpu[first].tolist())
    if others:
        picked.append(near.around(np.unique(np.concatenate(others))))
    if picked:
        at = np.unique(np.concatenate(picked))
        at = at[table.number[at] >= block.number[0]]
        if len(at):
            cut.future.append(table.take(at))


_SWITCH = "sched_switch"


def _since(table: Rows, story: _Story, entries: list[Numbers]) -> Numbers:
    """int64[vCPUs]: the entry since which each one's story counts, -1: all of it."""
    since = np.full(len(entries), -1, np.int64)
    for vcpu, known in enumerate(entries):
        mine = story.of(vcpu)
        new = table.number[story.at[mine][story.entry[mine]]]
        entries[vcpu] = np.concatenate([known, new])[-_ENTRIES:]
        if len(entries[vcpu]) == _ENTRIES:
            since[vcpu] = entries[vcpu][0]
    return since


def _past(
    table: Rows,
    story: _Story,
    near: _Near,
    pairs: tuple[Numbers, Numbers],
    since: Numbers,
    source: Source,
) -> tuple[Rows, tuple[Numbers, Numbers]]:
    """The rows before the cut behind this block, and whose story needs which of them.

    `pairs` (vCPU, row) are those of the cut before.
    """
    kept = pairs[1] >= since[pairs[0]]
    number = table.number[story.at]
    wanted = number >= since[story.vcpu]
    vcpu = [pairs[0][kept], story.vcpu[wanted]]
    rows = [pairs[1][kept], number[wanted]]
    foreign = wanted & story.other
    for one in np.unique(story.vcpu[foreign]).tolist():
        mine = story.of(one)
        around = near.around(story.at[mine][foreign[mine]])
        vcpu.append(np.full(len(around), one))
        rows.append(table.number[around])
    last = near.last(np.arange(len(table)), _OF_CPU)
    switches = near.last(_of_event(table, source, _SWITCH), 1)
    edge = np.arange(max(len(table) - _AT_CUT, 0), len(table))
    needed = table.places(np.unique(np.concatenate(rows)))
    at = np.unique(np.concatenate([needed, last, switches, edge]))
    return table.take(at), (np.concatenate(vcpu), np.concatenate(rows))


def _of_event(table: Rows, source: Source, name: str) -> Numbers:
    found = [
        p.rows
        for index, p in table.chunk.payload.items()
        if source.events[index][1] == name
    ]
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _instants(losses: list[Loss]) -> Numbers:
    ends = [x for loss in losses for x in (loss.start_ns, loss.end_ns) if x is not None]
    return np.unique(np.array(ends, np.int64))


def _beside(table: Rows, instants: Numbers) -> Numbers:
    """Places of the rows right before and behind each of these instants."""
    ts_ns = table.chunk.ts_ns
    if not len(ts_ns):
        return np.empty(0, np.int64)
    instants = instants[(instants >= ts_ns[0]) & (instants <= ts_ns[-1])]
    left = np.searchsorted(ts_ns, instants, side="left")
    right = np.searchsorted(ts_ns, instants, side="right")
    at = np.concatenate([left - 1, left, right - 1, right])
    result: Numbers = np.unique(at[(at >= 0) & (at < len(ts_ns))])
    return result
