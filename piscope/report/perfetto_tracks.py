"""A Perfetto trace written track by track: descriptors, slices, instants, counters.

Each track is a packet sequence of its own, so that what is the same for all its events
is said once: its track, its clock (each time is the difference from the last one), and
its names (events hold their numbers). An event that comes behind a later one has its
own clock and whole time.

    ClockSnapshot         time 0 of the sequence's clock
    TracePacketDefaults   track, clock
    InternedData          1: guest  2: host (MSR_WRITE)  ...
    TrackEvent            +1841 begin 2
    TrackEvent            +5210 end
    TrackEvent            4711000000 of the boot clock

What says it once is built with the message classes of the `perfetto` package, and the
events, of which there may be tens of millions, with `perfetto_wire`, from the same
definitions' field numbers.

Source: perfetto.dev/docs/reference/synthetic-track-event, trace_packet.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from piscope.errors import UsageError
from piscope.report.perfetto_wire import (
    Rows,
    constant,
    fixed64,
    message,
    optional,
    varint,
)
from piscope.sources.raw import Array

__all__ = ("Annotation", "Track", "TrackWriter", "definitions")

_CHUNK = 1 << 18  # events laid out at a time, which bounds the memory
_OWN_CLOCK = 64  # clock ids 64 to 127 belong to their sequence
_DESCRIPTORS = 1  # the sequence of all track descriptors; tracks follow


def definitions() -> Any:
    """Perfetto's message classes (perfetto_trace_pb2).

    Raises UsageError where the package is not installed.
    """
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
    except ImportError as e:
        raise UsageError(
            "--perfetto needs Perfetto's protobuf definitions: pip install"
            f" 'piscope[perfetto]' ({e})"
        ) from e
    return perfetto_trace_pb2


@dataclass(slots=True)
class Annotation:
    """An argument of events, by name: numbers, or words that are interned.

    values  int64[n]: the numbers, or indexes into `words`; -1: this event has none
    words   None: the values are numbers
    """

    name: str
    values: Array
    words: Sequence[str] | None = None


@dataclass(slots=True)
class Track:
    """A track that was declared.

    last_ns  the latest time of its events
    """

    uuid: int
    name: str
    last_ns: int
    names: dict[str, int] = field(default_factory=dict)
    argument_names: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    begun: bool = False


class TrackWriter:
    """Writes packets to a file: some events of one track, then some of another.

    All times given are at `start_ns` or later. A time before 0 can't be written; where
    the trace begins before it, all times are moved by `moved_ns`.
    """

    def __init__(self, file: BinaryIO, start_ns: int) -> None:
        self._file = file
        self._pb = definitions()
        self._tracks: dict[tuple[int, str], Track] = {}
        self.moved_ns = max(-start_ns, 0)
        self._start_ns = start_ns
        packet, event = self._pb.TracePacket, self._pb.TrackEvent
        self._packet = _numbers(packet)
        self._event = _numbers(event)
        self._annotation = _numbers(self._pb.DebugAnnotation)
        (self._in_trace,) = _numbers(self._pb.Trace).values()

    def track(
        self,
        name: str,
        parent: Track | None = None,
        *,
        rank: int = 0,
        counter_unit: str | None = None,
        description: str = "",
    ) -> Track:
        """The track of that name below `parent`, declared when it is first asked for.

        Those of one parent stand by `rank`.
        """
        key = 0 if parent is None else parent.uuid, name
        if key in self._tracks:
            return self._tracks[key]
        uuid = _DESCRIPTORS + 1 + len(self._tracks)
        track = self._tracks[key] = Track(uuid, name, self._start_ns)
        packet = self._pb.TracePacket(trusted_packet_sequence_id=_DESCRIPTORS)
        about = packet.track_descriptor
        about.uuid, about.name = track.uuid, _utf8(name)
        about.child_ordering = self._pb.TrackDescriptor.EXPLICIT
        about.sibling_order_rank = rank
        if parent is not None:
            about.parent_uuid = parent.uuid
        if counter_unit is not None:
            about.counter.unit_name = counter_unit
        if description:
            about.description = _utf8(description)
        self._write(packet)
        return track

    def slices(
        self, track: Track, begin_ns: Array, end_ns: Array, name: Array, names: Names
    ) -> None:
        """Add stretches: ascending, half-open, none overlapping another of the track.

        `name` (int[n]) are indexes into `names`.
        """
        pb = self._pb.TrackEvent
        for at in _chunks(len(begin_ns)):
            iids = self._begin(track, names, name[at])
            previous = np.append(track.last_ns, end_ns[at][:-1])
            begin = self._event_rows(
                varint(self._packet["timestamp"], begin_ns[at] - previous),
                track,
                self._plain("type", pb.TYPE_SLICE_BEGIN),
                varint(self._event["name_iid"], iids),
            )
            end = self._event_rows(
                varint(self._packet["timestamp"], end_ns[at] - begin_ns[at]),
                track,
                self._plain("type", pb.TYPE_SLICE_END),
            )
            both = Rows(begin.parts + end.parts, begin.size + end.size)
            self._file.write(both.to_bytes())
            track.last_ns = int(end_ns[at][-1])

    def instants(
        self,
        track: Track,
        ts_ns: Array,
        name: Array,
        names: Names,
        *,
        annotations: Sequence[Annotation] = (),
        flows: Sequence[Array] = (),
        ends: Array | None = None,
    ) -> None:
        """Add instants. Those in time order take less of the file.

        `flows` (int64[n] each) are the flows that go on from an event, `ends` the one
        that ends in it; 0: none.
        """
        pb = self._pb.TrackEvent
        for at in _chunks(len(ts_ns)):
            iids = self._begin(track, names, name[at], annotations, at)
            arguments = [self._argument(track, a, a.values[at]) for a in annotations]
            flowing = [
                optional(flow[at] > 0, fixed64(self._event["flow_ids"], flow[at]))
                for flow in flows
            ]
            if ends is not None:
                ending = fixed64(self._event["terminating_flow_ids"], ends[at])
                flowing.append(optional(ends[at] > 0, ending))
            times, clocks = self._times(track, ts_ns[at])
            rows = self._event_rows(
                times,
                track,
                *arguments,
                self._plain("type", pb.TYPE_INSTANT),
                varint(self._event["name_iid"], iids),
                *flowing,
                clock=clocks,
            )
            self._file.write(rows.to_bytes())

    def counter(self, track: Track, ts_ns: Array, values: Array) -> None:
        """Add a counter's values (int64[n], not negative) in time order."""
        for at in _chunks(len(ts_ns)):
            self._begin(track, (), ts_ns[:0])
            times, clocks = self._times(track, ts_ns[at])
            rows = self._event_rows(
                times,
                track,
                self._plain("type", self._pb.TrackEvent.TYPE_COUNTER),
                varint(self._event["counter_value"], values[at]),
                clock=clocks,
            )
            self._file.write(rows.to_bytes())

    def _times(self, track: Track, ts_ns: Array) -> tuple[Rows, Rows | None]:
        """The times, and the clocks of those that are not the track's."""
        latest_ns = np.maximum.accumulate(np.append(track.last_ns, ts_ns))
        track.last_ns = int(latest_ns[-1])
        stored, clocks = np.diff(latest_ns), None
        behind = ts_ns < latest_ns[:-1]
        if behind.any():
            stored = np.where(behind, ts_ns + self.moved_ns, stored)
            boot = self._pb.TracePacket(
                timestamp_clock_id=self._pb.BUILTIN_CLOCK_BOOTTIME
            )
            clocks = optional(behind, constant(boot.SerializeToString()))
        return varint(self._packet["timestamp"], stored), clocks

    def _event_rows(
        self, time: Rows, track: Track, *event: Rows, clock: Rows | None = None
    ) -> Rows:
        """Packets of one event each, in the order of the fields' numbers."""
        pb = self._pb.TracePacket
        sequence = pb(trusted_packet_sequence_id=track.uuid)
        flags = pb(sequence_flags=pb.SEQ_NEEDS_INCREMENTAL_STATE)
        return message(
            self._in_trace,
            time,
            constant(sequence.SerializeToString()),
            message(self._packet["track_event"], *event),
            constant(flags.SerializeToString()),
            *(() if clock is None else (clock,)),
        )

    def _plain(self, name: str, value: int) -> Rows:
        """A field of TrackEvent that all rows have alike."""
        event = self._pb.TrackEvent(**{name: value})
        return constant(event.SerializeToString())

    def _argument(self, track: Track, argument: Annotation, values: Array) -> Rows:
        kind, stored = "int_value", values
        if argument.words is not None:
            kind = "string_value_iid"
            stored = _iids_of(track.words, argument.words, values)
        name = self._pb.DebugAnnotation(name_iid=track.argument_names[argument.name])
        there = values >= 0
        return optional(
            there,
            message(
                self._event["debug_annotations"],
                constant(name.SerializeToString()),
                varint(self._annotation[kind], np.where(there, stored, 0)),
            ),
        )

    def _begin(
        self,
        track: Track,
        names: Names,
        name: Array,
        annotations: Sequence[Annotation] = (),
        at: slice | None = None,
    ) -> Array:
        """Say what the next events refer to; the numbers of their names."""
        packet = self._pb.TracePacket(trusted_packet_sequence_id=track.uuid)
        if not track.begun:
            track.begun = True
            packet.sequence_flags = self._pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
            packet.first_packet_on_sequence = True
            packet.trace_packet_defaults.timestamp_clock_id = _OWN_CLOCK
            packet.trace_packet_defaults.track_event_defaults.track_uuid = track.uuid
            self._write(packet)
            packet = self._pb.TracePacket(trusted_packet_sequence_id=track.uuid)
            zero_ns = self._start_ns + self.moved_ns
            clocks = packet.clock_snapshot.clocks
            clocks.add(clock_id=self._pb.BUILTIN_CLOCK_BOOTTIME, timestamp=zero_ns)
            clocks.add(clock_id=_OWN_CLOCK, timestamp=zero_ns, is_incremental=True)
            self._write(packet)
            packet = self._pb.TracePacket(trusted_packet_sequence_id=track.uuid)
        data = packet.interned_data
        for i in np.flatnonzero(np.bincount(name)).tolist():
            _intern(track.names, names[i], data.event_names, "name")
        for a in annotations:
            _intern(track.argument_names, a.name, data.debug_annotation_names, "name")
            if a.words is not None:
                for i in np.unique(a.values[at]).tolist():
                    if i >= 0:
                        strings = data.debug_annotation_string_values
                        _intern(track.words, a.words[i], strings, "str")
        if packet.HasField("interned_data"):
            packet.sequence_flags = self._pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
            self._write(packet)
        return _iids_of(track.names, names, name)

    def _write(self, packet: Any) -> None:
        self._file.write(self._pb.Trace(packet=[packet]).SerializeToString())


Names = Sequence[str]


def _numbers(kind: Any) -> Mapping[str, int]:
    return {field.name: field.number for field in kind.DESCRIPTOR.fields}


def _chunks(n: int) -> Iterable[slice]:
    return (slice(at, min(at + _CHUNK, n)) for at in range(0, n, _CHUNK))


def _intern(known: dict[str, int], text: str, table: Any, value: str) -> None:
    if text in known:
        return
    known[text] = len(known) + 1
    stored = _utf8(text)
    table.add(iid=known[text], **{value: stored.encode() if value == "str" else stored})


def _iids_of(
    known: Mapping[str, int], texts: Sequence[str], indexes: Array
) -> npt.NDArray[np.int64]:
    """int64[n]: the interned number of each text; 0 where the index is negative."""
    if not len(indexes):
        return np.zeros(0, np.int64)
    iids = np.array([known.get(text, 0) for text in texts], np.int64)
    return np.where(indexes >= 0, iids[np.maximum(indexes, 0)], 0)


def _utf8(text: str) -> str:
    """The text as valid Unicode: a name in a trace may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
