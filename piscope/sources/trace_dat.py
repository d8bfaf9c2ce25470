"""trace.dat files of trace-cmd, versions 6 and 7, as a source of events.

To be read beside trace-cmd's Documentation/trace-cmd/trace-cmd.dat.v{6,7}.5.txt:
trace_dat_v6 and trace_dat_v7 read what describes the events, trace_dat_lanes and
trace_dat_batches the sub-buffers, ring_buffer finds the events in them, and
trace_dat_pass makes rows of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from piscope.errors import PiscopeError, TraceFormatError, UnsupportedTraceError
from piscope.sources.cursor import ByteFile
from piscope.sources.event_format import parse_event_format, scan_id_name
from piscope.sources.loss_log import LossLog
from piscope.sources.raw import EventFormat, Loss, RawChunk, TraceInfo, Wanted
from piscope.sources.trace_dat_batches import Lane
from piscope.sources.trace_dat_clock import ts_unit_of
from piscope.sources.trace_dat_lanes import ChunkedPages, PageReader, PlainPages
from piscope.sources.trace_dat_losses import (
    note_cuts,
    note_stat_losses,
    note_unknown_events,
)
from piscope.sources.trace_dat_metadata import BufferData, Metadata, read_start
from piscope.sources.trace_dat_options import CpuRange
from piscope.sources.trace_dat_pass import CommonFields, Known, Pass
from piscope.sources.trace_dat_v6 import read_v6
from piscope.sources.trace_dat_v7 import read_v7

__all__ = ("TraceDatSource", "open_trace_dat")


def open_trace_dat(source: str | Path | BinaryIO | bytes) -> TraceDatSource:
    """Open a trace.dat: a path, a seekable binary file, or the bytes themselves.

    Raises TraceFormatError where nothing can be read, naming the byte, and
    UnsupportedTraceError for a version, compressor or content that is not read.
    Source: trace-cmd's trace-input.c, tracecmd_open_fd() and tracecmd_init_data().
    """
    file = ByteFile(source)
    try:
        metadata, cursor = read_start(file)
        (read_v6 if metadata.version == 6 else read_v7)(file, cursor, metadata)
        if metadata.text_at is not None and not metadata.buffers:
            raise UnsupportedTraceError(
                "holds the text of a latency tracer, no events; save the text that "
                "`trace-cmd report` prints of it, and give that",
                byte=metadata.text_at,
            )
    except PiscopeError as error:
        file.close()
        error.path = error.path or file.path
        raise
    return TraceDatSource(file, metadata)


class EventFormats(Mapping[str, EventFormat]):
    """Formats by `system:name`, each parsed when it is first asked for.

    Raises TraceFormatError for a format whose text can't be understood.
    """

    def __init__(self, texts: dict[str, bytes]) -> None:
        self._texts = texts
        self._parsed: dict[str, EventFormat] = {}

    def __getitem__(self, key: str) -> EventFormat:
        if key not in self._parsed:
            system = key.partition(":")[0]
            self._parsed[key] = parse_event_format(self._texts[key], system)
        return self._parsed[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class TraceDatSource:
    """The events of a trace.dat; implements `raw.Source`.

    Where a file has several buffers, the events of all come, and `seq` counts those
    of each pCPU of each buffer. `metadata` is all that the file says beside them.
    """

    def __init__(self, file: ByteFile, metadata: Metadata) -> None:
        self._file = file
        self.metadata = metadata
        self.events: list[tuple[str, str]] = []
        self.counts: dict[str, int] = {}
        self._opened = LossLog(metadata.losses)
        texts: dict[str, bytes] = {}
        self._ids: dict[int, tuple[int, str, str]] = {}
        for system, text in metadata.formats:
            identity = scan_id_name(text)
            if identity is None:
                self._opened.add(
                    Loss("damaged", detail=f"an event format of {system} has no id")
                )
                continue
            number, name = identity
            key = f"{system}:{name}"
            # Two events never share an id; where a file says so, the first is meant.
            if key not in texts and number not in self._ids:
                texts[key] = text
                self._ids[number] = (len(self.events), system, name)
                self.events.append((system, name))
        self.formats: Mapping[str, EventFormat] = EventFormats(texts)
        self.info = self._describe()
        self.losses: list[Loss] = list(self._opened.rows)

    def _describe(self) -> TraceInfo:
        metadata, options = self.metadata, self.metadata.options
        compressed = (
            f" ({metadata.compressor})" if metadata.compressor != "none" else ""
        )
        info = TraceInfo(
            path=self._file.path,
            format=f"trace.dat v{metadata.version}{compressed}",
            kind="trace.dat",
            size_bytes=self._file.size,
            host_cpus=options.cpu_count,
            comms=metadata.comms,
            is_guest=options.shift is not None,
            buffers=tuple(buffer.name for buffer in metadata.buffers),
            places="chunk" if metadata.compressor != "none" else "record",
            notes=list(metadata.notes),
        )
        words = (options.uname or "").split()
        info.kernel_release = words[2] if len(words) > 2 else None
        clocks = [buffer.clock for buffer in metadata.buffers if buffer.clock]
        info.clock = clocks[0] if clocks else options.clock
        if options.tsc is None:
            info.ts_unit = ts_unit_of(info.clock)
        if len({ts_unit_of(clock) for clock in clocks}) > 1 and options.tsc is None:
            info.notes.append(
                f"the buffers have different clocks: {', '.join(sorted(set(clocks)))}"
            )
        info.cpus = tuple(
            sorted(
                {
                    data.cpu
                    for buffer in metadata.buffers
                    for data in buffer.cpus
                    if data.size
                }
            )
        )
        for guest in options.guests:
            for tid, vcpu_id in guest.threads.items():
                info.guest_threads[tid] = vcpu_id
                info.guest_name[tid] = guest.name
        for number, count in sorted(options.unknown.items()):
            info.notes.append(
                f"{count} options of unknown id {number} were passed over"
            )
        for number, count in sorted(options.malformed.items()):
            info.notes.append(f"{count} options of id {number} can't be understood")
        if not info.cpus:
            info.notes.append("no pCPU has any data")
        return info

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        """The wanted events in chunks; `counts` and `losses` are true at their end.

        Each lane's events are in order, and the lanes advance together: see
        `RawChunk.watermark_ns`.
        """
        log = LossLog(self._opened.rows)
        self.counts, self.losses = {}, log.rows
        lanes = [
            Lane(
                buffer=buffer.name,
                cpu=data.cpu,
                page_size=buffer.page_size,
                pages=self.page_reader(buffer, data),
                clock=self.metadata.options.time(),
                missing_bytes=data.missing,
            )
            for buffer in self.metadata.buffers
            for data in buffer.cpus
            if wanted.cpus is None or data.cpu in wanted.cpus
        ]
        known = Known(self._ids, self.formats, self._common_fields())
        run = Pass(lanes, wanted, known, log)
        yield from run.chunks(self.metadata.pages, self.metadata.order)
        note_cuts(lanes, log)
        note_stat_losses(lanes, self.metadata.options.stats, wanted.cpus, log)
        note_unknown_events(run.id_counts, self._ids, log)
        for number, (_, system, name) in self._ids.items():
            count = int(run.id_counts[number])
            if count and not wanted.ignored(system, name):
                self.counts[f"{system}:{name}"] = count
        steps, farthest = run.steps_back
        if steps:
            note = f"time goes back {steps} times on a pCPU, by at most {farthest} ns"
            if note not in self.info.notes:
                self.info.notes.append(note)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def page_reader(self, buffer: BufferData, data: CpuRange) -> PageReader:
        """The sub-buffers of one pCPU of one buffer, from the first."""
        if not buffer.chunked:
            return PlainPages(self._file, data, buffer.page_size)
        return ChunkedPages(
            self._file,
            data,
            buffer.page_size,
            self.metadata.compressor,
            self.metadata.order,
        )

    # Those of the first format that can be parsed: the kernel gives all the same.
    def _common_fields(self) -> CommonFields:
        for key in self.formats:
            try:
                return CommonFields.of(self.formats[key])
            except TraceFormatError:
                continue
        return CommonFields()
