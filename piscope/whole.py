"""What the whole of a trace says, for a part of it that can't tell by itself.

A part's EVENTS have a `Scope`: which rows are its own, and what is known of the whole
by then. Without one the events are the whole trace, and tell all of it themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.parts import Own

__all__ = ("Learned", "Scope", "Whole")

Numbers = npt.NDArray[np.int64]


@dataclass(slots=True)
class Learned:
    """What its posts and windows say together; rows are those of the whole trace.

    timer_keys    vCPU << 8 | vector of each vCPU's own timer
    meant         actor * vCPUs + vCPU: whom a device or thread surely meant
    remapped      a posted interrupt of an assigned device was handled by the host
    armed         some put armed the wakeup vector, by probes
    armed_preempted  and one of a blocking vCPU that was preempted
    acted, idle   puts by which `posting_by_hardware` tells
    plain, plain_suppressed, preempted_suppressed  puts that tell the policy
    first_put     row of each vCPU's first put
    """

    timer_keys: set[int] = field(default_factory=set)
    meant: set[int] = field(default_factory=set)
    remapped: bool = False
    armed: bool = False
    armed_preempted: bool = False
    acted: bool = False
    idle: bool = False
    plain: int = 0
    plain_suppressed: int = 0
    preempted_suppressed: int = 0
    first_put: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Whole:
    """The whole trace.

    vcpus      tables.Vcpus
    span_ns    first and last instant
    cpus       pCPUs that traced an event, ascending
    probe_values  by probe: (tid, value of its field `vcpu`) -> how often
    preempted_told  some switch prints "R+"
    """

    vcpus: Any
    span_ns: tuple[int, int]
    cpus: list[int]
    probe_values: dict[str, dict[tuple[int, int], int]]
    preempted_told: bool


@dataclass(slots=True)
class Scope:
    """A part's place in its trace.

    own      its own rows
    rows     int64[events]  the rows of the whole trace
    learned  complete in the last pass; what is being learned in the one before
    learning whether this is that pass
    """

    whole: Whole
    own: Own
    rows: Numbers
    learned: Learned
    learning: bool
