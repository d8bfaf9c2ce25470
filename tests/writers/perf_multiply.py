"""A large perf.data from a small real one: its records over and over, ever later.

The copies keep the event mix, the order in the file and the finished rounds of the
original, so that perf reads the result as it reads that.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

IDENTIFIER, IP, TID, TIME, RAW = 1 << 16, 1 << 0, 1 << 1, 1 << 2, 1 << 10
SAMPLE, FINISHED_ROUND = 9, 68


def multiply(source: Path, target: Path, target_bytes: int) -> tuple[int, int]:
    """Write `target` of about that size; returns its samples and its bytes.

    `source` is a little-endian file whose samples all begin IDENTIFIER, IP, TID, TIME,
    as those of `perf record -a -e TRACEPOINT` do.
    """
    data = source.read_bytes()
    head = list(struct.unpack_from("<13Q", data))
    if data[:8] != b"PERFILE2" or head[1] != 104:
        raise ValueError(f"{source}: a little-endian perf.data file was expected")
    data_at, data_size = head[5], head[6]
    records = np.frombuffer(data, np.uint8, data_size, data_at).copy()

    offsets = _offsets(records)
    kinds = np.array([int.from_bytes(records[o : o + 4], "little") for o in offsets])
    times_at = offsets[kinds == SAMPLE] + 8 + 24
    repeated = np.isin(kinds, (SAMPLE, FINISHED_ROUND))
    ends = np.append(offsets[1:], len(records))
    keep = np.zeros(len(records), np.bool_)
    for begin, end in zip(offsets[repeated], ends[repeated], strict=True):
        keep[begin:end] = True
    body = records[keep]
    # Where each time lies, once the other records are gone.
    places = np.cumsum(keep)[times_at] - 1
    times = _view(body)[places].copy()
    span_ns = int(times.max() - times.min()) + 1000

    copies = max((target_bytes - len(data)) // len(body), 0)
    with target.open("wb") as out:
        head[6] = data_size + copies * len(body)
        # Features follow the records: their table, and the offsets in it, move.
        moved = copies * len(body)
        features = bytearray(data[data_at + data_size :])
        count = sum(bits.bit_count() for bits in head[9:13])
        for i in range(count):
            (at,) = struct.unpack_from("<Q", features, 16 * i)
            struct.pack_into("<Q", features, 16 * i, at + moved)
        out.write(struct.pack("<13Q", *head))
        out.write(data[104 : data_at + data_size])
        for copy in range(1, copies + 1):
            _view(body)[places] = times + np.uint64(copy * span_ns)
            out.write(body.tobytes())
        out.write(features)
    return len(times) * (copies + 1), target.stat().st_size


def _view(records: np.ndarray) -> np.ndarray:
    return np.ndarray((len(records) - 7,), "<u8", records.data, strides=(1,))


def _offsets(records: np.ndarray) -> np.ndarray:
    offsets = []
    at = 0
    while at < len(records):
        offsets.append(at)
        at += int.from_bytes(records[at + 6 : at + 8], "little")
    return np.array(offsets, np.int64)
