"""One pass over the events of a trace.dat: batches of sub-buffers to chunks of rows.

Events that are not wanted leave early: their ids are counted and their times used,
and nothing else of them is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.errors import TraceFormatError
from piscope.sources.event_format import ByteOrder, Decoder, PageLayout
from piscope.sources.loss_log import LossLog
from piscope.sources.raw import EventFormat, Loss, RawChunk, Wanted
from piscope.sources.trace_dat_batches import Lane, batches, watermark_ns
from piscope.sources.trace_dat_lanes import ChunkedPages
from piscope.sources.trace_dat_located import Located, locate
from piscope.sources.trace_dat_losses import note_page_losses
from piscope.sources.trace_dat_time_order import (
    backward_steps,
    in_time_order,
    misplaced_events,
)

__all__ = ("CHUNK_ROWS", "CommonFields", "Pass")

CHUNK_ROWS = 1 << 18
"""Rows of a chunk, at most."""

_IDS = 1 << 16
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CommonFields:
    """Byte offsets of the fields that every record begins with, from a format."""

    type_offset: int = 0
    flags_offset: int = 2
    pid_offset: int = 4

    @property
    def end(self) -> int:
        """Bytes that a record must have."""
        return max(self.type_offset + 2, self.flags_offset + 1, self.pid_offset + 4)

    @classmethod
    def of(cls, layout: EventFormat) -> CommonFields:
        """Those of a format; the usual offsets for what it does not describe."""
        common = {f.name: f.offset for f in layout.common}
        return cls(
            type_offset=common.get("common_type", 0),
            flags_offset=common.get("common_flags", 2),
            pid_offset=common.get("common_pid", 4),
        )


@dataclass(frozen=True, slots=True)
class Known:
    """The events that a file describes: id -> (index, system, name), and formats."""

    ids: Mapping[int, tuple[int, str, str]]
    formats: Mapping[str, EventFormat]
    common: CommonFields


class Pass:
    """The events of some lanes, as one `Wanted` asks for them.

    When `chunks` has ended, these are complete:

    id_counts   int64[65536]: events of each id within the times that are wanted
    log         what is lost
    steps_back  how often time went back on a pCPU, and by how much at most, in ns
    """

    def __init__(
        self, lanes: Sequence[Lane], wanted: Wanted, known: Known, log: LossLog
    ) -> None:
        self.id_counts: Index = np.zeros(_IDS, np.int64)
        self.log = log
        self.steps_back = (0, 0)
        self._lanes = lanes
        self._wanted = wanted
        self._known = known
        self._common = known.common
        # id -> index of the event, and whether its rows are given.
        self._index: npt.NDArray[np.uint16] = np.zeros(_IDS, np.uint16)
        self._given: Mask = np.zeros(_IDS, np.bool_)
        self._decoded: dict[int, tuple[EventFormat, tuple[str, ...] | None]] = {}
        self._judged: Mask = np.zeros(_IDS, np.bool_)

    # Count ids, and decide for those that are new whether their events are given: a
    # file describes thousands of events, of which a trace holds a few.
    def _count(self, ids: npt.NDArray[np.uint16]) -> None:
        counts = np.bincount(ids, minlength=_IDS)
        self.id_counts += counts
        new = np.flatnonzero((counts > 0) & ~self._judged)
        self._judged[new] = True
        for number in new.tolist():
            if number not in self._known.ids:
                continue
            event, system, name = self._known.ids[number]
            self._index[number] = event
            if self._wanted.ignored(system, name):
                continue
            fields = self._wanted.fields_of(system, name)
            if isinstance(fields, bool):
                self._given[number] = self._wanted.others
                continue
            self._given[number] = True
            try:
                layout = self._known.formats[f"{system}:{name}"]
            except TraceFormatError as error:
                self.log.add(Loss("damaged", detail=str(error)))
            else:
                self._decoded[event] = (layout, fields)

    def chunks(self, layout: PageLayout, order: ByteOrder) -> Iterator[RawChunk]:
        """All wanted events, a batch of sub-buffers at a time."""
        decoder = Decoder(order)
        for batch in batches(self._lanes, layout, order):
            located = locate(batch, layout, order)
            note_page_losses(located, self.log)
            wrong = misplaced_events(located, self.log)
            rows, ids = self._rows(decoder, located, wrong)
            # Row i of the batch is event i + sequence[its sub-buffer] of its lane.
            steps_back = self.steps_back[0]
            sequence = self._advance(located, wrong)
            if self.steps_back[0] > steps_back:
                rows = in_time_order(located, rows)
                ids = self._ids(decoder, located, rows)
            for start in range(0, max(1, len(rows)), CHUNK_ROWS):
                end = start + CHUNK_ROWS
                chunk = self._chunk(
                    decoder, located, sequence, rows[start:end], ids[start:end]
                )
                if end >= len(rows):
                    chunk.watermark_ns = watermark_ns(self._lanes)
                yield chunk

    # The events of a batch that are given, and their ids; counts all that there are.
    def _rows(
        self, decoder: Decoder, located: Located, wrong: Mask | None
    ) -> tuple[Index, npt.NDArray[np.uint16]]:
        entries, wanted = located.entries, self._wanted
        keep: Mask | None = None if wrong is None else ~wrong
        short = entries.length < self._common.end
        if short.any():
            self._note_short(located, short)
            keep = ~short if keep is None else keep & ~short
        if wanted.start_ns is not None:
            inside = located.ts_ns >= wanted.start_ns
            keep = inside if keep is None else keep & inside
        if wanted.end_ns is not None:
            inside = located.ts_ns < wanted.end_ns
            keep = inside if keep is None else keep & inside
        if keep is None:
            ids = self._ids(decoder, located, None)
            self._count(ids)
            rows = np.flatnonzero(self._given.take(ids))
            return rows, ids.take(rows)
        rows = np.flatnonzero(keep)
        ids = self._ids(decoder, located, rows)
        self._count(ids)
        given = self._given.take(ids)
        return rows[given], ids[given]

    # uint16: the ids of the events at `rows`, or of all.
    def _ids(
        self, decoder: Decoder, located: Located, rows: Index | None
    ) -> npt.NDArray[np.uint16]:
        at = located.entries.at if rows is None else located.entries.at.take(rows)
        if self._common.type_offset:
            at = at + self._common.type_offset
        return decoder.integers(located.batch.data, at, 2)

    def _note_short(self, located: Located, short: Mask) -> None:
        for part in located.batch.parts:
            count = int(short[located.events_of(part)].sum())
            if count:
                self.log.add(
                    Loss(
                        "damaged",
                        cpu=part.lane.cpu,
                        count=count,
                        detail=f"{count} records are shorter than the fields that "
                        f"all events have ({self._common.end} bytes)",
                    )
                )

    # Tell the lanes how far they have been read.
    def _advance(self, located: Located, wrong: Mask | None) -> Index:
        sequence = np.empty(len(located.pages.ts), np.int64)
        for part in located.batch.parts:
            lane, own = part.lane, located.events_of(part)
            sequence[part.first : part.end] = lane.events - own.start
            count, farthest = backward_steps(located, part, wrong)
            self.steps_back = (
                self.steps_back[0] + count,
                max(self.steps_back[1], farthest),
            )
            lane.events += own.stop - own.start
            times = located.ts_ns[own]
            if wrong is not None:
                times = times[~wrong[own]]
            lane.page_ns = max(1, lane.page_ns)
            if len(times):
                if lane.first_ns is None:
                    lane.first_ns = int(times[0])
                last = int(times.max()) if count else int(times[-1])
                last = max(last, lane.last_ns if lane.last_ns is not None else last)
                span = last - int(times[0])
                lane.page_ns = max(1, span // (part.end - part.first))
                lane.last_ns = last
        return sequence

    def _chunk(
        self,
        decoder: Decoder,
        located: Located,
        sequence: Index,
        rows: Index,
        ids: npt.NDArray[np.uint16],
    ) -> RawChunk:
        data, entries = located.batch.data, located.entries
        page = entries.page.take(rows)
        at = entries.at.take(rows)
        length = entries.length.take(rows).astype(np.int64)
        cpu_of_page = np.repeat(
            np.array([p.lane.cpu for p in located.batch.parts], np.int32),
            [p.end - p.first for p in located.batch.parts],
        )
        event = self._index.take(ids)
        chunk = RawChunk(
            ts_ns=located.ts_ns.take(rows),
            cpu=cpu_of_page.take(page),
            seq=sequence.take(page) + rows,
            tid=decoder.integers(data, at + self._common.pid_offset, 4, signed=True),
            flags=decoder.integers(data, at + self._common.flags_offset, 1),
            event=event,
            payload={},
        )
        for index in np.flatnonzero(np.bincount(event)).tolist():
            if index in self._decoded:
                layout, names = self._decoded[index]
                own = np.flatnonzero(event == index)
                chunk.payload[index] = decoder.payload(
                    data, at.take(own), length.take(own), own, layout, names=names
                )
        if self._wanted.places:
            chunk.place = self._places(located, page, at)
        return chunk

    # Compressed sub-buffers are at no byte of their own, only their chunk is.
    def _places(
        self, located: Located, page: npt.NDArray[np.int32], at: Index
    ) -> Index:
        batch = located.batch
        chunked = np.repeat(
            [isinstance(p.lane.pages, ChunkedPages) for p in batch.parts],
            [p.end - p.first for p in batch.parts],
        )
        within = at - page.astype(np.int64) * batch.page_size
        return batch.places.take(page) + np.where(chunked.take(page), 0, within)
