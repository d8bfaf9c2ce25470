"""What a report reads of an analysis: the shape of pipeline.Analysis, no more.

The stages do not import each other; this names what passes between them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from piscope.observed import ObservedIrqs
from piscope.outcomes import Findings, Hit, PolicyResult
from piscope.tables import Events, Timeline

__all__ = ("UNLOADED", "Analyzed", "removed_by")

UNLOADED = (Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
"""Outcomes of a notification that was sent while its vCPU was not loaded."""


class _Captured(Protocol):
    @property
    def policy(self) -> str | None: ...
    @property
    def by(self) -> str: ...
    @property
    def evidence(self) -> str: ...


class _Stimuli(Protocol):
    @property
    def vcpu(self) -> npt.NDArray[np.int32]: ...
    @property
    def ts_ns(self) -> npt.NDArray[np.int64]: ...
    @property
    def row(self) -> npt.NDArray[np.int64]: ...
    @property
    def post(self) -> npt.NDArray[np.int64]: ...
    @property
    def window(self) -> npt.NDArray[np.int32]: ...
    @property
    def letter(self) -> npt.NDArray[np.uint8]: ...
    @property
    def vector(self) -> npt.NDArray[np.int16]: ...


class Analyzed(Protocol):
    """What is read of pipeline.Analysis."""

    @property
    def events(self) -> Events:
        """EVENTS."""

    @property
    def timeline(self) -> Timeline:
        """The timeline stage's tables."""

    @property
    def posted(self) -> str:
        """Which posts were replayed as a device's."""

    @property
    def posting_by_hardware(self) -> bool | None:
        """Whether the captured host posted by hardware."""

    @property
    def stimuli(self) -> _Stimuli:
        """STIMULI."""

    @property
    def captured(self) -> _Captured:
        """The captured kernel's policy."""

    @property
    def observed(self) -> ObservedIrqs:
        """Notification interrupts that left an event."""

    @property
    def results(self) -> Mapping[str, PolicyResult]:
        """The policies' results by name."""


def removed_by(
    before: Findings, after: Findings, *hits: Hit
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """bool[n] twice: findings with one of these outcomes under `before` that have none
    of them under `after`, for sure and maybe. Both are of the same stimuli.
    """
    surely = before.surely(*hits) & ~after.maybe(*hits)
    maybe = before.maybe(*hits) & ~after.surely(*hits)
    return surely, maybe
