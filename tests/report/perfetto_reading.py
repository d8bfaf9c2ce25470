"""A Perfetto trace read with Perfetto's definitions, and held to the format's rules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from piscope.report.perfetto_tracks import definitions


class Event(NamedTuple):
    """An event as a reader sees it, with its names instead of their numbers."""

    ts_ns: int
    type: str
    name: str
    arguments: dict[str, Any]
    flows: list[int]
    ends: list[int]
    value: int


class Slice(NamedTuple):
    begin_ns: int
    end_ns: int
    name: str


@dataclass
class ReadTrack:
    """A track: its place, and its events by time, then in the order of the file."""

    uuid: int
    name: str
    parent: int
    rank: int
    unit: str
    description: str
    events: list[Event] = field(default_factory=list)

    def slices(self) -> list[Slice]:
        found, open_ = [], None
        for event in self.events:
            if event.type == "TYPE_SLICE_BEGIN":
                assert open_ is None, f"{self.name}: a slice within a slice"
                open_ = event
            elif event.type == "TYPE_SLICE_END":
                assert open_ is not None, f"{self.name}: an end without a begin"
                found.append(Slice(open_.ts_ns, event.ts_ns, open_.name))
                open_ = None
        assert open_ is None, f"{self.name}: a slice without an end"
        return found


@dataclass
class _Sequence:
    track: int = 0
    clock: int = 0
    at_ns: int = 0
    names: dict[int, str] = field(default_factory=dict)
    argument_names: dict[int, str] = field(default_factory=dict)
    words: dict[int, str] = field(default_factory=dict)
    valid: bool = False


def read_perfetto(data: bytes) -> dict[tuple[str, ...], ReadTrack]:
    """All tracks by their path of names; fails where the trace breaks a rule."""
    pb = definitions()
    trace = pb.Trace.FromString(data)
    assert trace.SerializeToString() == data, "what protobuf itself would write"
    tracks: dict[int, ReadTrack] = {}
    sequences: dict[int, _Sequence] = defaultdict(_Sequence)
    for packet in trace.packet:
        number = packet.trusted_packet_sequence_id
        assert number > 0
        if packet.HasField("track_descriptor"):
            about = packet.track_descriptor
            assert about.uuid not in tracks, "declared twice"
            tracks[about.uuid] = ReadTrack(
                about.uuid,
                about.name,
                about.parent_uuid,
                about.sibling_order_rank,
                about.counter.unit_name,
                about.description,
            )
            continue
        sequence = sequences[number]
        _update(pb, sequence, packet)
        if packet.HasField("track_event"):
            assert packet.sequence_flags & pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
            assert packet.HasField("timestamp")
            if packet.timestamp_clock_id == pb.BUILTIN_CLOCK_BOOTTIME:
                at_ns = packet.timestamp
            else:
                assert not packet.HasField("timestamp_clock_id")
                at_ns = sequence.at_ns = sequence.at_ns + packet.timestamp
            event = _event(pb, sequence, packet.track_event, at_ns)
            track = tracks[sequence.track]  # declared before its first event
            if track.events and event.type != "TYPE_INSTANT":
                assert track.events[-1].ts_ns <= event.ts_ns, "time goes backwards"
            track.events.append(event)
    for track in tracks.values():
        track.events.sort(key=lambda event: event.ts_ns)
        assert track.parent == 0 or track.parent in tracks, "no such parent"
        assert track.unit or all(e.type != "TYPE_COUNTER" for e in track.events)
    by_path = {_path(tracks, uuid): track for uuid, track in tracks.items()}
    assert len(by_path) == len(tracks), "two tracks of one name"
    _check_flows(tracks)
    return by_path


def _update(pb: Any, sequence: _Sequence, packet: Any) -> None:
    if packet.sequence_flags & pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED:
        assert not sequence.valid, "begun twice"
        sequence.valid = True
        defaults = packet.trace_packet_defaults
        sequence.track = defaults.track_event_defaults.track_uuid
        sequence.clock = defaults.timestamp_clock_id
    assert sequence.valid
    for clock in packet.clock_snapshot.clocks:
        if clock.clock_id == sequence.clock:
            assert clock.is_incremental
            sequence.at_ns = clock.timestamp
    interned = packet.interned_data
    for known, table, value in (
        (sequence.names, interned.event_names, "name"),
        (sequence.argument_names, interned.debug_annotation_names, "name"),
        (sequence.words, interned.debug_annotation_string_values, "str"),
    ):
        for entry in table:
            assert entry.iid > 0 and entry.iid not in known
            text = getattr(entry, value)
            known[entry.iid] = text.decode() if isinstance(text, bytes) else text


def _event(pb: Any, sequence: _Sequence, event: Any, at_ns: int) -> Event:
    arguments: dict[str, Any] = {}
    for a in event.debug_annotations:
        name = sequence.argument_names[a.name_iid]
        assert name not in arguments
        arguments[name] = (
            sequence.words[a.string_value_iid]
            if a.HasField("string_value_iid")
            else a.int_value
        )
    return Event(
        at_ns,
        pb.TrackEvent.Type.Name(event.type),
        sequence.names[event.name_iid] if event.HasField("name_iid") else "",
        arguments,
        list(event.flow_ids),
        list(event.terminating_flow_ids),
        event.counter_value,
    )


def _path(tracks: dict[int, ReadTrack], uuid: int) -> tuple[str, ...]:
    track = tracks[uuid]
    above = _path(tracks, track.parent) if track.parent else ()
    return (*above, track.name)


def _check_flows(tracks: dict[int, ReadTrack]) -> None:
    begun: dict[int, int] = {}
    ended: dict[int, int] = {}
    for track in tracks.values():
        for event in track.events:
            for known, flows in ((begun, event.flows), (ended, event.ends)):
                for flow in flows:
                    assert flow > 0 and flow not in known
                    known[flow] = event.ts_ns
    assert begun == ended, "each flow leads from one event to one, at its instant"
