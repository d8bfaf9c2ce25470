"""The descriptor's steps around one post: what it met, and what it was, and became.

Nothing is replayed anew: the sets of states are those of the policies' walks. What is
added is what the folded states leave out: which vectors, and which pCPU NDST names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from piscope.events.vmx_exits import BASIC_REASON_MASK, VmxExit
from piscope.explain.account import Change, Descriptor, State, Step
from piscope.explain.words import LETTER_WORDS, effect_words
from piscope.model.descriptor import POSTED_INTR_VECTOR, POSTED_INTR_WAKEUP_VECTOR
from piscope.model.letters import Folded, Letter, moves_ndst
from piscope.pipeline import Analysis
from piscope.replay.findings import Replayed
from piscope.report.render_words import REASON_WORDS
from piscope.tables import PutReason

__all__ = ("Walked", "is_load", "is_post", "is_put", "steps_around")

# Letters on each side of the post that are told; of more, those next to it.
_MOST_BEFORE, _MOST_AFTER = 8, 8
# How far to look for the VM-entry that follows, or the sync before.
_FAR = 4096

_KVM_POSTS = (
    Letter.POST_SW_NEW,
    Letter.POST_SW_AGAIN,
    Letter.POST_SW_EITHER,
    Letter.MAYBE_POST_SW,
)


def is_put(letter: int) -> bool:
    """Whether the letter is a put."""
    return Letter.PUT_RUN_PREEMPTED <= letter <= Letter.PUT_BLOCK_IF0_NOT


def is_load(letter: int) -> bool:
    """Whether the letter is a load."""
    return letter in (Letter.LOAD_SAME, Letter.LOAD_OTHER)


def is_post(letter: int) -> bool:
    """Whether the letter is a post, or may be one."""
    return letter == Letter.POST_HW or letter in _KVM_POSTS


@dataclass(frozen=True, slots=True)
class Walked:
    """One vCPU's walk under one policy, read a letter at a time.

    first  the vCPU's first letter in STIMULI; end: behind its last one
    """

    replayed: Replayed
    first: int
    end: int

    @staticmethod
    def of(analysis: Analysis, policy: str, stimulus: int) -> Walked:
        """The walk of the vCPU that the stimulus belongs to."""
        starts = analysis.stimuli.starts
        vcpu = int(analysis.stimuli.vcpu[stimulus])
        ends = np.append(starts[1:], len(analysis.stimuli))
        return Walked(analysis.walks[policy], int(starts[vcpu]), int(ends[vcpu]))

    def letter(self, at: int) -> Letter:
        """The letter as walked: of a post by KVM it is known if it was new."""
        return Letter(int(self.replayed.letters[at]))

    def before(self, at: int) -> list[Folded]:
        """The possible states before a letter."""
        return self._states(int(self.replayed.walk.before[at]))

    def after(self, at: int) -> list[Folded]:
        """The possible states behind it."""
        return self._states(int(self.replayed.walk.after[at]))

    def _states(self, set_id: int) -> list[Folded]:
        automaton = self.replayed.automaton
        return [automaton.table.states[s] for s in automaton.sets[set_id]]

    def surprising(self, at: int) -> bool:
        """Whether no possible state allows the letter."""
        before = self.replayed.walk.before[at]
        return bool(self.replayed.automaton.surprise[before, self.replayed.letters[at]])

    def effects(self, at: int, ndst: Sequence[int]) -> list[str]:
        """What the letter does, each possible answer once; "nothing" among others."""
        automaton = self.replayed.automaton
        table = automaton.table
        members = automaton.sets[int(self.replayed.walk.before[at])]
        if self.surprising(at):
            members = table.legal
        letter = self.letter(at)
        words = [
            effect_words(cell.outcome, ndst)
            for state in members
            for cell in table.cells[state][letter]
        ]
        distinct = list(dict.fromkeys(words))
        if distinct == [""]:
            return []
        return [word or "nothing" for word in distinct]


def steps_around(analysis: Analysis, stimulus: int) -> list[Step]:
    """The letters from the VM-exit (or load) before a post to the VM-entry after it."""
    policies = list(analysis.walks)
    walks = {p: Walked.of(analysis, p, stimulus) for p in policies}
    first, end = walks[policies[0]].first, walks[policies[0]].end
    letters = analysis.stimuli.letter[first:end].tolist()
    told = _told(letters, stimulus - first)
    memories = {p: _Memory(analysis, walks[p], first + told[0]) for p in policies}
    steps: list[Step] = []
    last = told[0] - 1
    ts_ns = int(analysis.stimuli.ts_ns[stimulus])
    for at in range(told[0], told[-1] + 1):
        changes = {p: memories[p].change(first + at) for p in policies}
        if at not in told:
            continue
        here_ns = int(analysis.stimuli.ts_ns[first + at])
        steps.append(
            Step(
                number=len(steps) + 1,
                stimulus=first + at,
                letter=Letter(letters[at]).name,
                text=_text(analysis, first + at),
                ts_ns=here_ns,
                offset_ns=here_ns - ts_ns,
                is_post=first + at == stimulus,
                skipped=at - last - 1,
                policies=changes,
            )
        )
        last = at
    return steps


def _told(letters: list[int], post: int) -> list[int]:
    """Which letters are told, ascending: the ends, the put, those next to the post."""
    loaded = True
    begin = post
    for at in range(post - 1, max(post - _FAR, -1), -1):
        begin = at
        if is_put(letters[at]) and loaded:
            loaded = False  # the VM-exit, or the load, before the put
        elif letters[at] in (Letter.EXIT, Letter.ENTER, Letter.FORGET) or is_load(
            letters[at]
        ):
            break
    finish = post
    for at in range(post + 1, min(post + _FAR, len(letters))):
        finish = at
        if letters[at] in (Letter.ENTER, Letter.EXIT, Letter.FORGET):
            break
        if is_put(letters[at]) and loaded:
            break
    told = {begin, post, finish}
    told |= {at for at in range(begin, post) if is_put(letters[at])}
    told |= {at for at in range(post, finish) if is_load(letters[at])}
    told |= set(range(max(begin, post - _MOST_BEFORE), post))
    told |= set(range(post, min(finish, post + _MOST_AFTER)))
    return sorted(told)


def _text(analysis: Analysis, at: int) -> str:
    stimuli, windows = analysis.stimuli, analysis.timeline.windows
    letter = Letter(int(stimuli.letter[at]))
    vector = int(stimuli.vector[at])
    why = ""
    if is_put(letter) and stimuli.window[at] >= 0:
        reason = PutReason(int(windows.reason[stimuli.window[at]]))
        why = REASON_WORDS[reason.label]
        if not windows.certain[stimuli.window[at]]:
            why += " (not certain)"
    elif letter is Letter.EXIT:
        why = _exit_name(analysis, at)
    return LETTER_WORDS[letter].format(
        cpu=int(stimuli.cpu[at]),
        vector=f", vector {vector:#x}" if vector >= 0 else "",
        why=why,
    )


def _exit_name(analysis: Analysis, at: int) -> str:
    acts, row = analysis.timeline.acts, int(analysis.stimuli.row[at])
    vcpu = int(analysis.stimuli.vcpu[at])
    mine = np.flatnonzero((acts.row == row) & (acts.vcpu == vcpu) & (acts.reason >= 0))
    if not len(mine):
        return ""
    reason = int(acts.reason[mine[0]]) & BASIC_REASON_MASK
    try:
        return f", {VmxExit(reason).name}"
    except ValueError:
        return f", reason {reason}"


class _Memory:
    """What the folded states leave out, followed through the letters of one policy."""

    def __init__(self, analysis: Analysis, walked: Walked, begin: int) -> None:
        self._analysis = analysis
        self._walked = walked
        self._vectors: set[int] = set()
        self._others = True
        self._ndst: list[int] = []
        # Back to where PIR was empty for sure, and the pCPU is told.
        start = begin
        for at in range(begin - 1, max(begin - _FAR, walked.first) - 1, -1):
            start = at
            letter = walked.letter(at)
            own = is_load(letter) or letter in (Letter.ENTER, Letter.EXIT)
            if own and not any(state.pir for state in walked.after(at)):
                break
        for at in range(start, begin):
            self._take(at)

    def change(self, at: int) -> Change:
        """The step at a letter; letters are to be asked for in order, none left out."""
        walked = self._walked
        before = self._descriptor(walked.before(at))
        self._take(at)
        return Change(
            before=before,
            after=self._descriptor(walked.after(at)),
            effects=walked.effects(at, before.ndst),
            contradiction=walked.surprising(at),
        )

    def _descriptor(self, states: list[Folded]) -> Descriptor:
        distinct = dict.fromkeys(
            State(
                on=s.on,
                sn=s.sn,
                nv=POSTED_INTR_WAKEUP_VECTOR if s.nv_f1 else POSTED_INTR_VECTOR,
                pir=s.pir,
            )
            for s in states
        )
        some = any(s.pir for s in states)
        return Descriptor(
            states=list(distinct),
            vectors=sorted(self._vectors) if some else [],
            others=self._others and some,
            ndst=list(self._ndst),
        )

    def _take(self, at: int) -> None:
        walked, stimuli = self._walked, self._analysis.stimuli
        letter = walked.letter(at)
        if is_post(letter):
            vector = int(stimuli.vector[at])
            if letter is Letter.MAYBE_POST_SW or vector < 0:
                self._others = True
            else:
                self._vectors.add(vector)
        elif letter is Letter.FORGET:
            self._others, self._ndst = True, []
        if not any(state.pir for state in walked.after(at)):
            self._vectors.clear()
            self._others = False
        if is_load(letter):
            self._load(at, letter)
        elif not self._ndst and (
            is_put(letter) or letter in (Letter.ENTER, Letter.EXIT)
        ):
            self._ndst = [int(stimuli.cpu[at])]  # a loaded vCPU stays where it is

    def _load(self, at: int, letter: Letter) -> None:
        cpu = int(self._analysis.stimuli.cpu[at])
        automaton = self._walked.replayed.automaton
        before = [s for s in self._walked.before(at) if not s.loaded]
        moves = {
            letter is Letter.LOAD_SAME
            or moves_ndst(s, automaton.table.policy, automaton.table.platform)
            for s in before
        } or {True}
        kept = self._ndst if False in moves else []
        self._ndst = sorted({*kept, *([cpu] if True in moves else [])})
