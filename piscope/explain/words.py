"""Outcomes, rows of the state table, letters and effects in words.

A test holds each table to the enum that it spells out. The rows are those of
`pi_semantics`, section 8.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from piscope.explain.account import Descriptor
from piscope.model.letters import Letter, Outcome
from piscope.outcomes import Hit, Row

__all__ = (
    "HIT_WORDS",
    "LETTER_WORDS",
    "ROW_WORDS",
    "descriptor_fields",
    "effect_words",
    "either",
    "hit_text",
    "offset_text",
    "pir_text",
)

HIT_WORDS: Mapping[Hit, str] = {
    Hit.GUEST: "0xf2 to pCPU {cpu}, taken in guest mode: delivered, no VM-exit",
    Hit.HOST: "0xf2 to pCPU {cpu}: spurious IRQ in the host, the vCPU is loaded",
    Hit.UNLOADED_HOST: (
        "0xf2 to pCPU {cpu}: spurious IRQ in the host, the vCPU is not loaded"
    ),
    Hit.WRONG_VCPU: "0xf2 to pCPU {cpu}: wrong vCPU, taken in guest mode of {victim}",
    Hit.WAKEUP: "0xf1 to pCPU {cpu}: wakes the blocked vCPU",
    Hit.SILENT_ON: "silent: ON=1, a notification is pending",
    Hit.SILENT_SN: "silent: SN=1",
    Hit.SILENT_PIR: "silent: KVM finds the vector in PIR",
    Hit.SOFTWARE: "KVM's own post: no IRQ; it wakes the task, or the entry takes it",
    Hit.LATCHED: "0xf2 to pCPU {cpu}: latched with IRQs off, the VM-entry takes it",
    Hit.UNKNOWN: "not known",
    Hit.GUEST_EXIT: (
        "0xf2 to pCPU {cpu}: VM-exit and IRQ in the host (L2, or APICv inhibited)"
    ),
}
"""What became of a post; {cpu} is the pCPU that was notified."""

ROW_WORDS: Mapping[Row, str] = {
    Row.POLL_ARMED: "halt-polling up to 5.16, NV=0xf1 already",
    Row.GUEST: "in guest mode, APICv active",
    Row.GUEST_INHIBITED: "in guest mode, but L2 or APICv inhibited",
    Row.AFTER_EXIT: "IRQs off behind a VM-exit, the slow path follows",
    Row.FASTPATH: "IRQs off from VM-exit to re-entry (fast path)",
    Row.HOST: "loaded, in the host, IRQs on",
    Row.POLL: "halt-polling",
    Row.BEFORE_SYNC: "IRQs off for a VM-entry, before the sync",
    Row.AFTER_SYNC: "IRQs off for a VM-entry, behind the sync",
    Row.ENTRY_ABORTED: "a VM-entry that was given up",
    Row.IOCTL: "loaded by a vCPU ioctl other than KVM_RUN",
    Row.PUT_RUNNING: "being put, SN not written yet",
    Row.USERSPACE: "not loaded, in userspace",
    Row.PREEMPTED: "not loaded, preempted in KVM",
    Row.VOLUNTARY: "not loaded, runnable, by schedule()",
    Row.ASLEEP: "not loaded, asleep in KVM",
    Row.BLOCKED: "blocked, IF=1",
    Row.BLOCKED_IF0: "blocked, IF=0",
    Row.BLOCKED_PREEMPTED: "preempted while blocking, IF=1",
    Row.BLOCKED_IF0_PREEMPTED: "preempted while blocking, IF=0",
    Row.NOT_WANTED_TO_RUN: "not loaded, runnable, outside KVM_RUN",
    Row.SWITCHED_IN: "switched in, pi_load not reached",
    Row.LOAD_GAP: "in pi_load: SN cleared, PIR not scanned",
    Row.NEVER_LOADED: "never loaded",
    Row.ON_AT_PUT: "not loaded, ON=1 since the put",
    Row.ON_BY_KVM: "not loaded, ON=1 by a post of KVM",
}
"""What the vCPU was doing."""

LETTER_WORDS: Mapping[Letter, str] = {
    Letter.LOAD_SAME: "load on the same pCPU",
    Letter.LOAD_OTHER: "load on pCPU {cpu}",
    Letter.PUT_RUN_PREEMPTED: "put: preempted",
    Letter.PUT_RUN_NOT: "put: {why}",
    Letter.PUT_BLOCK_IF1_PREEMPTED: "put: preempted while blocking, IF=1",
    Letter.PUT_BLOCK_IF1_NOT: "put: blocking, IF=1",
    Letter.PUT_BLOCK_IF0_PREEMPTED: "put: preempted while blocking, IF=0",
    Letter.PUT_BLOCK_IF0_NOT: "put: blocking, IF=0",
    Letter.POST_HW: "post by hardware{vector}",
    Letter.POST_SW_NEW: "post by KVM{vector}",
    Letter.POST_SW_AGAIN: "post by KVM{vector}, again",
    Letter.POST_SW_EITHER: "post by KVM{vector}",
    Letter.SYNC: "sync_pir_to_irr",
    Letter.ENTER: "sync, VM-entry",
    Letter.EXIT: "VM-exit{why}",
    Letter.OBSERVE_ON0_PIR0: "probe reads ON=0, PIR empty",
    Letter.OBSERVE_ON0_PIR1: "probe reads ON=0, PIR not empty",
    Letter.OBSERVE_ON1_PIR0: "probe reads ON=1, PIR empty",
    Letter.OBSERVE_ON1_PIR1: "probe reads ON=1, PIR not empty",
    Letter.FORGET: "events are lost here",
    Letter.INIT: "the descriptor is created",
    Letter.PRE_BLOCK_IF1: "pi_pre_block, IF=1",
    Letter.PRE_BLOCK_IF0: "pi_pre_block, IF=0",
    Letter.POST_BLOCK: "pi_post_block",
    Letter.NOP: "nothing",
    Letter.MAYBE_POST_SW: "maybe a post by KVM",
    Letter.MAYBE_SYNC: "maybe sync_pir_to_irr",
}
"""What the descriptor met."""


_MOST_HITS = 2


def hit_text(hits: Sequence[Hit], cpu: int | None, victim: str | None) -> str:
    """The possible outcomes in one line; of many, their labels."""
    if len(hits) > _MOST_HITS:
        return f"any of {', '.join(hit.label for hit in hits)}"
    return either(
        HIT_WORDS[hit].format(
            cpu="?" if cpu is None else cpu, victim=victim or "another vCPU"
        )
        for hit in hits
    )


def either(texts: Iterable[str]) -> str:
    """Several that are possible: `a, or b`."""
    return ", or ".join(dict.fromkeys(texts))


def effect_words(outcome: Outcome, ndst: Sequence[int]) -> str:
    """What one answer of the model sends or does; "": nothing."""
    to = f" to pCPU {'|'.join(map(str, ndst))}" if ndst else ""
    words = [
        text
        for text, count in (
            (f"sends 0xf2{to}", outcome.notify_f2),
            (f"sends 0xf1{to}", outcome.notify_f1),
            ("the CPU takes PIR", outcome.absorbed),
            ("self-IPI 0xf1", outcome.self_ipi),
            ("wakes the task", outcome.wake),
            ("silent: ON", outcome.silenced_on),
            ("silent: SN", outcome.silenced_sn),
            ("silent: in PIR", outcome.silenced_pir),
        )
        if count
    ]
    return ", ".join(words)


def pir_text(descriptor: Descriptor) -> str:
    """PIR as a set of vectors: `{}`, `{0x41}`, `{0x41 ?}`, `{}|{0x41}`."""
    members = [f"{v:#x}" for v in descriptor.vectors]
    if descriptor.others or not members:
        members.append("?")
    full = f"{{{' '.join(members)}}}"
    empty = {not state.pir for state in descriptor.states}
    return full if empty == {False} else "{}" if empty == {True} else f"{{}}|{full}"


def descriptor_fields(descriptor: Descriptor) -> dict[str, str]:
    """Each field of the descriptor with the values that are possible: `0|1`."""

    def of(values: set[str]) -> str:
        return "|".join(sorted(values))

    return {
        "SN": of({f"{s.sn:d}" for s in descriptor.states}),
        "ON": of({f"{s.on:d}" for s in descriptor.states}),
        "PIR": pir_text(descriptor),
        "NV": of({f"{s.nv:#x}" for s in descriptor.states}),
        "NDST": "|".join(map(str, descriptor.ndst)) or "?",
    }


def offset_text(offset_ns: int) -> str:
    """Time from the notification, signed: `-12.3 us`, `0`, `+1.2 ms`."""
    from piscope.report.render_words import duration_text

    if not offset_ns:
        return "0"
    return f"{'-' if offset_ns < 0 else '+'}{duration_text(abs(offset_ns))}"
