"""Which question a replay answered: whose posts were replayed as what."""

from __future__ import annotations

import numpy as np

from piscope.origins import Given, Origin
from piscope.posted import parse_posted
from piscope.report.own_part import ChosenPart
from piscope.report.summary import Question
from piscope.sources.raw import Array
from piscope.tables import Posts

__all__ = ("QuestionTally",)

_POST_HW = 8  # model.letters.Letter.POST_HW, as in STIMULI.letter


class QuestionTally:
    """Posts to the selected vCPUs by how they were replayed.

    as_hardware, as_software  int64[origins]  by KVM, replayed as hardware's, or kept
    """

    def __init__(self) -> None:
        self._posted = ""
        self.as_hardware = np.zeros(len(Origin), np.int64)
        self.as_software = np.zeros(len(Origin), np.int64)
        self._from_windows = self._not_posted = self._no_target = self._given = 0

    def add(self, part: ChosenPart) -> None:
        """Count a part's own posts."""
        stimuli, posts = part.analysis.stimuli, part.analysis.timeline.posts
        self._posted = part.analysis.posted
        traced = part.stimuli & (stimuli.post >= 0)
        # what a user gave is by whom he says
        told = traced.copy()
        told[traced] = posts.given[stimuli.post[traced]] == Given.TRACED
        by_hardware = stimuli.letter == _POST_HW
        self.as_hardware += _by_origin(posts, stimuli.post[told & by_hardware])
        self.as_software += _by_origin(posts, stimuli.post[told & ~by_hardware])
        hidden = part.stimuli & (stimuli.post < 0) & by_hardware
        self._from_windows += int(hidden.sum())
        self._given += int((traced & ~told).sum())
        mine = part.own.posts(posts)
        self._not_posted += int((mine & ~posts.posted).sum())
        self._no_target += int((mine & posts.posted & (posts.vcpu < 0)).sum())

    def finish(self) -> Question:
        """The question."""
        as_hardware, as_software = self.as_hardware.sum(), self.as_software.sum()
        return Question(
            posted=self._posted,
            as_hardware=int(as_hardware),
            as_software=int(as_software),
            from_windows=self._from_windows,
            not_posted=self._not_posted,
            no_target=self._no_target,
            text=_text(
                self._posted,
                int(as_hardware),
                int(as_software),
                self._from_windows,
                self._given,
            ),
            reinterpreted=_labeled(self.as_hardware),
            kept=_labeled(self.as_software),
            given=self._given,
        )


def _by_origin(posts: Posts, which: Array) -> Array:
    return np.bincount(posts.origin[which], minlength=len(Origin))


def _labeled(number: Array) -> dict[str, int]:
    return {o.label: int(number[o]) for o in Origin if number[o]}


_WHAT_IF = {
    "msi": "What if a device posted each MSI itself?",
    "vfio": "What if VT-d posted the assigned devices' interrupts?",
    "vhost": "What if the vhost devices were passed through?",
    "irqfd": "What if the devices behind irqfds' work were passed through?",
    "emulated": "What if the emulated devices were passed through?",
    "ipi": "What if IPI virtualization delivered the IPIs?",
}


def _text(
    posted: str, as_hardware: int, as_software: int, from_windows: int, given: int
) -> str:
    known = []
    words = parse_posted(posted)
    if as_hardware:
        msi = words == ("msi",)
        known.append(
            _counted(as_hardware, "MSI", "replayed as posted by a device")
            if msi
            else _counted(as_hardware, "post", "by KVM replayed as hardware's")
        )
    if as_software:
        known.append(_counted(as_software, "post", "by KVM replayed as such"))
    if from_windows:
        known.append(
            _counted(from_windows, "post", "by hardware that the probes betray")
        )
    if given:
        known.append(_counted(given, "post", "given by the user"))
    asked = [_WHAT_IF[word] for word in words if word in _WHAT_IF]
    # the default asks nothing of a trace that has no such post
    if not asked or (words == ("msi",) and not as_hardware):
        asked = ["What became of the notifications?"]
    return f"{' '.join(asked)} {'; '.join(known) if known else 'No post is visible.'}"


def _counted(number: int, what: str, rest: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'} {rest}"
