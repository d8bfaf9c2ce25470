"""The numbers that a report's tables give to what one part of a trace has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from piscope.explain.account import Account
from piscope.explain.pick import own_findings
from piscope.pipeline import Part

__all__ = ("Numbers",)


class Numbers:
    """Rows of STIMULI and FINDINGS before a part, counted part after part.

    They are those of part_tables: own rows, part after part; in FINDINGS one policy
    behind the other within each.
    """

    def __init__(self) -> None:
        self._stimuli = self._findings = 0

    def add(self, part: Part) -> None:
        """Count a part that lies before."""
        found = own_findings(part)
        self._stimuli += int(_own_stimuli(part).sum())
        self._findings += len(part.analysis.results) * int(found.sum())

    def of_report(self, account: Account, part: Part, index: int) -> Account:
        """The account with the numbers of a report in place of the part's own.

        A step that is another part's own has none. `index` as in Picked.
        """
        own = _own_stimuli(part)
        number = np.where(own, np.cumsum(own) - 1 + self._stimuli, -1)
        found = own_findings(part)
        at, count = int(found[:index].sum()), int(found.sum())
        note = account.notification
        return replace(
            account,
            notification=replace(
                note,
                stimulus=int(number[note.stimulus]),
                findings={
                    policy: self._findings + place * count + at
                    for place, policy in enumerate(part.analysis.results)
                },
            ),
            steps=[
                replace(step, stimulus=_known(number, step.stimulus))
                for step in account.steps
            ],
        )


def _known(number: npt.NDArray[np.int64], at: int | None) -> int | None:
    return int(number[at]) if at is not None and number[at] >= 0 else None


def _own_stimuli(part: Part) -> npt.NDArray[np.bool_]:
    timeline = part.analysis.timeline
    return part.own.stimuli(part.analysis.stimuli, timeline.posts, timeline.windows)
