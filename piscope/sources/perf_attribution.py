"""Which layout each sample of a recording has, where its attrs differ in that.

A sample carries the id of its attr, if all attrs put it at the same place. Where one
attr lacks it (perf has made such files), the sample's shape has to tell.

To be read beside tools/perf/util/evlist.c, evlist__event2evsel().
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.sources.perf_header import PerfHeader
from piscope.sources.perf_layout import Gather, SampleLayout, id_offset

__all__ = ("NO_TRACEPOINT", "UNKNOWN", "Attribution")

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

UNKNOWN = -1
"""A sample whose layout can't be told."""

_MAX_TABLE = 1 << 20
NO_TRACEPOINT = -2
"""A sample of an attr that is no tracepoint (cycles, page faults, ...)."""


class Attribution:
    """The layouts of a recording's tracepoints, and the choice among them."""

    def __init__(self, header: PerfHeader) -> None:
        self.layouts: list[SampleLayout] = []
        self._types_of: list[Mask] = []  # layout -> the common_types it is used for
        numbers: dict[tuple[int, int], int] = {}
        self._of_attr: list[int] = []
        for attr in header.attrs:
            if not attr.is_tracepoint:
                self._of_attr.append(NO_TRACEPOINT)
                continue
            key = (attr.sample_type, attr.read_format)
            if key not in numbers:
                numbers[key] = len(self.layouts)
                self.layouts.append(SampleLayout(*key))
                self._types_of.append(np.zeros(1 << 16, np.bool_))
            self._of_attr.append(numbers[key])
            self._types_of[numbers[key]][attr.config & 0xFFFF] = True
        self._id_at = id_offset(header.attrs)
        # Id 0 is what the kernel writes when it does not know, and stands for the
        # first attr.
        pairs = {0: 0, **header.attr_of_id}
        ids = sorted(pairs)
        self._ids = np.array(ids, np.uint64)
        self._of_id = np.array([self._of_attr[pairs[i]] for i in ids], np.int64)
        # The kernel counts ids up from 1 since it was booted: mostly a table serves.
        self._table = np.full(min(ids[-1] + 1, _MAX_TABLE) + 1, UNKNOWN, np.int64)
        small = self._ids < len(self._table) - 1
        self._table[self._ids[small].astype(np.int64)] = self._of_id[small]

    def layouts_of(self, gather: Gather, starts: Index, sizes: Index) -> Index | None:
        """The index in `layouts` of each sample, UNKNOWN or NO_TRACEPOINT.

        None where every sample has layout 0.
        """
        if set(self._of_attr) == {0}:
            return None
        if self._id_at is None:
            of = np.full(len(starts), UNKNOWN, np.int64)
        else:
            inside = sizes >= self._id_at + 8
            ids = gather("u8", np.where(inside, starts + self._id_at, starts))
            of = self._table[np.minimum(ids, len(self._table) - 1).astype(np.int64)]
            if int(self._ids[-1]) >= _MAX_TABLE:
                place = np.searchsorted(self._ids, ids)
                place[place == len(self._ids)] = 0
                of = np.where(self._ids[place] == ids, self._of_id[place], UNKNOWN)
            if not inside.all():
                of[~inside] = UNKNOWN
        unknown = np.flatnonzero(of == UNKNOWN)
        if len(unknown):
            of[unknown] = self._by_shape(gather, starts[unknown], sizes[unknown])
        return of

    # A layout fits if it leads to a record of one of its own tracepoints, with the
    # room behind its size that the kernel leaves (4 + size is a multiple of 8).
    def _by_shape(self, gather: Gather, starts: Index, sizes: Index) -> Index:
        of = np.full(len(starts), UNKNOWN, np.int64)
        for number, layout in enumerate(self.layouts):
            at, lengths, inside = layout.raw_places(gather, starts, sizes)
            fits = inside & ((4 + lengths) & 7 == 0) & (lengths >= 8)
            types = gather("u2", np.where(fits, at, starts))
            fits &= self._types_of[number][types]
            of[fits & (of == UNKNOWN)] = number
        return of
