"""Records packed into ftrace's sub-buffers, as ring_buffer.c packs them, many at once.

    sub-buffer: | ts 8 | commit 8 | entry | entry | ... |
    entry:      [ type_len:5 time_delta:27 | record, 4-byte units ]

Source: include/linux/ring_buffer.h, kernel/trace/ring_buffer.c.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.synth.records import Records

__all__ = ("PAGE_BYTES", "Packer")

PAGE_BYTES = 4096
_HEAD_WORDS, _PAGE_WORDS = 4, PAGE_BYTES // 4
# Room for the number of missed events behind the data.
_ROOM_WORDS = _PAGE_WORDS - _HEAD_WORDS - 2
_MAX_DELTA = (1 << 27) - 1
_TIME_EXTEND = 30
_MAX_SHORT_WORDS = 28
_MISSED_EVENTS, _MISSED_STORED = 0xFFFFFFFF80000000, 1 << 30


class Packer:
    """Makes sub-buffers of one pCPU after the other; batches follow in time order."""

    def __init__(self) -> None:
        self._missed: dict[int, dict[int, int]] = {}

    def miss(self, cpu: int, until_ns: int, count: int) -> None:
        """Events of a pCPU were lost before an instant."""
        if count:
            missed = self._missed.setdefault(cpu, {})
            missed[until_ns] = missed.get(until_ns, 0) + count

    def pages(self, records: list[Records], cpu: int) -> bytes:
        """The sub-buffers of a pCPU's records (all of that pCPU).

        One begins behind each stretch that was lost, and says how many events were.
        """
        missed = self._missed.get(cpu, {})
        ts = np.concatenate([one.ts_ns for one in records])
        order = np.argsort(ts, kind="stable")
        ts = ts[order]
        words = np.concatenate(
            [np.full(len(r.ts_ns), r.data.shape[1] // 4, np.int64) for r in records]
        )[order]
        delta = np.diff(ts, prepend=ts[:1])
        extend = delta > _MAX_DELTA
        long = words > _MAX_SHORT_WORDS
        size = 1 + words + 2 * extend + long
        first = _first_of_pages(size, np.searchsorted(ts, sorted(missed)))
        page = np.zeros(len(ts), np.int64)
        page[first[1:]] = 1
        page = np.cumsum(page)
        delta[first] = 0
        end = np.cumsum(size)
        begin = end - size
        at = page * _PAGE_WORDS + _HEAD_WORDS + begin - begin[first][page]

        out = np.zeros(len(first) * _PAGE_WORDS, np.uint32)
        out[at[extend]] = (delta[extend] & _MAX_DELTA) << 5 | _TIME_EXTEND
        out[at[extend] + 1] = delta[extend] >> 27
        at = at + 2 * extend
        delta[extend] = 0
        out[at] = (delta << 5 | np.where(long, 0, words)).astype(np.uint32)
        out[at[long] + 1] = 4 * (words[long] + 1)
        at = at + 1 + long
        place = np.empty(len(ts), np.int64)
        place[order] = at
        done = 0
        for one in records:
            n, width = len(one.ts_ns), one.data.shape[1] // 4
            to = place[done : done + n, None] + np.arange(width)
            out[to] = one.data.view("<u4")
            done += n
        heads = out.view(np.uint64).reshape(-1, _PAGE_WORDS // 2)
        heads[:, 0] = ts[first]
        last = np.append(first[1:], len(ts)) - 1
        used = 4 * (end[last] - begin[first])
        heads[:, 1] = used
        for until_ns in sorted(missed):
            at = int(np.searchsorted(ts[first], until_ns))
            if at < len(first):
                count = missed.pop(until_ns)
                heads[at, 1] |= np.uint64(_MISSED_EVENTS | _MISSED_STORED)
                tail = at * _PAGE_WORDS + _HEAD_WORDS + int(used[at]) // 4
                out[tail], out[tail + 1] = count & 0xFFFFFFFF, count >> 32
        return out.tobytes()


def _first_of_pages(
    size: npt.NDArray[np.int64], forced: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The first entry of each sub-buffer: as many as have room."""
    total = np.concatenate([[0], np.cumsum(size)])
    stops = sorted({int(i) for i in forced if 0 < i < len(size)} | {len(size)})
    first, at = [], 0
    for stop in stops:
        while at < stop:
            first.append(at)
            full = int(np.searchsorted(total, total[at] + _ROOM_WORDS, side="right"))
            at = min(full - 1, stop)
    return np.array(first, np.int64)
