"""One line: which shape it has, and what its prefix tells."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piscope.sources.text_columns import Layout, line_bounds, read_prefixes
from piscope.sources.text_shapes import (
    UNKNOWN,
    EventLine,
    LostLine,
    Shape,
    classify,
    is_event_name,
    is_raw_report_of_raw_clock,
)


def event(line: str, first: Shape = "ftrace") -> EventLine:
    found = classify(line.encode(), first, perf=first == "perf")
    assert isinstance(found, EventLine), found
    return found


# line | shape | ts_ns | cpu | tid | name | payload
LINES = [
    ("  <idle>-0     [002] d... 158158.084267: sched_switch: prev_comm=swapper/2",
     "ftrace", 158158084267000, 2, 0, "sched_switch", "prev_comm=swapper/2"),
    ("       CPU 0/KVM-2046  [002] d... 158158.084280: kvm_fpu: load",
     "ftrace", 158158084280000, 2, 2046, "kvm_fpu", "load"),
    ("   qemu-1 (  4711) [012] d..2.   339.899388: kvm_entry: vcpu 0",
     "ftrace", 339899388000, 12, 1, "kvm_entry", "vcpu 0"),
    ("   qemu-1 (-------) [012] d..2.   339.899388: kvm_entry: vcpu 0",
     "ftrace", 339899388000, 12, 1, "kvm_entry", "vcpu 0"),
    (" qemu-system-x86-533825 [005] d..1.303280081944169: kvm_entry:    vcpu 0",
     "glued", 303280081944169, 5, 533825, "kvm_entry", "   vcpu 0"),
    ("       CPU 0/KVM-259   [001]    62.787033070: kvm_entry:             vcpu 0",
     "ftrace", 62787033070, 1, 259, "kvm_entry", "            vcpu 0"),
    ("  inst16:    a b-12 [001]    62.787033: kvm_entry:  vcpu 0",
     "ftrace", 62787033000, 1, 12, "kvm_entry", " vcpu 0"),
    ("CPU 1/KV-261     0d..2.    62.786199: sched_switch:  a:1 [120]",
     "latency", 62786199000, 0, 261, "sched_switch", " a:1 [120]"),
    ("trace-cm-256     1-0x1    62.527708: sched_switch:  prev_comm=a",
     "latency", 62527708000, 1, 256, "sched_switch", " prev_comm=a"),
    ("  <idle>-0       1dN.h3.. 2563695122us : sched_wakeup: comm=cyclictest",
     "usecs", 2563695122000, 1, 0, "sched_wakeup", "comm=cyclictest"),
    ("  <idle>-0       1dN.h3..  122us+: sched_wakeup: comm=cyclictest",
     "usecs", 122000, 1, 0, "sched_wakeup", "comm=cyclictest"),
    ("     a-1  [000] .....  1.000001: vmx_vcpu_pi_load <-kvm_arch_vcpu_load",
     "ftrace", 1000001000, 0, 1, "function", "vmx_vcpu_pi_load <-kvm_arch_vcpu_load"),
    ("     a-1  [000] .....  1.000001: sys_ioctl(fd: 1f, cmd: ae80, arg: 0)",
     "ftrace", 1000001000, 0, 1, "sys_enter_ioctl", "fd: 1f, cmd: ae80, arg: 0"),
    ("     a-1  [000] .....  1.000001: sys_ioctl -> 0x0",
     "ftrace", 1000001000, 0, 1, "sys_exit_ioctl", "0x0"),
    ("            perf   228 [000]    52.699399:   sched:sched_wakeup: comm=a",
     "perf", 52699399000, 0, 228, "sched_wakeup", "comm=a"),
    ("   CPU 0/KVM   230/232   [000]    52.756459: kvm:kvm_entry: vcpu 0",
     "perf", 52756459000, 0, 232, "kvm_entry", "vcpu 0"),
    ("  232 [000]    52.756459123: kvm:kvm_entry: vcpu 0",
     "perf", 52756459123, 0, 232, "kvm_entry", "vcpu 0"),
    ("[000]    52.756459:    1  kvm:kvm_entry: vcpu 0",
     "perf", 52756459000, 0, UNKNOWN, "kvm_entry", "vcpu 0"),
    ("   CPU 0/KVM   232    52.756459:  kvm:kvm_entry: vcpu 0",
     "perf", 52756459000, UNKNOWN, 232, "kvm_entry", "vcpu 0"),
    ("   52.756459:  kvm:kvm_entry: vcpu 0",
     "perf", 52756459000, UNKNOWN, UNKNOWN, "kvm_entry", "vcpu 0"),
    (" 220.696238: kvm_entry: vcpu 0, rip 0x406a89",
     "bare", 220696238000, UNKNOWN, UNKNOWN, "kvm_entry", "vcpu 0, rip 0x406a89"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "shape", "ts_ns", "cpu", "tid", "name", "payload"), LINES
)
def test_shapes(
    line: str, shape: Shape, ts_ns: int, cpu: int, tid: int, name: str, payload: str
) -> None:
    found = event(line)
    assert found.shape == shape
    assert (found.ts_ns, found.cpu, found.tid) == (ts_ns, cpu, tid)
    assert (found.name.decode(), found.payload.decode()) == (name, payload)
    assert event(line, shape) == found  # whatever is tried first


def test_task_columns() -> None:
    both = event("   CPU 0/KVM   230/232   [000]    52.756459: kvm:kvm_entry: vcpu 0")
    assert (both.comm, both.tid, both.tgid) == (b"CPU 0/KVM", 232, 230)
    odd = event("  a-b [1]: 2-7  [003] d..1. 1.000000: kvm_fpu: load")
    assert (odd.comm, odd.tid, odd.cpu) == (b"a-b [1]: 2", 7, 3)
    nameless = event("                -7  [003] d..1. 1.000000: kvm_fpu: load")
    assert (nameless.comm, nameless.tid) == (b"", 7)


@pytest.mark.parametrize(
    ("line", "cpu", "count"),
    [
        ("CPU:3 [LOST 12 EVENTS]", 3, 12),
        ("CPU:3 [LOST EVENTS]", 3, None),
        ("CPU:0 [5868 EVENTS DROPPED]", 0, 5868),
        ("CPU:1 [EVENTS DROPPED]", 1, None),
        ("  inst: CPU:1 [7 EVENTS DROPPED]", 1, 7),
        ("  swapper 0 [001] 123.456789: PERF_RECORD_LOST lost 12", 1, 12),
    ],
)
def test_lost_lines(line: str, cpu: int, count: int | None) -> None:
    assert classify(line.encode(), "ftrace", perf=False) == LostLine(cpu, count)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("", "header"),
        ("# tracer: nop", "header"),
        ("##### CPU 1 buffer started ####", "header"),
        ("cpus=20", "header"),
        ("CPU 3 is empty", "header"),
        ("'trace' not valid for hardware events. Ignoring.", "header"),
        (" a 1 [000] 1.000000: PERF_RECORD_COMM: a:1/1", "header"),
        (" => vmx_vcpu_run", "continuation"),
        ("\tffffffff81234567 vmx_vcpu_run+0x10 ([kvm_intel])", "continuation"),
        ("       challenge-24797 [003] .... 83184.290416: kvm_exit", "unparsed"),
        ("intr_info 0x00000000 error_code 0x00000000", "unparsed"),
        (
            "2024-01-01 12:00:00 CPU 0/KVM 12 d..1. [001] 1.0: kvm:kvm_exit: x",
            "unparsed",
        ),
        ("  a-1 [000] d..1. 99999999999.000000: kvm_fpu: load", "unparsed"),
        ("  a-4294967295 [000] d..1. 9.000000: kvm_fpu: load", "unparsed"),
    ],
)
def test_lines_that_are_no_events(line: str, kind: str) -> None:
    assert classify(line.encode(), "ftrace", perf=False) == kind


def test_symbols_are_frames_in_a_perf_script_only() -> None:
    frame = b"                  vmx_vcpu_run ([kvm_intel])"
    assert classify(frame, "perf", perf=True) == "continuation"
    assert classify(frame, "ftrace", perf=False) == "unparsed"


def test_a_raw_report_of_a_raw_clock_is_told() -> None:
    line = b" qemu-system-x86-533825 [005]-0x1303280081944169: kvm_entry:  vcpu_id=0"
    assert is_raw_report_of_raw_clock(line)
    assert classify(line, "ftrace", perf=False) == "unparsed"


LAYOUTS: dict[str, tuple[Layout, Shape, bytes]] = {
    "tracefs": (
        Layout(perf=False, flags_width=5, fraction_digits=6),
        "ftrace",
        b"    CPU 0/KVM-264     [001] dNh1.   100.676105: kvm_entry: vcpu 0, rip 0x1\n",
    ),
    "tgid": (
        Layout(perf=False, flags_width=4, fraction_digits=6, has_tgid=True),
        "ftrace",
        b"    CPU 0/KVM-264  (    12) [001] d.h1   100.676105: kvm_entry: vcpu 0\n",
    ),
    "report": (
        Layout(perf=False, flags_width=0, fraction_digits=9),
        "ftrace",
        b"    CPU 0/KVM-264   [001]   100.676105123: kvm_entry:            vcpu 0\n",
    ),
    "glued": (
        Layout(perf=False, flags_width=5, fraction_digits=0),
        "glued",
        b" qemu-system-x86-533825 [005] d..1.303280081944169: kvm_entry:  vcpu 0\n",
    ),
    "perf": (
        Layout(perf=True, flags_width=0, fraction_digits=6),
        "perf",
        b"       CPU 0/KVM   230/232 [000]    52.756459:   kvm:kvm_entry: vcpu 0\n",
    ),
    "perf, no task": (
        Layout(perf=True, flags_width=0, fraction_digits=9, has_tid=False),
        "perf",
        b"[000]    52.756459123:   kvm:kvm_entry: vcpu 0\n",
    ),
    "function": (
        Layout(perf=False, flags_width=5, fraction_digits=6),
        "ftrace",
        b"             vmm-327     [000] ...1.   313.212762: pi_load <-vcpu_load\n",
    ),
}


def assert_same(text: bytes, layout: Layout, shape: Shape) -> int:
    """What the fast form reads is what the line-by-line form reads; how many lines."""
    starts, ends = line_bounds(text)
    fast = read_prefixes(text, starts, ends, layout)
    for at, line in enumerate(fast.line.tolist()):
        key = fast.key[at].lstrip(b" ")
        found = classify(text[starts[line] : ends[line]], shape, layout.perf)
        if not is_event_name(key):
            continue  # names are looked at later; such a line then goes the slow way
        assert isinstance(found, EventLine)
        name = found.system + b":" + found.name if found.system else found.name
        payload = text[fast.text_start[at] : fast.text_end[at]].strip()
        comm = text[fast.comm_start[at] : fast.comm_end[at]].strip()
        assert key == name
        assert payload == found.payload.strip()
        assert comm == (found.comm or b"").strip()
        assert fast.ts_ns[at] == found.ts_ns
        assert (fast.cpu[at], fast.tid[at]) == (found.cpu, found.tid)
        assert fast.flags[at] == (found.flags or 0)
        if fast.tgid is not None:
            assert fast.tgid[at] == (UNKNOWN if found.tgid is None else found.tgid)
    return len(fast.line)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_fast_form_reads_well_formed_lines(name: str) -> None:
    layout, shape, line = LAYOUTS[name]
    assert assert_same(line, layout, shape) == 1
    assert assert_same(b"# tracer: nop\n" + line * 3 + b"\n", layout, shape) == 3


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from(sorted(LAYOUTS)),
    st.lists(
        st.tuples(
            st.integers(0, 80),
            st.sampled_from(
                [b"", b" ", b"-", b"[", b"]", b":", b".", b"7", b"a", b"\n"]
            ),
            st.integers(0, 2),
        ),
        max_size=4,
    ),
)
def test_the_fast_form_never_says_otherwise(
    layout_name: str, line_name: str, edits: list[tuple[int, bytes, int]]
) -> None:
    layout, shape, _ = LAYOUTS[layout_name]
    line = LAYOUTS[line_name][2][:-1]
    for at, new, cut in edits:
        line = line[:at] + new + line[at + cut :]
    text = LAYOUTS[layout_name][2] + line + b"\n" + LAYOUTS[layout_name][2]
    assert_same(text, layout, shape)
