"""Payload texts to kernel fields, form by form and kernel by kernel."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from sources.text_reading import read_text

from piscope.sources.ftrace_text import open_text
from piscope.sources.raw import Wanted
from piscope.sources.text_events import EVENTS
from piscope.sources.text_forms import PATTERNS, compile_form
from piscope.sources.text_names import (
    common_flags,
    exit_reason,
    plugin_task_state,
    task_state,
)

TRACEFS = "        CPU 0/KVM-264     [001] d..1.   100.676105: "
REPORT = "       CPU 0/KVM-264   [001]   100.676105: "


def fields(text: str, prefix: str = TRACEFS) -> dict[str, Any]:
    _, (row,) = read_text(prefix + text + "\n")
    return row.fields


# event: text as tracefs prints it | the record's fields
FORMS: list[tuple[str, dict[str, Any]]] = [
    # kvm_entry: 5.4, 5.10, 6.12, 6.18
    ("kvm_entry: vcpu 3", {"vcpu_id": 3}),
    ("kvm_entry: vcpu 3, rip 0x10", {"vcpu_id": 3, "rip": 16, "immediate_exit": 0}),
    (
        "kvm_entry: vcpu 3, rip 0x10[immediate exit]",
        {"vcpu_id": 3, "rip": 16, "immediate_exit": 1},
    ),
    (
        "kvm_entry: vcpu 3, rip 0xffffffffb33f2e60 intr_info 0x800000ec error_code"
        " 0x00000001[immediate exit]",
        {
            "vcpu_id": 3,
            "rip": 0xFFFFFFFFB33F2E60,
            "intr_info": 0x800000EC,
            "error_code": 1,
            "immediate_exit": 1,
        },
    ),
    # kvm_exit: 4.x, 5.4, 5.10 to 6.12, 6.18
    (
        "kvm_exit: reason EXTERNAL_INTERRUPT rip 0x100 info 0 800000f6",
        {
            "exit_reason": 1,
            "isa": 1,
            "guest_rip": 0x100,
            "info1": 0,
            "info2": 0x800000F6,
        },
    ),
    (
        "kvm_exit: vcpu 1 reason PENDING_INTERRUPT rip 0x100 info 0 0",
        {
            "vcpu_id": 1,
            "exit_reason": 7,
            "isa": 1,
            "guest_rip": 0x100,
            "info1": 0,
            "info2": 0,
        },
    ),
    (
        "kvm_exit: vcpu 1 reason HLT rip 0x1 info1 0x0000000000000784 info2"
        " 0x0000000000000002 intr_info 0x800000f2 error_code 0x00000004",
        {
            "vcpu_id": 1,
            "exit_reason": 12,
            "isa": 1,
            "guest_rip": 1,
            "info1": 0x784,
            "info2": 2,
            "intr_info": 0x800000F2,
            "error_code": 4,
        },
    ),
    (
        "kvm_exit: vcpu 1 reason INVALID_STATE FAILED_VMENTRY rip 0x1 info1 0x1 info2"
        " 0x2 intr_info 0x3 error_code 0x4 requests 0x0000000000800000",
        {
            "vcpu_id": 1,
            "exit_reason": 0x80000021,
            "isa": 1,
            "guest_rip": 1,
            "info1": 1,
            "info2": 2,
            "intr_info": 3,
            "error_code": 4,
            "requests": 0x800000,
        },
    ),
    (
        "kvm_exit: vcpu 0 reason npf rip 0x1 info1 0x1 info2 0x2 intr_info 0x3"
        " error_code 0x4",
        {
            "vcpu_id": 0,
            "isa": 2,
            "guest_rip": 1,
            "info1": 1,
            "info2": 2,
            "intr_info": 3,
            "error_code": 4,
        },
    ),
    ("kvm_userspace_exit: reason KVM_EXIT_IO (2)", {"reason": 2, "errno": 0}),
    ("kvm_userspace_exit: reason restart (4)", {"errno": -4}),
    ("kvm_userspace_exit: reason error (14)", {"errno": -14}),
    ("kvm_fpu: load", {"load": 1}),
    ("kvm_fpu: unload", {"load": 0}),
    (
        "kvm_vcpu_wakeup: poll time 3279293 ns, polling invalid",
        {"ns": 3279293, "waited": 0, "valid": 0},
    ),
    (
        "kvm_halt_poll_ns: vcpu 2: halt_poll_ns 0 (shrink 10000)",
        {"grow": 0, "vcpu_id": 2, "new": 0, "old": 10000},
    ),
    (
        "kvm_msi_set_irq: dst 1f vec 236 (LowPrio|logical|edge|rh)",
        {
            "dst": 0x1F,
            "vector": 236,
            "dm": 0x100,
            "logical": 1,
            "level": 0,
            "redirection_hint": 1,
        },
    ),
    (
        "kvm_apicv_accept_irq: apicid 10 vec 51 (Fixed|level)",
        {"apicid": 16, "vec": 51, "dm": 0, "tm": 1},
    ),
    (
        "kvm_apic_accept_irq: apicid b vec 2 (NMI|edge)",
        {"apicid": 11, "vec": 2, "dm": 0x400, "tm": 0},
    ),
    (
        "kvm_apic_ipi: dst b0 vec 176 (Fixed|physical|assert|edge|all-but-self)",
        {"dest_id": 0xB0, "icr_low": 0xC40B0},
    ),
    (
        "kvm_apic_ipi: dst 2 vec 65 (INIT|logical|de-assert|level|dst)",
        {"dest_id": 2, "icr_low": 0x8D41},
    ),
    ("kvm_apic: apic_write APIC_TMICT = 0x6094b", {"rw": 1, "reg": 896, "val": 395595}),
    ("kvm_apic: apic_read 0x4f0 = 0x1", {"rw": 0, "reg": 0x4F0, "val": 1}),
    (
        "kvm_msr: msr_write 830 = 0xb0000440b0 (#GP)",
        {"write": 1, "ecx": 0x830, "data": 0xB0000440B0, "exception": 1},
    ),
    (
        "kvm_msr: msr_read 1b = 0xfee00900",
        {"write": 0, "ecx": 0x1B, "data": 0xFEE00900, "exception": 0},
    ),
    ("kvm_eoi: apicid a vector 43", {"apicid": 10, "vector": 43}),
    ("kvm_inj_virq: irq 52", {"irq": 52}),
    ("kvm_inj_virq: IRQ 0x30", {"vector": 0x30, "soft": 0, "reinjected": 0}),
    (
        "kvm_inj_virq: Soft/INTn 0x80 [reinjected]",
        {"vector": 0x80, "soft": 1, "reinjected": 1},
    ),
    (
        "kvm_pi_irte_update: VT-d PI is enabled and being updated for irq 33, vcpu 1,"
        " gsi: 0x18, gvec: 0x22, pi_desc_addr: 0x10ff80",
        {
            "host_irq": 33,
            "vcpu_id": 1,
            "gsi": 24,
            "gvec": 0x22,
            "pi_desc_addr": 0x10FF80,
            "set": 1,
        },
    ),
    (
        "kvm_pi_irte_update: PI is disabled for irq 33, vcpu -1, gsi: 0x18, gvec: 0x22",
        {"host_irq": 33, "vcpu_id": -1, "gsi": 24, "gvec": 0x22, "set": 0},
    ),
    ("kvm_set_irq: gsi 4 level 1 source 0", {"gsi": 4, "level": 1, "irq_source_id": 0}),
    (
        "kvm_ioapic_set_irq: pin 11 dst 1 vec 43 (Fixed|logical|level|masked)"
        " (coalesced)",
        {
            "pin": 11,
            "dst": 1,
            "vector": 43,
            "dm": 0,
            "logical": 1,
            "level": 1,
            "masked": 1,
            "coalesced": 1,
        },
    ),
    (
        "kvm_page_fault: vcpu 0 rip 0x1 address 0x0000000000010000 error_code 0x784",
        {"vcpu_id": 0, "guest_rip": 1, "fault_address": 0x10000, "error_code": 0x784},
    ),
    (
        "kvm_page_fault: address fee00300 error_code 7",
        {"fault_address": 0xFEE00300, "error_code": 7},
    ),
    (
        "kvm_apicv_inhibit_changed: set reason=2, inhibits=0x4 ABSENT",
        {"reason": 2, "set": 1, "inhibits": 4},
    ),
    (
        "kvm_pio: pio_write at 0x510 size 4 count 1 val 0x1000 ",
        {"rw": 1, "port": 0x510, "size": 4, "count": 1, "val": 0x1000},
    ),
    (
        "sched_switch: prev_comm=a prev_pid=1 prev_pid=3 prev_prio=120 prev_state=R+"
        " ==> next_comm=CPU 0/KVM next_pid=264 next_prio=-2",
        {
            "prev_comm": b"a prev_pid=1",
            "prev_pid": 3,
            "prev_prio": 120,
            "prev_state": 0x100,
            "next_comm": b"CPU 0/KVM",
            "next_pid": 264,
            "next_prio": -2,
        },
    ),
    (
        "sched_wakeup: comm=CPU 0/KVM pid=2046 prio=120 target_cpu=002",
        {"comm": b"CPU 0/KVM", "pid": 2046, "prio": 120, "target_cpu": 2},
    ),
    (
        "sched_wakeup: comm=x pid=2046 prio=120 success=1 target_cpu=002",
        {"comm": b"x", "pid": 2046, "prio": 120, "success": 1, "target_cpu": 2},
    ),
    (
        "sched_migrate_task: comm=a pid=5 prio=19 orig_cpu=1 dest_cpu=0",
        {"comm": b"a", "pid": 5, "prio": 19, "orig_cpu": 1, "dest_cpu": 0},
    ),
    (
        "irq_handler_entry: irq=33 name=vfio-msix[0](0000:3b:00.0)",
        {"irq": 33, "name": "vfio-msix[0](0000:3b:00.0)"},
    ),
    ("irq_handler_exit: irq=33 ret=handled", {"irq": 33, "ret": 1}),
    ("softirq_entry: vec=9 [action=RCU]", {"vec": 9}),
    ("reschedule_entry: vector=253", {"vector": 253}),
    ("sys_ioctl(fd: 1f, cmd: ae80, arg: 0)", {"fd": 0x1F, "cmd": 0xAE80, "arg": 0}),
    ("sys_ioctl -> 0xfffffffffffffffc", {"ret": -4}),
    ("sys_read(fd: 7, buf: 10, count: 200)", {"fd": 7, "buf": 16, "count": 512}),
    ("pi_load <-vcpu_load", {"ip": "pi_load", "parent_ip": "vcpu_load"}),
    ("tracing_mark_write: a: b", {"buf": "a: b"}),
    (
        "pi_put: (vmx_vcpu_pi_put+0x4/0x240 [kvm_intel]) vcpu=-1 ctl=0xf20000",
        {
            "__probe_ip_symbol": "vmx_vcpu_pi_put+0x4/0x240 [kvm_intel]",
            "vcpu": -1,
            "ctl": 0xF20000,
        },
    ),
    (
        "ret: (vcpu_put+0x1/0x2 <- vmx_vcpu_pi_put) ret=0x0",
        {
            "__probe_ret_ip_symbol": "vcpu_put+0x1/0x2",
            "__probe_func_symbol": "vmx_vcpu_pi_put",
            "ret": 0,
        },
    ),
    (
        "sched_stat_runtime: comm=CPU 0/KVM pid=2 runtime=16239 [ns] vruntime=7 [ns]",
        {"comm": "CPU 0/KVM", "pid": 2, "runtime": 16239, "vruntime": 7},
    ),
    (
        'some_event: addr=0xffffffffffffffff big=18446744073709551615 name="a b"',
        {"addr": (1 << 64) - 1, "big": (1 << 64) - 1, "name": "a b"},
    ),
]


@pytest.mark.parametrize(("text", "expected"), FORMS, ids=lambda value: str(value)[:50])
def test_forms(text: str, expected: dict[str, Any]) -> None:
    assert fields(text) == expected


# What a report with plugins says of the same events.
PLUGIN_FORMS: list[tuple[str, dict[str, Any]]] = [
    ("kvm_entry:             vcpu 0 rip 0x10", {"vcpu_id": 0, "rip": 16}),
    (
        "kvm_exit:             reason HLT rip 0x1 info 784 0",
        {"exit_reason": 12, "isa": 1, "guest_rip": 1, "info1": 0x784, "info2": 0},
    ),
    (
        "kvm_exit:             reason UNKNOWN (67) rip 0x1 info 0 0",
        {"exit_reason": 67, "guest_rip": 1, "info1": 0, "info2": 0},
    ),
    (
        "kvm_exit:             reason EXIT_NPF rip 0x1 info 0 0",
        {"isa": 2, "guest_rip": 1, "info1": 0, "info2": 0},
    ),
    (
        "sched_switch:         a b:12 [120] X ==> swapper/0:0 [120]",
        {
            "prev_comm": b"a b",
            "prev_pid": 12,
            "prev_prio": 120,
            "prev_state": 0x20,
            "next_comm": b"swapper/0",
            "next_pid": 0,
            "next_prio": 120,
        },
    ),
    (
        "sched_wakeup:         a:1 [120] success=1 CPU:003",
        {"comm": b"a", "pid": 1, "prio": 120, "success": 1, "target_cpu": 3},
    ),
    # libtraceevent prints errno -4 as the reason: no errno can be believed
    ("kvm_userspace_exit:   reason KVM_EXIT_INTR (10)", {"reason": 10}),
    ("function:                pi_load", {"ip": "pi_load"}),
    # -R
    (
        "kvm_msi_set_irq:       address=4276105216 data=84",
        {"address": 0xFEE03000, "data": 84},
    ),
    (
        "kvm_apicv_accept_irq:  apicid=1a dm=256 tm=32768 vec=80",
        {"apicid": 0x1A, "dm": 256, "tm": 32768, "vec": 80},
    ),
    (
        "sched_switch:          prev_comm=a b prev_pid=1 prev_prio=120 prev_state=256"
        " next_comm=vmm next_pid=2 next_prio=120",
        {
            "prev_comm": b"a b",
            "prev_pid": 1,
            "prev_prio": 120,
            "prev_state": 256,
            "next_comm": b"vmm",
            "next_pid": 2,
            "next_prio": 120,
        },
    ),
    (
        "pi_put:                __probe_ip=ffffffffc0393574 preempted=0 ctl=0xf2",
        {"__probe_ip": 0xFFFFFFFFC0393574, "preempted": 0, "ctl": 0xF2},
    ),
]


@pytest.mark.parametrize(("text", "expected"), PLUGIN_FORMS, ids=lambda v: str(v)[:50])
def test_forms_of_a_report(text: str, expected: dict[str, Any]) -> None:
    assert fields(text, REPORT) == expected


def test_types_are_those_of_the_record() -> None:
    text = (
        f"{TRACEFS}kvm_apicv_accept_irq: apicid 10 vec 51 (Fixed|level)\n"
        f"{TRACEFS}sched_wakeup: comm=CPU 0/KVM pid=2 prio=120 target_cpu=002\n"
        f"{TRACEFS}pi_put: (pi_put+0x4/0x8) vcpu=-1 ctl=0xf20000\n"
    )
    source = open_text(BytesIO(text.encode()))
    (chunk,) = source.chunks(Wanted({"*": None}))
    assert source.events == [
        ("kvm", "kvm_apicv_accept_irq"),
        ("sched", "sched_wakeup"),
        ("kprobes", "pi_put"),
    ]
    dtypes = [
        {name: column.dtype.str for name, column in payload.columns.items()}
        for _, payload in sorted(chunk.payload.items())
    ]
    assert dtypes == [
        {"apicid": "<u4", "dm": "<u2", "tm": "<u2", "vec": "|u1"},
        {"comm": "|S16", "pid": "<i4", "prio": "<i4", "target_cpu": "<i4"},
        {"__probe_ip_symbol": "|O", "vcpu": "<i8", "ctl": "<u8"},
    ]


def test_a_plugin_hides_fields_and_a_note_says_how_to_get_them() -> None:
    text = REPORT + "kvm_exit:             reason HLT rip 0x1 info 0 800000f2\n"
    source = open_text(BytesIO(text.encode()))
    (chunk,) = source.chunks(Wanted({"kvm_exit": ("vcpu_id", "intr_info", "info2")}))
    (payload,) = chunk.payload.values()
    assert set(payload.columns) == {"vcpu_id", "intr_info", "info2"}
    assert not payload.valid["intr_info"].any()
    assert not payload.valid["vcpu_id"].any()
    assert "info2" not in payload.valid
    assert any("report -N -t" in note for note in source.info.notes)


def test_the_same_words_from_an_old_kernel_hide_nothing() -> None:
    got = fields("kvm_exit: reason HLT rip 0x1 info 0 800000f2")
    assert "intr_info" not in got
    assert got["info2"] == 0x800000F2


def test_mixed_wordings_of_one_event() -> None:
    _, rows = read_text(
        f"{TRACEFS}kvm_inj_virq: irq 52\n"
        f"{TRACEFS}kvm_inj_virq: IRQ 0x30\n"
        f"{TRACEFS}kvm_inj_virq: something new 7\n"
    )
    assert [row.fields for row in rows] == [
        {"irq": 52},
        {"vector": 0x30, "soft": 0, "reinjected": 0},
        {},
    ]


def test_a_cut_line_keeps_what_it_says() -> None:
    source, (row,) = read_text(
        TRACEFS + "kvm_exit: vcpu 1 reason MSR_WRITE rip 0x1 info1 0x2 info2\n"
    )
    assert row.fields == {"vcpu_id": 1, "guest_rip": 1, "info1": 2}
    (loss,) = source.losses
    assert (loss.cause, loss.count) == ("unparsed-line", 1)
    assert "kvm_exit" in loss.detail
    assert "line 1" in loss.detail


@pytest.mark.parametrize(
    "text",
    [
        "kvm_apicv_accept_irq: apicid 10 vec 300 (Fixed|level)",
        "kvm_apicv_accept_irq: apicid 10 vec -1 (Fixed|level)",
    ],
)
def test_a_value_that_the_field_cannot_hold_is_not_valid(text: str) -> None:
    assert "vec" not in fields(text)


def test_only_wanted_fields_are_read() -> None:
    text = TRACEFS + "kvm_entry: vcpu 3, rip 0x10\n"
    source = open_text(BytesIO(text.encode()))
    (chunk,) = source.chunks(Wanted({"kvm:kvm_entry": ("vcpu_id", "no_such_field")}))
    (payload,) = chunk.payload.values()
    assert list(payload.columns) == ["vcpu_id"]


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_form_names_known_fields(name: str) -> None:
    event = EVENTS[name]
    names = frozenset(event.by_name)
    for form in event.forms:
        compiled = compile_form(form, event.fields, names)
        assert compiled.fields, form.text
        assert set(form.hidden) <= names
    assert all(np.dtype(field.dtype) is not None for field in event.fields)
    assert "(?:" not in "".join(PATTERNS)  # a capture is one group


def test_task_states() -> None:
    assert [task_state(s) for s in (b"R", b"R+", b"S", b"D", b"Z", b"X", b"I")] == [
        0, 0x100, 1, 2, 0x20, 0x10, 0x80
    ]  # fmt: skip
    assert task_state(b"D|T") == 6
    assert task_state(b"Q") is None
    assert [plugin_task_state(s) for s in (b"Z", b"X", b"W")] == [0x10, 0x20, 0x80]


def test_exit_reasons() -> None:
    assert exit_reason(b"APIC_WRITE") == (56, 1)
    assert exit_reason(b"0x4e") == (78, None)
    assert exit_reason(b"HLT 0x10000000") == (0x1000000C, 1)
    assert exit_reason(b"SOMETHING_NEW") == (None, 1)
    assert exit_reason(b"write_cr0_trap") == (None, 2)
    assert exit_reason(b"HLT nonsense") == (None, None)


@pytest.mark.parametrize(
    ("columns", "flags"),
    [
        ("....", 0),
        ("d..1", 0x01),
        ("dNh2.", 0x01 | 0x24 | 0x08),
        ("dns..", 0x01 | 0x04 | 0x10),
        ("D.Z..", 0x81 | 0x48),
        (".ps1.", 0x20 | 0x10),
        (".l...", 0x02),
        ("d..h2..", 0x01 | 0x08),
        ("d.Hh2..", 0x01 | 0x08),
        ("", 0),
    ],
)
def test_flag_columns(columns: str, flags: int) -> None:
    assert common_flags(columns.encode()) == flags
