"""Which question a replay answered: whose posts were replayed as what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.origins import Given, Origin
from piscope.posted import parse_posted
from piscope.report.analyzed import Analyzed
from piscope.report.summary import Question
from piscope.sources.raw import Array
from piscope.tables import Posts

__all__ = ("summarize_question",)

_POST_HW = 8  # model.letters.Letter.POST_HW, as in STIMULI.letter


def summarize_question(analysis: Analyzed, chosen: npt.NDArray[np.bool_]) -> Question:
    """Count the posts to the `chosen` vCPUs (bool[vCPUs]) by how they were replayed."""
    stimuli, posts = analysis.stimuli, analysis.timeline.posts
    mine = chosen[stimuli.vcpu] if len(stimuli.vcpu) else np.zeros(0, np.bool_)
    traced = mine & (stimuli.post >= 0)
    # what a user gave is by whom he says
    told = traced.copy()
    told[traced] = posts.given[stimuli.post[traced]] == Given.TRACED
    given = int((traced & ~told).sum())
    traced = told
    by_hardware = stimuli.letter == _POST_HW
    as_hardware = stimuli.post[traced & by_hardware]
    as_software = stimuli.post[traced & ~by_hardware]
    from_windows = int((mine & (stimuli.post < 0) & by_hardware).sum())
    return Question(
        posted=analysis.posted,
        as_hardware=len(as_hardware),
        as_software=len(as_software),
        from_windows=from_windows,
        not_posted=int((~posts.posted).sum()),
        no_target=int((posts.posted & (posts.vcpu < 0)).sum()),
        text=_text(
            analysis.posted, len(as_hardware), len(as_software), from_windows, given
        ),
        reinterpreted=_by_origin(posts, as_hardware),
        kept=_by_origin(posts, as_software),
        given=given,
    )


def _by_origin(posts: Posts, which: Array) -> dict[str, int]:
    number = np.bincount(posts.origin[which], minlength=len(Origin)).tolist()
    return {o.label: number[o] for o in Origin if number[o]}


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
