"""How KVM's tracepoints are worded, and which fields the words stand for.

One entry per event: its fields as a binary record has them (name, type), and its
forms, each copied from a print fmt or from libtraceevent's plugin; newest first.

To be read beside arch/x86/kvm/trace.h and include/trace/events/kvm.h (4.4 to 6.18),
and plugin_kvm.c of libtraceevent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from piscope.sources.text_decode import Decoded, decimals, looked_up, read_once
from piscope.sources.text_forms import (
    EventText,
    Form,
    TextField,
    bare_hexadecimal,
    decimal,
    given,
    hexadecimal,
    one_of,
)
from piscope.sources.text_names import (
    APIC_REGISTERS,
    DELIVERY_MODES,
    SHORTHANDS,
    exit_reason,
)

__all__ = ("KVM_EVENTS",)


def _icr_low(
    vec: Sequence[bytes],
    mode: Sequence[bytes],
    dest: Sequence[bytes],
    assert_: Sequence[bytes],
    trigger: Sequence[bytes],
    shorthand: Sequence[bytes],
    dtype: str,
) -> Decoded:
    """The ICR's low half from its parts; delivery status (bit 12) is not printed."""
    array: Any
    array, good = decimals(vec, dtype)
    array = array & np.array(0xFF, dtype)
    for values, table in (
        (mode, DELIVERY_MODES),
        (dest, {b"logical": 1 << 11, b"physical": 0}),
        (assert_, {b"assert": 1 << 14, b"de-assert": 0}),
        (trigger, {b"level": 1 << 15, b"edge": 0}),
        (shorthand, SHORTHANDS),
    ):
        part, part_good = looked_up(table)(values, dtype)
        array = array | part
        if part_good is not None:
            good = part_good if good is None else good & part_good
    return array, good


def _userspace_errno(name: Sequence[bytes], number: Sequence[bytes], dtype: str) -> Any:
    """errno from "restart (4)" and "error (n)"; 0, not negative, for any other."""
    array, good = decimals(number, dtype)
    return np.where(_failed(name), -array, 0).astype(dtype), good


def _userspace_errno_of_tools(
    name: Sequence[bytes], number: Sequence[bytes], dtype: str
) -> Any:
    """The same, where other reasons say nothing of errno.

    libtraceevent takes REC->errno for unsigned, so that "restart (4)" becomes
    "KVM_EXIT_INTR (10)".
    """
    array, good = _userspace_errno(name, number, dtype)
    failed = _failed(name)
    return array, failed if good is None else good & failed


def _userspace_reason(
    name: Sequence[bytes], number: Sequence[bytes], dtype: str
) -> Any:
    """reason from "KVM_EXIT_IO (2)"; with an errno the text holds no reason."""
    array, good = decimals(number, dtype)
    named = ~_failed(name)
    good = named if good is None else good & named
    return np.where(good, array, 0).astype(dtype), None if good.all() else good


def _failed(name: Sequence[bytes]) -> Any:
    return np.fromiter((n in (b"restart", b"error") for n in name), bool, len(name))


_DELIVERY = looked_up(DELIVERY_MODES)
# The text says "level" for any trigger mode but 0, so 1 is all that is known.
_LEVEL = looked_up({b"level": 1, b"edge": 0})
_LOGICAL = looked_up({b"logical": 1, b"physical": 0})

_ACCEPT_IRQ = EventText(
    (
        bare_hexadecimal("apicid", "u4"),
        TextField("dm", "u2", ("dm",), _DELIVERY),
        TextField("tm", "u2", ("tm",), _LEVEL),
        decimal("vec", "u1"),
    ),
    (Form("apicid {apicid:x} vec {vec:d} ({dm:w}|{tm:w})"),),
)

KVM_EVENTS: dict[str, EventText] = {
    "kvm_entry": EventText(
        (
            decimal("vcpu_id", "u4"),
            hexadecimal("rip", "u8"),
            given("immediate_exit"),
            hexadecimal("intr_info", "u4"),
            hexadecimal("error_code", "u4"),
        ),
        (
            Form(
                "vcpu {vcpu_id:d}, rip {rip:x} intr_info {intr_info:x}"
                " error_code {error_code:x}{immediate_exit?[immediate exit]}"
            ),
            Form("vcpu {vcpu_id:d}, rip {rip:x}{immediate_exit?[immediate exit]}"),
            Form("vcpu {vcpu_id:d} rip {rip:x}", when="plugins"),
            Form("vcpu {vcpu_id:d}"),
        ),
    ),
    "kvm_exit": EventText(
        (
            TextField(
                "exit_reason",
                "u4",
                ("reason",),
                read_once(lambda text: exit_reason(text)[0]),
            ),
            TextField(
                "isa", "u4", ("reason",), read_once(lambda text: exit_reason(text)[1])
            ),
            hexadecimal("guest_rip", "u8"),
            hexadecimal("info1", "u8"),
            hexadecimal("info2", "u8"),
            hexadecimal("intr_info", "u4"),
            hexadecimal("error_code", "u4"),
            decimal("vcpu_id", "u4"),
            hexadecimal("requests", "u8"),
        ),
        (
            Form(
                "vcpu {vcpu_id:d} reason {reason:reason} rip {guest_rip:x}"
                " info1 {info1:x} info2 {info2:x} intr_info {intr_info:x}"
                " error_code {error_code:x} requests {requests:x}"
            ),
            Form(
                "vcpu {vcpu_id:d} reason {reason:reason} rip {guest_rip:x}"
                " info1 {info1:x} info2 {info2:x} intr_info {intr_info:x}"
                " error_code {error_code:x}"
            ),
            Form(
                "vcpu {vcpu_id:d} reason {reason:reason} rip {guest_rip:x}"
                " info {info1:x} {info2:x}",
            ),
            # Word for word the same: kernels up to 4.x, whose info2 is the VMX
            # intr_info, and the plugin, which leaves intr_info out where it exists.
            Form(
                "reason {reason:reason} rip {guest_rip:x} info {info1:x} {info2:x}",
                when="no plugins",
            ),
            Form(
                "reason {reason:reason} rip {guest_rip:x} info {info1:x} {info2:x}",
                when="plugins",
                hidden=("vcpu_id", "intr_info", "error_code"),
            ),
        ),
    ),
    "kvm_userspace_exit": EventText(
        (
            TextField("reason", "u4", ("name", "number"), _userspace_reason),
            TextField("errno", "i4", ("name", "number"), _userspace_errno),
            TextField("reason", "u4", ("exit", "exit_number"), _userspace_reason),
            TextField(
                "errno", "i4", ("exit", "exit_number"), _userspace_errno_of_tools
            ),
        ),
        (
            Form("reason {name:w} ({number:d})", when="tracefs"),
            Form("reason {exit:w} ({exit_number:d})", when="tools"),
        ),
    ),
    "kvm_fpu": EventText(
        (one_of("load", "u4", load=1, unload=0),), (Form("{load:w}"),)
    ),
    "kvm_vcpu_wakeup": EventText(
        (
            decimal("ns", "u8"),
            one_of("waited", "u1", wait=1, poll=0),
            one_of("valid", "u1", "polling", valid=1, invalid=0),
        ),
        (
            Form("{waited:w} time {ns:d} ns, polling {polling:w}"),
            Form("{waited:w} time {ns:d} ns"),
        ),
    ),
    "kvm_halt_poll_ns": EventText(
        (
            one_of("grow", "u1", grow=1, shrink=0),
            decimal("vcpu_id", "u4"),
            decimal("new", "u4"),
            decimal("old", "u4"),
        ),
        (Form("vcpu {vcpu_id:d}: halt_poll_ns {new:d} ({grow:w} {old:d})"),),
    ),
    # The record's address and data can't be rebuilt in full, so they stay absent
    # and the parts that the text shows have names of their own.
    "kvm_msi_set_irq": EventText(
        (
            decimal("address", "u8"),
            decimal("data", "u8"),
            bare_hexadecimal("dst", "u4"),
            decimal("vector", "u1"),
            TextField("dm", "u2", ("dm",), _DELIVERY),
            TextField("logical", "u1", ("logical",), _LOGICAL),
            TextField("level", "u1", ("level",), _LEVEL),
            given("redirection_hint"),
        ),
        (
            Form(
                "dst {dst:x} vec {vector:d} ({dm:w}|{logical:w}|{level:w}"
                "{redirection_hint?|rh})"
            ),
        ),
    ),
    "kvm_apic_accept_irq": _ACCEPT_IRQ,
    "kvm_apicv_accept_irq": _ACCEPT_IRQ,
    "kvm_apic_ipi": EventText(
        (
            TextField(
                "icr_low",
                "u4",
                ("vec", "mode", "dest", "assert", "trigger", "shorthand"),
                _icr_low,
            ),
            bare_hexadecimal("dest_id", "u4"),
        ),
        (
            Form(
                "dst {dest_id:x} vec {vec:d} "
                "({mode:w}|{dest:w}|{assert:w}|{trigger:w}|{shorthand:w})"
            ),
        ),
    ),
    "kvm_apic": EventText(
        (
            one_of("rw", "u4", apic_write=1, apic_read=0),
            TextField("reg", "u4", ("reg",), looked_up(APIC_REGISTERS)),
            hexadecimal("val", "u8"),
        ),
        (Form("{rw:w} {reg:w} = {val:x}"),),
    ),
    "kvm_msr": EventText(
        (
            one_of("write", "u4", msr_write=1, msr_read=0),
            bare_hexadecimal("ecx", "u4"),
            hexadecimal("data", "u8"),
            given("exception"),
        ),
        (Form("{write:w} {ecx:x} = {data:x}{exception? (#GP)}"),),
    ),
    "kvm_pio": EventText(
        (
            one_of("rw", "u4", pio_write=1, pio_read=0),
            hexadecimal("port", "u4"),
            decimal("size", "u4"),
            decimal("count", "u4"),
            hexadecimal("val", "u4"),
        ),
        (Form("{rw:w} at {port:x} size {size:d} count {count:d} val {val:x}"),),
    ),
    "kvm_mmio": EventText(
        (
            one_of(
                "type", "u4", "type", **{"unsatisfied-read": 0, "read": 1, "write": 2}
            ),
            decimal("len", "u4"),
            hexadecimal("gpa", "u8"),
            hexadecimal("val", "u8"),
        ),
        (Form("mmio {type:w} len {len:d} gpa {gpa:x} val {val:x}"),),
    ),
    "kvm_hv_timer_state": EventText(
        (bare_hexadecimal("vcpu_id", "u4"), bare_hexadecimal("hv_timer_in_use", "u4")),
        (Form("vcpu_id {vcpu_id:x} hv_timer {hv_timer_in_use:x}"),),
    ),
    "kvm_eoi": EventText(
        (bare_hexadecimal("apicid", "u4"), decimal("vector", "i4")),
        (Form("apicid {apicid:x} vector {vector:d}"),),
    ),
    "kvm_inj_virq": EventText(
        (
            hexadecimal("vector", "u4"),
            one_of("soft", "u1", "IRQ", **{"IRQ": 0, "Soft/INTn": 1}),
            given("reinjected"),
            decimal("irq", "u4"),  # 5.10's only field; 6.1 has the three above
        ),
        (
            Form("{IRQ:soft} {vector:x}{reinjected? [reinjected]}"),
            Form("irq {irq:d}"),
        ),
    ),
    "kvm_pi_irte_update": EventText(
        (
            decimal("host_irq", "u4"),
            decimal("vcpu_id", "i4"),
            hexadecimal("gsi", "u4"),
            hexadecimal("gvec", "u4"),
            hexadecimal("pi_desc_addr", "u8"),
            TextField(
                "set",
                "u1",
                ("set",),
                looked_up({b"enabled and being updated": 1, b"disabled": 0}),
            ),
        ),
        tuple(
            Form(
                f"{prefix}PI is {{set:update}} for irq {{host_irq:d}}, vcpu"
                f" {{vcpu_id:d}}, gsi: {{gsi:x}}, gvec: {{gvec:x}}{suffix}"
            )
            for suffix in (", pi_desc_addr: {pi_desc_addr:x}", "")
            for prefix in ("", "VT-d ")
        ),
    ),
    "kvm_set_irq": EventText(
        (decimal("gsi", "u4"), decimal("level", "i4"), decimal("irq_source_id", "i4")),
        (Form("gsi {gsi:d} level {level:d} source {irq_source_id:d}"),),
    ),
    # As with kvm_msi_set_irq: of the redirection entry `e` only parts are printed.
    "kvm_ioapic_set_irq": EventText(
        (
            decimal("pin", "i4"),
            bare_hexadecimal("dst", "u1"),
            decimal("vector", "u1"),
            TextField("dm", "u2", ("dm",), _DELIVERY),
            TextField("logical", "u1", ("logical",), _LOGICAL),
            TextField("level", "u1", ("level",), _LEVEL),
            given("masked"),
            given("coalesced"),
        ),
        (
            Form(
                "pin {pin:d} dst {dst:x} vec {vector:d} ({dm:w}|{logical:w}|{level:w}"
                "{masked?|masked}){coalesced? (coalesced)}"
            ),
        ),
    ),
    "kvm_page_fault": EventText(
        (
            decimal("vcpu_id", "u4"),
            hexadecimal("guest_rip", "u8"),
            hexadecimal("fault_address", "u8"),
            hexadecimal("error_code", "u8"),
        ),
        (
            Form(
                "vcpu {vcpu_id:d} rip {guest_rip:x} address {fault_address:x}"
                " error_code {error_code:x}"
            ),
            Form("address {fault_address:x} error_code {error_code:x}"),
        ),
    ),
    "kvm_apicv_inhibit_changed": EventText(
        (
            decimal("reason", "i4"),
            one_of("set", "u1", set=1, cleared=0),
            hexadecimal("inhibits", "u8"),
        ),
        (Form("{set:w} reason={reason:d}, inhibits={inhibits:x}"),),
    ),
}
"""By event name."""
