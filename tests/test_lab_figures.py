"""The lab captures: piscope's figures beside what probes and kernels counted.

In the captures with probes that read the descriptor every put is known (the
`pid-transitions.txt` beside them), and every capture has the kernel's own count of
notification interrupts (PIN of /proc/interrupts, in its `meta.txt`). Where
sample_traces/ has a capture it is read there, otherwise beside the checkout, if it is
there at all.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import CAPTURES, SAMPLES
from timeline.tiling import assert_tiled, assert_windows_fit

from piscope.errors import UnanswerableError
from piscope.outcomes import Hit
from piscope.pipeline import Analysis, analyze
from piscope.replay.hidden_posts import window_posts
from piscope.sources.detect import open_trace
from piscope.tables import Kind, PutReason
from piscope.timeline.agreement import agreement

LAB = CAPTURES / "lab"

PID = {  # with probes that read the descriptor
    "vmx-6.12.117-ipiv": ("b_pid_x2apic", "c_pid_pinned", "f_2vm"),
    "vmx-6.12.117-noipiv": ("b_pid_x2apic", "c_pid_pinned", "f_2vm"),
    "vmx-6.17.13-ipiv": ("b_pid_x2apic", "c_pid_pinned", "f_2vm"),
    "vmx-6.17.13-ipiv-sn": ("h_sn_ipi", "i_sn_ipi_mig", "j_one_pcpu"),
    "vmx-6.12.117-ipiv-us": (
        "k_userspace_ipi",
        "l_wrong_vcpu",
        "m_userspace_msi",
        "n_userspace_slow",
        "o_wrong_vcpu_slow",
    ),
    "vmx-6.12.117-noipiv-us": ("k_userspace_ipi", "l_wrong_vcpu", "m_userspace_msi"),
    "vmx-6.17.13-ipiv-us": (
        "k_userspace_ipi",
        "l_wrong_vcpu",
        "m_userspace_msi",
        "n_userspace_slow",
        "o_wrong_vcpu_slow",
    ),
}
OTHERS = dict.fromkeys(
    ("vmx-6.12.117-ipiv", "vmx-6.12.117-noipiv", "vmx-6.17.13-ipiv"),
    ("a_plain", "d_func", "e_min", "g_lost"),
)
PROBED = [f"{folder}/{name}" for folder, names in PID.items() for name in names]
ALL = PROBED + [
    f"{folder}/{name}" for folder, names in OTHERS.items() for name in names
]
WITHOUT_LOSSES = [name for name in ALL if not name.endswith("g_lost")]


def path_of(name: str, suffix: str = "trace.dat") -> Path:
    """A file of a capture, or a skip."""
    flat = f"{name.replace('/', '.')}.{suffix}"
    for path in (SAMPLES / flat, SAMPLES / "proof" / flat, LAB / f"{name}.{suffix}"):
        if path.is_file():
            return path
    pytest.skip(f"no {name}.{suffix} beside this checkout")


@cache
def analysis(name: str) -> Analysis:
    """What happened: KVM's posts as KVM's, under both policies."""
    source = open_trace(path_of(name))
    try:
        return analyze(source, posted="none")
    finally:
        source.close()


def captured_policy(name: str) -> str:
    return "suppress-on-put" if "-6.17" in name else "preempt-only"


def posts_by_hardware(name: str) -> bool:
    return "-noipiv" not in name


@pytest.mark.parametrize("name", ALL)
def test_tiled_and_without_contradiction(name: str) -> None:
    a = analysis(name)
    assert_tiled(a.timeline)
    assert_windows_fit(a.timeline, len(a.events))
    for result in a.results.values():
        assert result.contradictions == 0


@pytest.mark.parametrize("name", ALL)
def test_the_captured_policy(name: str) -> None:
    recognized = analysis(name).captured
    assert recognized.policy == captured_policy(name)
    by_probes = name in PROBED and posts_by_hardware(name)
    assert recognized.by == ("probes" if by_probes else "release")


@pytest.mark.parametrize("name", ALL)
def test_whether_hardware_posts(name: str) -> None:
    told = analysis(name).posting_by_hardware
    assert told is (posts_by_hardware(name) if name in PROBED else None)


@pytest.mark.parametrize("name", PROBED)
def test_only_hardware_that_posts_leaves_hidden_posts(name: str) -> None:
    hidden = window_posts(analysis(name).timeline).hidden
    # KVM's MSIs alone fill the windows of m; in f the targets are not all known
    if not posts_by_hardware(name) or name.endswith(("m_userspace_msi", "f_2vm")):
        assert not hidden.any()
    else:
        assert hidden.any()


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("vmx-6.12.117-ipiv-us/n_userspace_slow", 250),
        ("vmx-6.17.13-ipiv-us/n_userspace_slow", 243),
        ("vmx-6.12.117-ipiv-us/o_wrong_vcpu_slow", 220),
    ],
)
def test_windows_into_which_hardware_posted(name: str, windows: int) -> None:
    # 6.12: ON went from 0 to 1; 6.17: PIR was filled with SN=1 and ON=0
    t = analysis(name).timeline
    hidden = window_posts(t).hidden
    assert hidden.sum() == windows
    w = t.windows
    turned_on = (w.on_put == 0) & (w.on_load == 1)
    assert turned_on.sum() == (windows if "-6.12" in name else 0)


@pytest.mark.parametrize(
    ("name", "puts"),
    [
        ("vmx-6.12.117-ipiv-us/n_userspace_slow", 7),
        ("vmx-6.17.13-ipiv-us/n_userspace_slow", 12),
    ],
)
def test_puts_that_had_on_already(name: str, puts: int) -> None:
    # the one of each in which ON was set while the put ran is among them
    w = analysis(name).timeline.windows
    assert (w.on_put == 1).sum() == puts
    assert ((w.on_before == 0) & (w.on_put == 1)).sum() == 1


def test_the_patch_at_work() -> None:
    # the same work under both kernels: one spurious notification a window, or none
    old = analysis("vmx-6.12.117-ipiv-us/n_userspace_slow")
    new = analysis("vmx-6.17.13-ipiv-us/n_userspace_slow")
    for a, windows in ((old, 250), (new, 243)):
        unloaded = {
            policy: result.findings.count(Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
            for policy, result in a.results.items()
        }
        assert unloaded["preempt-only"] == (windows, windows)
        assert unloaded["suppress-on-put"] == (0, 0)


def test_notifications_that_the_wrong_vcpu_took() -> None:
    # PIN rose by 20 only: the others were taken in vCPU 2's guest mode
    a = analysis("vmx-6.12.117-ipiv-us/o_wrong_vcpu_slow")
    found = a.results["preempt-only"].findings
    assert found.count(Hit.UNLOADED_HOST, Hit.WRONG_VCPU) == (220, 220)
    assert found.count(Hit.WRONG_VCPU)[1] >= 220 - 20


_INTERRUPTS = re.compile(r"^(PIN|PIW):((?: +\d+)+)", re.MULTILINE)


def kernel_s_count(name: str, which: str) -> int:
    """How many of these interrupts the kernel counted during a capture."""
    text = path_of(name, "meta.txt").read_text()
    before, after = (
        sum(map(int, numbers.split()))
        for kind, numbers in _INTERRUPTS.findall(text)
        if kind == which
    )
    return after - before


@pytest.mark.parametrize("name", WITHOUT_LOSSES)
def test_the_kernel_s_count_of_notification_interrupts(name: str) -> None:
    # each lies between what piscope proves and what it can't exclude
    a = analysis(name)
    result = a.results[captured_policy(name)]
    found, residual = result.findings, result.residual
    least = found.count(Hit.UNLOADED_HOST)[0] + found.count(Hit.HOST)[0]
    least += int(residual.surely.sum())
    most = found.count(Hit.UNLOADED_HOST)[1] + found.count(Hit.HOST)[1]
    most += len(residual.surely) + int(result.exposure.unseen.sum())
    most += int(result.exposure.invisible.sum())
    assert least <= kernel_s_count(name, "PIN") <= most


@pytest.mark.parametrize(
    ("name", "least_share"),
    [
        ("vmx-6.12.117-ipiv-us/k_userspace_ipi", 0.99),
        ("vmx-6.12.117-ipiv-us/n_userspace_slow", 0.98),
        ("vmx-6.17.13-ipiv-us/k_userspace_ipi", 0.97),
        ("vmx-6.17.13-ipiv-us/l_wrong_vcpu", 0.98),
    ],
)
def test_how_much_of_that_count_is_proven(name: str, least_share: float) -> None:
    result = analysis(name).results[captured_policy(name)]
    proven = result.findings.count(Hit.UNLOADED_HOST)[0]
    proven += int(result.residual.surely.sum())
    assert proven >= least_share * kernel_s_count(name, "PIN")


_PUT = re.compile(
    r"put (?P<count>\d+) (?P<pre>preempted|notpre) (?P<blk>blocking|running) "
    r"ON(?P<on>\d) SN\d NV.. -> ON(?P<on_put>\d) SN(?P<sn>\d) NV(?P<nv>..)"
)
_PREEMPTED = (PutReason.PREEMPTED, PutReason.BLOCKING_PREEMPTED)
_BLOCKING = (
    PutReason.BLOCKING,
    PutReason.BLOCKING_PREEMPTED,
    PutReason.BLOCKING_IRQS_BLOCKED,
)


@pytest.mark.parametrize("name", [n for n in PROBED if not n.endswith("f_2vm")])
def test_every_put_of_the_capture(name: str) -> None:
    # f: two VMs with the same vcpu_ids, whose creation nobody can tell apart
    expected: Counter[tuple[bool, bool, int, int, int, int]] = Counter()
    for m in _PUT.finditer(path_of(name, "pid-transitions.txt").read_text()):
        key = (
            m["pre"] == "preempted",
            m["blk"] == "blocking",
            int(m["on"]),
            int(m["on_put"]),
            int(m["sn"]),
            int(m["nv"], 16),
        )
        expected[key] += int(m["count"])
    w = analysis(name).timeline.windows
    got = Counter(
        zip(
            np.isin(w.reason, _PREEMPTED).tolist(),
            np.isin(w.reason, _BLOCKING).tolist(),
            w.on_before.tolist(),
            w.on_put.tolist(),
            w.sn_put.tolist(),
            w.nv_put.tolist(),
            strict=True,
        )
    )
    assert got == expected


LIMITED = [
    name
    for name in ALL
    if name.rpartition("/")[2][0] in "abcfhij"
    or name.rpartition("/")[0].endswith("-us")
]


@pytest.mark.parametrize("name", LIMITED)
def test_stock_events_agree_with_the_probes(name: str) -> None:
    result = agreement(analysis(name).events)
    assert result is not None
    assert result.seen > 400
    # what remains is the last thread's own vCPU, loaded to destroy the VM
    assert result.count("missing", marked=False) <= 0.01 * result.seen
    assert result.count("extra", "wrong-cpu", "wrong-flags", marked=False) == 0
    assert result.count("wrong-flags") <= 0.05 * result.flags


@pytest.mark.parametrize("name", [n for n in ALL if n.endswith("g_lost")])
def test_what_was_overwritten_is_not_known(name: str) -> None:
    # pCPU 1's buffer begins 50 to 130 ms later than pCPU 0's
    a = analysis(name)
    t = a.timeline
    (blind,) = t.blind.tolist()
    assert blind[0] == 0
    until_ns = int(a.events.ts_ns[blind[1] - 1])
    w, i = t.windows, t.intervals
    inside = w.put_ns < until_ns
    assert (w.load_ns[inside] - w.put_ns[inside] < 1_000_000).all()
    off = np.isin(i.kind, (Kind.BLOCKED, Kind.PREEMPTED, Kind.ASLEEP))
    assert (i.start_ns[off] >= until_ns).all()
    stimuli = a.stimuli
    for result in a.results.values():
        early = stimuli.ts_ns[result.findings.stimulus] < until_ns
        for hit in Hit:
            assert not (result.findings.surely(hit) & early).any()


@pytest.mark.parametrize("folder", sorted(OTHERS))
def test_a_capture_without_userspace_events(folder: str) -> None:
    # kvm_entry, kvm_exit and sched_switch alone
    a = analysis(f"{folder}/e_min")
    t = a.timeline
    assert not t.userspace_visible
    blocking = t.windows.reason == PutReason.BLOCKING
    assert len(t.windows) > 370
    assert blocking.mean() > 0.95
    assert not (t.windows.certain & ~blocking).any()
    invisible = a.results["preempt-only"].exposure.invisible
    assert invisible.sum() > 0
    assert a.results["suppress-on-put"].exposure.invisible.sum() == 0


@pytest.mark.parametrize("name", ALL)
def test_the_text_of_a_capture_says_the_same(name: str) -> None:
    # the kernel's own text of the same buffer, rounded to microseconds
    source = open_trace(path_of(name, "ftrace.txt.gz"))
    text = analyze(source, posted="none").timeline
    source.close()
    t = analysis(name).timeline
    assert [v.tid for v in text.vcpus.rows] == [v.tid for v in t.vcpus.rows]
    for column in ("vcpu", "reason", "put_cpu", "load_cpu", "on_put", "on_load"):
        expected = getattr(t.windows, column).tolist()
        assert getattr(text.windows, column).tolist() == expected, column
    assert np.abs(text.windows.put_ns - t.windows.put_ns).max() <= 1000
    # of one microsecond the order may differ
    posts, expected_posts = (
        Counter(zip(p.vcpu.tolist(), p.vector.tolist(), p.msi.tolist(), strict=True))
        for p in (text.posts, t.posts)
    )
    assert posts == expected_posts


@pytest.mark.parametrize("name", ["p_rich", "p_min"])
def test_perf_data(name: str, lab: Path) -> None:
    # perf record: events of its own choice, no kvm_fpu in p_min
    path = SAMPLES / f"vmx-6.17.13-ipiv-tools.{name}.perf.data"
    if not path.is_file():
        path = lab / "vmx-6.17.13-ipiv-tools" / f"{name}.perf.data"
    a = analyze(open_trace(path))
    assert_tiled(a.timeline)
    assert len(a.timeline.windows) > 100
    for result in a.results.values():
        assert result.contradictions == 0


@pytest.mark.parametrize("name", ["a_svm", "b_svm_x2apic", "c_svm_min"])
def test_an_amd_host_has_no_such_descriptor(name: str) -> None:
    with pytest.raises(UnanswerableError, match="AMD"):
        analysis(f"svm-6.17.13/{name}")


def test_two_vms_with_the_same_vcpu_ids() -> None:
    for folder in ("vmx-6.12.117-ipiv", "vmx-6.12.117-noipiv", "vmx-6.17.13-ipiv"):
        t = analysis(f"{folder}/f_2vm").timeline
        assert [v.vcpu_id for v in t.vcpus.rows] == [0, 0, 1, 1]
        p = t.posts
        assert (p.vcpu >= 0).all()
        # each thread injects into one VM: all that is certain says so, and what was
        # inferred or learned agrees with it
        for tid in np.unique(p.tid):
            assert len(np.unique(p.vcpu[p.certain & (p.tid == tid)])) <= 2
            for vcpu_id in (0, 1):
                mine = (p.tid == tid) & (p.vcpu_id == vcpu_id)
                assert len(np.unique(p.vcpu[mine])) <= 1
        # and what is known is right: PIR of no other vCPU gained an unposted vector
        assert not window_posts(t).hidden.any()


def test_ignoring_probes_is_reading_without_them() -> None:
    name = "vmx-6.12.117-ipiv-us/n_userspace_slow"
    source = open_trace(path_of(name))
    a = analyze(source, ignore=("pi:*",))
    source.close()
    assert a.timeline.probes == ()
    # without them the VMM's loads and puts of its vCPUs leave no event
    probed = analysis(name).timeline.windows
    assert len(a.timeline.windows) == (probed.reason != PutReason.IOCTL).sum()
