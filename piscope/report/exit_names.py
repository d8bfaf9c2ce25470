"""What to call a VM-exit: by the trace's own table first, then by the kernel's.

A `kvm_exit` is printed with a table that the kernel puts into the event's format:

    (REC->isa == 1) ? __print_symbolic(REC->exit_reason & 0xffff,
                        { 0, "EXCEPTION_NMI" }, ...)
                    : __print_symbolic(REC->exit_reason,
                        { 0x000, "read_cr0" }, ..., { 0x040 + 14, "PF excp" }, ...)

Source: arch/x86/kvm/trace.h, kvm_print_exit_reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from piscope.events.vmx_exits import BASIC_REASON_MASK, REASON_FLAGS, VmxExit
from piscope.sources.raw import EventFormat

__all__ = ("ISA_SVM", "ISA_VMX", "OTHER", "ExitNames", "exit_names")

ISA_VMX, ISA_SVM = 1, 2
"""KVM_ISA_VMX and KVM_ISA_SVM of arch/x86/kvm/trace.h; 0 where no record tells."""

OTHER = -2
"""In place of a reason: any of many rare ones."""

_NOT_TOLD = "(not told)"
_OTHERS = "(others)"

_NUMBER = r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}"
_PAIR = re.compile(
    rf'\{{\s*\(?({_NUMBER})(?:\s*\+\s*({_NUMBER}))?[uUlL]*\)?\s*,\s*"([^"]{{1,64}})"\s*\}}'
)
_KERNEL_NAMES = {int(reason): reason.name for reason in VmxExit}
_MOST_FORMAT_CHARS = 1 << 16
_ISA_TEST = re.compile(r"isa\s*==\s*\(?\s*([12])\b")


@dataclass(frozen=True, slots=True)
class ExitNames:
    """Names of exit reasons.

    own  isa -> reason -> name, of the trace's own tables; a missing isa: no table
    """

    own: Mapping[int, Mapping[int, str]] = field(default_factory=dict)

    def name(self, reason: int, isa: int) -> str:
        """The name as the kernel prints it; a number where nothing names it.

        `reason` is exit_reason as recorded, with its flags; -1: the record lacks it,
        or OTHER.
        `isa` 0 is taken for VMX, which is all that kernels without the field print
        by the same numbers.
        """
        if reason < 0:
            return _OTHERS if reason == OTHER else _NOT_TOLD
        if isa == ISA_SVM:
            return self.own.get(ISA_SVM, {}).get(reason, f"{reason:#x}")
        basic = reason & BASIC_REASON_MASK
        name = self.own.get(ISA_VMX, {}).get(basic)
        if name is None:
            name = _KERNEL_NAMES.get(basic, f"{basic:#x}")
        return " ".join([name, *_flags(reason & ~BASIC_REASON_MASK)])


def _flags(bits: int) -> list[str]:
    # as __print_flags: known flags by name, what is left as one number
    named = [flag for flag, bit in REASON_FLAGS.items() if bits & bit]
    rest = bits & ~sum(REASON_FLAGS.values())
    return [*named, f"{rest:#x}"] if rest else named


def exit_names(kvm_exit: EventFormat | None) -> ExitNames:
    """The names that a trace's own kvm_exit format gives; None: it has no format."""
    if kvm_exit is None:
        return ExitNames()
    text = kvm_exit.print_fmt[:_MOST_FORMAT_CHARS]
    tested = [int(isa) for isa in _ISA_TEST.findall(text)]
    first = tested[0] if tested else ISA_VMX
    isas = (first, ISA_SVM if first == ISA_VMX else ISA_VMX)
    tables = [_pairs(part) for part in text.split("__print_symbolic(")[1:]]
    return ExitNames(dict(zip(isas, (t for t in tables if t), strict=False)))


def _pairs(text: str) -> dict[int, str]:
    # Up to the flags, whose table looks the same.
    text = text.partition("__print_flags(")[0]
    names: dict[int, str] = {}
    for base, more, name in _PAIR.findall(text):
        # the kernel prints the first that fits
        names.setdefault(int(base, 0) + (int(more, 0) if more else 0), name)
    return names
