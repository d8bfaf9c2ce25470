"""perf.data as a Source: the tracepoint samples of `perf record`, in time order.

    header (perf_header, perf_pipe) -> formats (perf_tracing)
    records (perf_stream, perf_walk, perf_inflate) -> samples (perf_samples)
    -> fields (event_format) -> time order (perf_schedule, perf_order)

To be read beside tools/perf/Documentation/perf.data-file-format.txt. Samples that are
not of tracepoints, memory maps, AUX area data and build ids are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from piscope.errors import PiscopeError, TraceFormatError, UnanswerableError
from piscope.sources.event_format import Decoder
from piscope.sources.perf_abi import CLOCK_NAMES, Feature, SampleType
from piscope.sources.perf_bytes import PerfBytes, open_bytes
from piscope.sources.perf_header import PerfHeader, read_header
from piscope.sources.perf_losses import LossLog
from piscope.sources.perf_order import TimeOrder
from piscope.sources.perf_pipe import read_pipe_head
from piscope.sources.perf_report import report_pass
from piscope.sources.perf_samples import (
    NO_EVENT,
    SampleReader,
    Samples,
    Selection,
    Tally,
)
from piscope.sources.perf_schedule import Schedule
from piscope.sources.perf_side import SideRecords
from piscope.sources.perf_stream import Extent, Window
from piscope.sources.perf_tracing import TracingData, read_tracing_data
from piscope.sources.raw import (
    EventFormat,
    Loss,
    Payload,
    RawChunk,
    TraceInfo,
    Wanted,
)

__all__ = ("PerfDataSource", "open_perf_data")

_RECORD_COMMAND = (
    "perf record -a -e 'kvm:*' -e sched:sched_switch -e sched:sched_wakeup"
)


class PerfDataSource:
    """The tracepoint events of a perf.data; a raw.Source.

    `info.cpus`, `comms` and `tgids` are known when a pass is over; during it, those
    that have come so far. `cpu` is -1 where a sample does not carry it. All chunks
    are in time order, also across pCPUs; `seq` is the record's number in the file.
    """

    def __init__(
        self, header: PerfHeader, extents: list[Extent], info: TraceInfo
    ) -> None:
        self._header = header
        self._extents = extents
        self.info = info
        tracing = read_tracing_data(header.features.get(Feature.TRACING_DATA, b""))
        self._tracing = tracing
        self._layouts = list(tracing.formats.values())
        self.events: list[tuple[str, str]] = [(f.system, f.name) for f in self._layouts]
        self.formats: Mapping[str, EventFormat] = {f.key: f for f in self._layouts}
        self.counts: dict[str, int] = {}
        self.losses: list[Loss] = []
        event_of_type = np.full(1 << 16, NO_EVENT, np.uint16)
        for event, layout in enumerate(self._layouts):
            event_of_type[layout.id] = event
        self._reader = SampleReader(header, self._layouts, event_of_type)
        self._decoder = Decoder(tracing.order)
        self._require_answerable()
        _describe(info, header, tracing)
        self._opening_losses = _opening_losses(header, tracing)
        self.losses = list(self._opening_losses)

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        """The wanted events in time order, about a quarter of a million at a time.

        The first pass over a pipe is the only one: UsageError for a second.
        """
        losses = LossLog(self._opening_losses)
        selection = Selection(wanted, self.events)
        tally = Tally.of_events(len(self.events))
        side = SideRecords(self._header, self.info, losses)
        schedule = Schedule(self._extents, self._reader, losses)
        order = TimeOrder(losses)
        records = 0
        for window in schedule.windows():
            samples = self._reader.read(window, records, selection, tally)
            records += len(window)
            side.take(window, samples)
            limit_ns = schedule.limit_ns(window, samples, order.held)
            if samples is not None and len(samples):
                order.add(*self._rows(window, samples, selection, tally, wanted))
            if limit_ns is not None:
                yield from order.flush(limit_ns)
        yield from order.flush(None)
        side.finish()
        report_pass(self._header, self.events, self._layouts, tally, self.info, losses)
        self.counts = {}
        for event, count in zip(self.events, tally.counts.tolist(), strict=True):
            if count:
                key = ":".join(event)
                self.counts[key] = self.counts.get(key, 0) + count
        self.losses = losses.rows()

    def close(self) -> None:
        """Release the file, or the files of a directory."""
        for extent in self._extents:
            extent.source.close()

    # The columns of a RawChunk, and the payload, of some samples.
    def _rows(
        self,
        window: Window,
        samples: Samples,
        selection: Selection,
        tally: Tally,
        wanted: Wanted,
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[int, Payload]]:
        tid, flags = self._reader.tasks(window, samples, tally)
        columns: dict[str, npt.NDArray[Any]] = {
            "ts_ns": samples.ts_ns,
            "cpu": samples.cpu,
            "seq": samples.seq,
            "tid": tid,
            "flags": flags,
            "event": samples.event,
        }
        if wanted.places:
            columns["place"] = self._places(window, samples)
        payload: dict[int, Payload] = {}
        by_event = np.argsort(samples.event, kind="stable")
        counts = np.bincount(samples.event, minlength=len(self.events))
        ends = np.cumsum(counts)
        for event in np.flatnonzero(counts).tolist():
            names = selection.fields[event]
            if isinstance(names, bool):
                continue
            rows = by_event[ends[event] - counts[event] : ends[event]]
            payload[event] = self._decoder.payload(
                window.data,
                samples.at[rows],
                samples.length[rows],
                rows,
                self._layouts[event],
                names=names,
            )
        return columns, payload

    # Compressed samples, and those of a directory's files, are at no byte of the input.
    def _places(self, window: Window, samples: Samples) -> npt.NDArray[np.int64]:
        if window.position is None or len(self._extents) > 1:
            return np.full(len(samples), -1, np.int64)
        return samples.start + window.position

    def _require_answerable(self) -> None:
        header, path = self._header, self.info.path
        if not any(attr.is_tracepoint for attr in header.attrs):
            names = ", ".join(list(header.attr_names.values())[:3])
            raise UnanswerableError(
                f"no tracepoint was recorded{f' (only {names})' if names else ''};"
                f" record with: {_RECORD_COMMAND}",
                path=path,
            )
        if not self._layouts:
            why = "the event formats (TRACING_DATA) are missing"
            if header.interrupted:
                why = (
                    "the recording was interrupted before perf wrote the event formats"
                )
            elif header.problems:
                why = f"the event formats are lost: {header.problems[0][1]}"
            elif self._tracing.problems and header.features.get(Feature.TRACING_DATA):
                why = f"the event formats are damaged: {self._tracing.problems[0][1]}"
            raise UnanswerableError(
                f"{why}; let perf end by SIGINT: {_RECORD_COMMAND}", path=path
            )
        for bit, option in ((SampleType.TIME, "-T"), (SampleType.CPU, "--sample-cpu")):
            if not self._reader.has(bit):
                raise UnanswerableError(
                    f"the samples carry no {bit.name}; record with:"
                    f" {_RECORD_COMMAND} {option}",
                    path=path,
                )


def _describe(info: TraceInfo, header: PerfHeader, tracing: TracingData) -> None:
    info.kernel_release = header.text(Feature.OSRELEASE)
    info.host_cpus = header.online_cpus()
    info.command = header.command()
    info.comms.update(tracing.comms)
    info.comms.setdefault(0, "swapper")  # perf writes no COMM for the idle tasks
    clockids = {a.clockid for a in header.attrs if a.is_tracepoint}
    clockid = clockids.pop()
    if clockids:
        info.notes.append("the events were recorded with different clocks")
    if clockid is None:
        info.clock = "perf"
    else:
        info.clock = CLOCK_NAMES.get(clockid, f"clockid {clockid}")
    if header.interrupted:
        info.notes.append("the recording was interrupted: perf did not complete it")


def _opening_losses(header: PerfHeader, tracing: TracingData) -> list[Loss]:
    losses = [Loss("damaged", detail=f"byte {at}: {w}") for at, w in header.problems]
    for at, what in tracing.problems:
        detail = f"event formats (TRACING_DATA), byte {at} of them: {what}"
        losses.append(Loss("damaged", detail=detail))
    if tracing.formats and tracing.order != header.order:
        losses.append(
            Loss("damaged", detail="the event formats name another byte order")
        )
    return losses


def open_perf_data(path_or_file: str | os.PathLike[str] | BinaryIO) -> PerfDataSource:
    """A perf.data by path (a file, or the directory of `perf record --threads`), or
    as an open binary file; a pipe is read once, in order.

    Raises PiscopeError where it can't be opened, TraceFormatError where it is no
    perf.data or its header can't be used, UnanswerableError where it holds no
    tracepoint events, or not what is needed to understand them.
    """
    parts: list[tuple[str, PerfBytes]] = []
    if isinstance(path_or_file, str | os.PathLike) and Path(path_or_file).is_dir():
        path = os.fspath(path_or_file)
        source, parts = _open_directory(Path(path))
    else:
        source = open_bytes(path_or_file)
        path = source.path
    try:
        header = read_header(source)
        if header.form == "pipe":
            read_pipe_head(source, header)
        names = ["data" if parts else "", *(name for name, _ in parts)]
        mark = header.mark
        extents = [Extent(source, header.data_offset, header.data_size, mark, names[0])]
        extents += [Extent(part, 0, None, mark, name) for name, part in parts]
        info = TraceInfo(
            path=path,
            format=_format("directory" if parts else header.form, header),
            kind="perf.data",
            size_bytes=_total_bytes(source, parts),
        )
        return PerfDataSource(header, extents, info)
    except PiscopeError as error:
        source.close()
        for _, part in parts:
            part.close()
        if error.path is None:
            error.path = path
        raise


def _format(form: str, header: PerfHeader) -> str:
    words = [] if form == "file" else [form]
    if Feature.COMPRESSED in header.features:
        words.append("zstd")
    return f"perf.data ({', '.join(words)})" if words else "perf.data"


def _total_bytes(source: PerfBytes, parts: list[tuple[str, PerfBytes]]) -> int | None:
    if source.size is None:
        return None
    return source.size + sum(part.size or 0 for _, part in parts)


# A directory of `perf record --threads`: `data` with the header, and data.0, data.1,
# ... with nothing but records.
def _open_directory(path: Path) -> tuple[PerfBytes, list[tuple[str, PerfBytes]]]:
    if not (path / "data").is_file():
        raise TraceFormatError(
            "a directory without the file `data` that perf record --threads writes",
            path=path,
        )
    numbered = [
        entry
        for entry in path.glob("data.*")
        if entry.name[5:].isdigit() and entry.is_file()
    ]
    numbered.sort(key=lambda entry: int(entry.name[5:]))
    source = open_bytes(path / "data")
    return source, [(entry.name, open_bytes(entry)) for entry in numbered]
