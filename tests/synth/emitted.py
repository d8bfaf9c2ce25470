"""What a simulated host emitted, without any file: the events as they were made."""

from __future__ import annotations

from dataclasses import dataclass

from piscope.synth.capture import recorded_events
from piscope.synth.events import FIELDS, HEADER_COLUMNS
from piscope.synth.run import Simulation
from piscope.synth.scenario import Scenario


@dataclass(frozen=True)
class Emitted:
    ts_ns: int
    cpu: int
    tid: int
    event: str
    fields: dict[str, int]


def emitted(scenario: Scenario) -> list[Emitted]:
    """All events that the capture has, by time."""
    kernel = recorded_events(scenario.capture)
    found = []
    for batch in Simulation(scenario).batches():
        for event, known in kernel.items():
            names = FIELDS[event]
            width = HEADER_COLUMNS + len(names)
            flat = batch.rows[event]
            for at in range(0, len(flat), width):
                ts_ns, cpu, tid, _, *values = flat[at : at + width]
                fields = dict(zip(names, values, strict=True))
                found.append(Emitted(ts_ns, cpu, tid, known.format.name, fields))
    return sorted(found, key=lambda one: one.ts_ns)
