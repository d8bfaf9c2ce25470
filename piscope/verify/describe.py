"""Transitions in words: kinds, rules and their sources, expected and read values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from piscope.model.descriptor import Vcpu
from piscope.model.policy import SWITCHES, vmx_needs_pi_wakeup
from piscope.verify.account import Reading
from piscope.verify.allowed import KVMS, OTHERS, By, Kernel, allowed
from piscope.verify.apic_ids import ApicIds
from piscope.verify.observations import UNREAD, Hits
from piscope.verify.probe_names import Point
from piscope.verify.transitions import (
    NDST_HERE,
    NDST_LAST,
    NV_ODD,
    NV_ODDER,
    Case,
    Transitions,
)

__all__ = (
    "expected_values",
    "kind_of",
    "observed_values",
    "reading",
    "rule_of",
    "source_of",
)

_PUT = {
    (1, 0): "preempted",
    (0, 1): "blocking",
    (1, 1): "preempted while blocking",
    (0, 0): "neither preempted nor blocking",
}
_FUNCTIONS = {
    "load": "vmx_vcpu_pi_load (posted_intr.c)",
    "put": "vmx_vcpu_pi_put (posted_intr.c)",
    "loaded": "vmx_sync_pir_to_irr (vmx.c), VM-entries and exits",
    "away": "VT-d 5.2.3, vmx_deliver_posted_interrupt (vmx.c)",
}


def kind_of(case: Case) -> str:
    """The kind of a transition: `put, preempted`, or `load + loaded, same pCPU`."""
    names = " + ".join(_STEP_NAMES[step] for step in case.steps)
    details = []
    if case.begin == Point.PUT:
        known = (case.preempted, case.blocking)
        details.append(_PUT.get(known, "flags not read"))
    elif "load" in case.steps:
        if case.nv == 0 and case.fresh:
            details.append("the first")
        elif case.same_cpu == UNREAD:
            details.append("pCPU before not known")
        else:
            details.append("same pCPU" if case.same_cpu else "another pCPU")
    return ", ".join((names, *details))


_STEP_NAMES = {
    "load": "load",
    "loaded": "while loaded",
    "put": "put",
    "away": "while unloaded",
}


def rule_of(case: Case, kernel: Kernel) -> str:
    """What the model leaves behind a case without posts: `SN=0 -> SN=1 NV=0xf2`.

    Several answers are joined by "or": the guest's IF, or what a sync may have done.
    """
    if case.steps == ("away",):
        return "SN, NV, NDST stay; PIR only gains; ON rises by KVM, or if SN=0"
    states = allowed(case, kernel, By.MODEL)
    answers = sorted({f"SN={v.pi.sn:d} NV={_nv(v.pi.nv)}" for v in states})
    before = f"from SN={case.sn:d} NV={_nv(case.nv)}: "
    rule = before + " or ".join(answers)
    if "load" in case.steps and {v.pi.ndst for v in states} == {NDST_HERE}:
        rule += ", NDST=this pCPU"
        if case.steps == ("load",):
            rule += ", ON if PIR" if case.sn or not case.same_cpu else ""
    elif "put" in case.steps:
        rule += ", ON and PIR stay"
    return rule


def source_of(case: Case, kernel: Kernel) -> str:
    """The functions that made the rule, and of a put the patch that chose it."""
    functions = "; ".join(_FUNCTIONS[step] for step in case.steps)
    if case.steps[0] != "put":
        return functions
    if not vmx_needs_pi_wakeup(kernel.platform):
        return f"{functions}, which returns at once (vmx_needs_pi_wakeup)"
    policy = kernel.policy
    switch = "sn_on_every_put" if policy.sn_on_every_put else "sn_when_preempted"
    if case.blocking == 1:
        switch = "block_in_put" if policy.block_in_put else "pre_block_checks_if"
        if case.preempted == 1 and policy.block_in_put:
            switch = "arm_when_preempted"
    return f"{functions}: {SWITCHES[switch][1]}"


def _nv(nv: int) -> str:
    return {NV_ODD: "another", NV_ODDER: "yet another"}.get(nv, f"{nv:#x}")


def expected_values(
    transitions: Transitions, number: int, hits: Hits, apic_ids: ApicIds, kernel: Kernel
) -> dict[str, list[str]]:
    """Each field's allowed values at the end of one transition, posts included."""
    case = transitions.cases[int(transitions.case[number])]
    before, after = (int(i[number]) for i in (transitions.before, transitions.after))
    by = By.HARDWARE if kernel.hardware else By.KVM
    states = allowed(case, kernel, by)
    ndst = {
        NDST_HERE: _ndst_of_cpu(
            apic_ids, int(hits.cpu[before if case.end == Point.LOAD else after])
        ),
        NDST_LAST: _ndst_of_cpu(apic_ids, int(hits.cpu[before]))
        if case.ndst != NDST_LAST
        else apic_ids.name(int(hits.ndst[before])),
    }

    def values(of: Iterable[str]) -> list[str]:
        return sorted(set(of))

    kept = apic_ids.name(int(hits.ndst[before]))
    return {
        "SN": values(f"{v.pi.sn:d}" for v in states),
        "NV": values(
            f"{int(hits.nv[before]):#x}" if v.pi.nv == NV_ODD else _nv(v.pi.nv)
            for v in states
        ),
        "NDST": values(ndst.get(v.pi.ndst, kept) for v in states),
        "ON": ["0", "1"] if _free(case) else values(f"{v.pi.on:d}" for v in states),
        "PIR": ["anything"]
        if _free(case) or not case.pir_read
        else _pir_words(states, case),
    }


def _free(case: Case) -> bool:
    return "loaded" in case.steps


def _ndst_of_cpu(apic_ids: ApicIds, cpu: int) -> str:
    value = apic_ids.ndst.get(cpu)
    return f"that of pCPU {cpu}" if value is None else apic_ids.name(value)


def _pir_words(states: Iterable[Vcpu], case: Case) -> list[str]:
    added = [bool(v.pi.pir >> OTHERS & 1 or v.pi.pir >> KVMS & 1) for v in states]
    words = []
    if not all(added):
        words.append("the same" if case.pir else "empty")
    if any(added):
        words.append("more vectors")
    return words


def observed_values(
    transitions: Transitions, number: int, hits: Hits, apic_ids: ApicIds
) -> dict[str, str]:
    """What was read at the end of a transition, in the terms of `expected_values`."""
    before, after = int(transitions.before[number]), int(transitions.after[number])
    case = transitions.cases[int(transitions.case[number])]
    pir = "not compared"
    if case.pir_read:
        was, became = _vectors(hits, before), _vectors(hits, after)
        changes = []
        if lost := sorted(was - became):
            changes.append(f"lost {_hex(lost)}")
        if gained := sorted(became - was):
            changes.append(f"gained {_hex(gained)}")
        if case.missed:
            changes.append("lacks a vector that KVM posted")
        pir = ", ".join(changes) or ("the same" if was else "empty")
    return {
        "SN": f"{bool(hits.sn[after]):d}",
        "NV": f"{int(hits.nv[after]):#x}",
        "NDST": apic_ids.name(int(hits.ndst[after]))
        if hits.ndst_read[after]
        else "not read",
        "ON": f"{bool(hits.on[after]):d}",
        "PIR": pir,
    }


def _vectors(hits: Hits, at: int) -> set[int]:
    words = hits.pir[at].tolist()
    return {v for v in range(256) if int(words[v >> 6]) >> (v & 63) & 1}


def _hex(vectors: list[int]) -> str:
    return " ".join(f"{v:#x}" for v in vectors)


def reading(hits: Hits, at: int, apic_ids: ApicIds) -> Reading:
    """One probe's reading of the descriptor."""
    ndst = int(hits.ndst[at]) if hits.ndst_read[at] else None
    return Reading(
        ts_ns=int(hits.ts_ns[at]),
        cpu=int(hits.cpu[at]),
        point=Point(int(hits.point[at])).label,
        on=bool(hits.on[at]),
        sn=bool(hits.sn[at]),
        nv=int(np.int64(hits.nv[at])),
        ndst=ndst,
        ndst_text="not read" if ndst is None else apic_ids.name(ndst),
        pir=sorted(_vectors(hits, at)) if hits.pir_read[at] else None,
    )
