"""The head of a perf.data that was written to a pipe: attrs and features as records.

    | magic 8 | 16 | ATTR .. | FEATURE .. | TRACING_DATA, blob | ... | FINISHED_INIT |

To be read beside tools/perf/util/synthetic-events.c, perf_event__synthesize_for_pipe.
"""

from __future__ import annotations

import struct

from piscope.errors import TraceFormatError
from piscope.sources.perf_abi import Feature, Record
from piscope.sources.perf_bytes import PerfBytes
from piscope.sources.perf_header import PIPE_HEADER_BYTES, PerfHeader, printable
from piscope.sources.perf_losses import LossLog
from piscope.sources.perf_stream import Extent, read_windows

__all__ = ("read_pipe_head",)

_WINDOW_BYTES = 1 << 20
_MAX_TRACING_BYTES = 256 << 20
_UPDATE_NAME = 2  # PERF_EVENT_UPDATE__NAME
# What comes behind one of these is the recording itself.
_END_OF_HEAD = (
    Record.SAMPLE,
    Record.COMPRESSED,
    Record.COMPRESSED2,
    Record.FINISHED_INIT,
    Record.FINISHED_ROUND,
)


def read_pipe_head(source: PerfBytes, header: PerfHeader) -> None:
    """Add to a pipe's header what its first records tell, up to the first sample.

    Raises TraceFormatError where no attr comes before it.
    """
    extent = Extent(source, PIPE_HEADER_BYTES, None, header.mark)
    updates: list[bytes] = []
    for window in read_windows(extent, LossLog(), _WINDOW_BYTES):
        for i, kind in enumerate(window.types.tolist()):
            if kind in _END_OF_HEAD:
                break
            at, size = int(window.offsets[i]), int(window.sizes[i])
            record = window.data[at : at + size].tobytes()
            if kind == Record.ATTR:
                _add_attr(header, record)
            elif kind == Record.EVENT_UPDATE:
                updates.append(record)
            elif kind == Record.FEATURE and size >= 16:
                (number,) = struct.unpack_from(header.mark + "Q", record, 8)
                header.features[number] = record[16:]
            elif kind == Record.TRACING_DATA and size >= 12:
                (length,) = struct.unpack_from(header.mark + "I", record, 8)
                behind = (window.position or 0) + at + size
                blob = source.read(behind, min(length, _MAX_TRACING_BYTES))
                header.features.setdefault(Feature.TRACING_DATA, blob)
        else:
            continue
        break
    source.stop_keeping()
    if not header.attrs:
        raise TraceFormatError(
            "a perf.data pipe without an ATTR record before its events",
            path=source.path,
            byte=PIPE_HEADER_BYTES,
        )
    header.learn_event_names()
    for record in updates:
        _update(header, record)


# ATTR { perf_event_attr, u64 ids[] }
def _add_attr(header: PerfHeader, record: bytes) -> None:
    (attr_size,) = struct.unpack_from(header.mark + "I", record.ljust(16, b"\0"), 12)
    attr_size = attr_size or 64  # PERF_ATTR_SIZE_VER0, from before the field was set
    ids = record[8 + attr_size :]
    count = len(ids) // 8
    header.add_attr(
        record[8 : 8 + attr_size],
        struct.unpack_from(f"{header.mark}{count}Q", ids),
    )


# EVENT_UPDATE { u64 type, u64 id, char name[] }
def _update(header: PerfHeader, record: bytes) -> None:
    if len(record) < 25:
        return
    kind, number = struct.unpack_from(header.mark + "QQ", record, 8)
    attr = header.attr_of_id.get(number)
    if kind == _UPDATE_NAME and attr is not None:
        name = record[24:].split(b"\0", 1)[0]
        header.attr_names[attr] = printable(name.decode("utf-8", "replace"))
