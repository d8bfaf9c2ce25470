"""The walk through ftrace sub-buffers: where each event lies, and when it was.

    sub-buffer: | ts 8 | commit 4 or 8 | entry | entry | ... | unused |
    entry:      | type_len:5 time_delta:27 | payload, in 4-byte units |

To be read beside include/linux/ring_buffer.h (enum ring_buffer_type) and
kbuffer-parse.c of libtraceevent (translate_data), whose answers it gives.

The walk has two passes. In the first, all sub-buffers of a batch advance together,
one entry of each a turn, and only note where entries begin; the loop runs as often
as the fullest sub-buffer has entries, not once per event. The second reads all
these entries at once, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.event_format import ByteOrder, PageLayout

__all__ = ("Entries", "Pages", "walk")

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]
Times = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint32]

# ring_buffer.c: RB_MISSED_EVENTS, RB_MISSED_STORED. On 64-bit kernels bit 31 is
# sign-extended into the upper half of commit, which carries nothing of its own.
MISSED_EVENTS = 1 << 31
MISSED_STORED = 1 << 30
COMMIT_LENGTH = (1 << 27) - 1

# enum ring_buffer_type: 1..28 are payload lengths in words, 0 has it in a word.
TYPE_PADDING = 29
TYPE_TIME_EXTEND = 30
TYPE_TIME_STAMP = 31

_DELTA_BITS = np.uint64(27)
# A word that no batch has, as the end of an entry that is broken.
_BEYOND = 1 << 40
# An absolute stamp has 59 bits; the rest is that of the time before it.
_STAMP_MSB = np.uint64(0xF8 << 56)


@dataclass(slots=True)
class Pages:
    """What each sub-buffer says of itself, and how the walk through it ended.

    ts            uint64[p]: ticks of the trace clock
    used          int64[p]: bytes of data that it says it holds (commit)
    missed        bool[p]: events were lost before it
    missed_count  int64[p]: how many, where `missed_known`
    missed_known  bool[p]
    stop          int64[p]: byte of the sub-buffer at which the walk ended
    damaged       bool[p]: it ended there because no entry can look like this
    cut           bool[p]: it ended there because the file has no more of it
    events        int64[p]: events found in it
    """

    ts: Times
    used: Index
    missed: Mask
    missed_count: Index
    missed_known: Mask
    stop: Index
    damaged: Mask
    cut: Mask
    events: Index


@dataclass(slots=True)
class Entries:
    """Events found in a batch, by sub-buffer, and in each in the buffer's order.

    page    int32[n]: which sub-buffer
    at      int64[n]: byte place of the record (common_type) in the batch
    length  int32[n]: bytes of the record
    ts      uint64[n]: ticks of the trace clock
    """

    page: npt.NDArray[np.int32]
    at: Index
    length: npt.NDArray[np.int32]
    ts: Times

    def __len__(self) -> int:
        return len(self.page)


def walk(
    data: Bytes, available: Index, layout: PageLayout, page_size: int, order: ByteOrder
) -> tuple[Entries, Pages]:
    """Find every event in the sub-buffers that `data` consists of.

    `data` is uint8[p * page_size], `available` int64[p]: how many bytes of each
    sub-buffer the file really has. Times are absolute, in ticks of the trace clock.
    Time extends, absolute stamps and padding are used up here.

    Never raises for what the bytes are: a sub-buffer that can't be true gives the
    events before the byte where it goes wrong, and is marked.
    Source: libtraceevent kbuffer-parse.c, kbuffer_load_subbuffer() and
    translate_data(); for 0-length padding, ring_buffer.c rb_event_set_padding().
    """
    words: Words = data.view("<u4" if order == "little" else ">u4")
    if order == "big":
        words = words.astype(np.uint32)
    pages, start, end = _read_headers(words, available, layout, page_size, order)
    places = _find_entries(words, pages, start, end, order)
    return _read_entries(words, pages, places, page_size, order), pages


def _read_headers(
    words: Words, available: Index, layout: PageLayout, page_size: int, order: ByteOrder
) -> tuple[Pages, Index, Index]:
    first = np.arange(len(available), dtype=np.int64) * (page_size // 4)
    low, high = (0, 1) if order == "little" else (1, 0)
    ts_word = first + layout.ts_offset // 4
    ts = words[ts_word + high].astype(np.uint64) << np.uint64(32)
    ts |= words[ts_word + low]
    wide = layout.commit_size == 8
    commit = words[first + layout.commit_offset // 4 + (low if wide else 0)]
    used = (commit & np.uint32(COMMIT_LENGTH)).astype(np.int64)
    used[available < layout.data_offset] = 0
    room = page_size - layout.data_offset

    # A sub-buffer whose length exceeds its room says nothing that can be trusted.
    impossible = used > room
    missed = (commit & np.uint32(MISSED_EVENTS) != 0) & ~impossible
    missed &= available >= layout.data_offset
    stored = missed & (commit & np.uint32(MISSED_STORED) != 0) & (used & 3 == 0)
    long_bytes = layout.commit_size
    stored &= used + long_bytes <= np.minimum(available - layout.data_offset, room)
    count = np.zeros(len(available), np.int64)
    for page in np.flatnonzero(stored).tolist():
        at = int(first[page]) + (layout.data_offset + int(used[page])) // 4
        value = int(words[at + low]) if wide else int(words[at])
        if wide:
            value |= int(words[at + high]) << 32
        sign = 1 << (8 * long_bytes - 1)
        count[page] = (value ^ sign) - sign
    known = stored & (count > 0)

    readable = np.clip(available - layout.data_offset, 0, None)
    length = np.where(impossible, 0, np.minimum(used, readable) & ~np.int64(3))
    stop = layout.data_offset + length
    pages = Pages(
        ts=ts,
        used=used,
        missed=missed,
        missed_count=np.where(known, count, 0),
        missed_known=known,
        stop=np.where(impossible, layout.commit_offset, stop),
        damaged=impossible | ((used & 3 != 0) & (used <= readable)),
        cut=((readable < used) | (available < layout.data_offset)) & ~impossible,
        events=np.zeros(len(available), np.int64),
    )
    start = first + layout.data_offset // 4
    return pages, start, start + length // 4


def _split(header: Words, order: ByteOrder) -> tuple[Words, Words]:
    if order == "little":
        return header & np.uint32(31), header >> np.uint32(5)
    return header >> np.uint32(27), header & np.uint32((1 << 27) - 1)


# Words from an entry's header to the next one's, by its type; 0: a word tells it.
_STEP: Index = np.arange(1, 33, dtype=np.int64)
_STEP[[0, TYPE_PADDING]] = 0
_STEP[[TYPE_TIME_EXTEND, TYPE_TIME_STAMP]] = 2


# int32, ascending: the words of the batch at which an entry begins that is whole.
# Sets stop and damaged of the sub-buffers in which one would end beyond `end`.
def _find_entries(
    words: Words, pages: Pages, start: Index, end: Index, order: ByteOrder
) -> Places:
    found: list[Places] = []
    used = start < end
    position, limit = start[used], end[used]
    page_words = len(words) // max(1, len(start))
    while len(position):
        header = words.take(position, mode="clip")
        step = _STEP.take(_split(header, order)[0])
        after = position + step
        if not step.all():
            told = np.flatnonzero(step == 0)
            after[told] = _told_ends(
                words, position[told], header[told], limit[told], order
            )
        live = after < limit
        if live.all():
            found.append(position.astype(np.int32))
            position = after
            continue
        bad = after > limit
        if bad.any():
            page = position[bad] // page_words
            pages.stop[page] -= (limit[bad] - position[bad]) * 4
            pages.damaged[page] = ~pages.cut[page]
            position = position[~bad]
        found.append(position.astype(np.int32))
        limit, position = limit[live], after[live]
    if not found:
        return np.zeros(0, np.int32)
    # All differ, so the default sort does, which is vectorised for 32 bits.
    places = np.concatenate(found)
    places.sort()
    return places


# Where long records and paddings end; beyond `limit`: they are broken.
def _told_ends(
    words: Words, position: Index, header: Words, limit: Index, order: ByteOrder
) -> Index:
    kind, delta = _split(header, order)
    # The length in the second word counts that word as well.
    size = words.take(position + 1, mode="clip").astype(np.int64)
    after = position + 1 + ((size + 3) >> 2)
    after[(size < 4) | (position + 1 >= limit)] = _BEYOND
    # Padding without time delta has one word and stands for all that is left; other
    # padding may reach beyond commit, since the kernel fills up to the real end.
    padding = kind == TYPE_PADDING
    ends = padding & ((delta == 0) | ((after >= limit) & (after < _BEYOND)))
    after[ends] = limit[ends]
    return after


def _read_entries(
    words: Words, pages: Pages, places: Places, page_size: int, order: ByteOrder
) -> Entries:
    place = places.astype(np.int64)
    kind, delta = _split(words.take(place), order)
    bounds = np.arange(len(pages.ts) + 1, dtype=np.int64) * (page_size // 4)
    bounds = np.searchsorted(place, bounds)
    ticks = delta.astype(np.uint64)
    special = np.flatnonzero(kind - np.uint32(1) >= np.uint32(28))
    if len(special) == 0:
        pages.events[:] = np.diff(bounds)
        return Entries(
            page=np.repeat(np.arange(len(pages.ts), dtype=np.int32), pages.events),
            at=_record_bytes(place),
            length=(kind << np.uint32(2)).view(np.int32),
            ts=_times(ticks, pages.ts, bounds),
        )

    types = kind[special]
    second = words.take(place[special] + 1, mode="clip")
    far = types >= TYPE_TIME_EXTEND
    ticks[special[far]] |= second[far].astype(np.uint64) << _DELTA_BITS
    stamps = special[types == TYPE_TIME_STAMP]
    if len(stamps):
        ts = _stamped_times(ticks, stamps, pages.ts, bounds)
    else:
        ts = _times(ticks, pages.ts, bounds)
    length = (kind << np.uint32(2)).view(np.int32)
    record = _record_bytes(place)
    long = special[types == 0]
    length[long] = (second[types == 0] - np.uint32(4)).view(np.int32)
    record[long] += 4
    event = kind < np.uint32(TYPE_PADDING)
    page = np.repeat(np.arange(len(pages.ts), dtype=np.int32), np.diff(bounds))[event]
    pages.events[:] = np.bincount(page, minlength=len(pages.ts))
    return Entries(page=page, at=record[event], length=length[event], ts=ts[event])


# The byte behind each entry's header, in place of its word.
def _record_bytes(place: Index) -> Index:
    place <<= 2
    place += 4
    return place


# The time after each entry: that of its segment (sub-buffer), and all deltas since.
# One running sum through all segments: the first delta of each makes up for where
# the one before ended. Modulo 2**64, and so exact. Uses `ticks` up.
def _times(ticks: Times, base: Times, bounds: Index) -> Times:
    filled = bounds[1:] > bounds[:-1]
    starts, base = bounds[:-1][filled], base[filled]
    if len(starts):
        ends = base + np.add.reduceat(ticks, starts)
        ticks[starts] += base
        ticks[starts[1:]] -= ends[:-1]
        np.cumsum(ticks, out=ticks)
    return ticks


# The same where absolute stamps replace the time. They have 59 bits, the others are
# those of the time before; which is why the stamps are gone through one by one in
# the sub-buffers that may see these bits change.
def _stamped_times(ticks: Times, stamps: Index, page_ts: Times, bounds: Index) -> Times:
    value = ticks[stamps] & ~_STAMP_MSB
    page = np.searchsorted(bounds, stamps, side="right") - 1
    ticks[stamps] = 0
    value |= page_ts[page] & _STAMP_MSB

    def with_base() -> Times:
        # Each stamp begins a segment, as a sub-buffer does.
        segment = np.concatenate((bounds[:-1], stamps))
        base = np.concatenate((page_ts, value))
        by_place = np.argsort(segment, kind="stable")
        starts = np.append(segment[by_place], bounds[-1])
        return _times(ticks.copy(), base[by_place], starts)

    ts = with_base()
    before = np.where(stamps > bounds[page], ts[stamps - 1], page_ts[page])
    if ((before ^ page_ts[page]) & _STAMP_MSB).any():
        for i, (stamp, first) in enumerate(zip(stamps, bounds[page], strict=True)):
            last = ts[stamp - 1] if stamp > first else page_ts[page[i]]
            value[i] = (value[i] & ~_STAMP_MSB) | (last & _STAMP_MSB)
            end = bounds[page[i] + 1]
            ts[stamp:end] = value[i] + np.cumsum(ticks[stamp:end])
    return ts
