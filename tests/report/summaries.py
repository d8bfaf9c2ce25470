"""Hand-made summaries: a trace with posts, one without, and one with everything odd."""

from __future__ import annotations

from piscope.report.summary import (
    Bounds,
    Exposed,
    Group,
    LossLine,
    PolicySummary,
    Question,
    Removed,
    Summary,
    TraceSummary,
    VcpuSummary,
    WindowLine,
)
from piscope.tables import Kind

MS = 10**6


def exact(n: int) -> Bounds:
    return Bounds(n, n)


def exposed(windows: int, total_ms: int, longest_ms: int) -> Exposed:
    return Exposed(exact(windows), exact(total_ms * MS), longest_ms * MS)


def vcpu(label: str, tid: int, **time_ms: int) -> VcpuSummary:
    vm, _, name = label.partition("/vcpu")
    time_ns = {kind.label: 0 for kind in Kind}
    time_ns |= {key.replace("_", "-"): ms * MS for key, ms in time_ms.items()}
    return VcpuSummary(
        label=label,
        vm=int(vm.removeprefix("vm")),
        vcpu_id=int(name),
        tid=tid,
        tgid=1890,
        comm=f"CPU {name}/KVM",
        evidence="kvm_entry",
        time_ns=time_ns,
        puts={"userspace": 260, "preempted": 1},
        entries=1262,
        uncertain_puts=0,
    )


def trace(**changes: object) -> TraceSummary:
    values: dict[str, object] = {
        "path": "slow.trace.dat",
        "format": "trace.dat v7 (zstd)",
        "kernel_release": "6.12.117+deb12-amd64",
        "clock": "local",
        "ts_resolution_ns": 1,
        "start_ns": 1000 * MS,
        "end_ns": 2000 * MS,
        "duration_ns": 1000 * MS,
        "cpus": [0, 1, 2, 3, 6],
        "host_cpus": 8,
        "vms": 1,
        "events": 13735,
        "events_used": 8678,
        "losses": [],
        "captured_policy": "preempt-only",
        "captured_policy_by": "probes",
        "captured_policy_evidence": "SN=0 after 261 puts without preemption",
        "posting_by_hardware": True,
        "probes": ["pi_load", "pi_put"],
        "notes": [],
    }
    return TraceSummary(**(values | changes))  # type: ignore[arg-type]


def policy(name: str, **changes: object) -> PolicySummary:
    none = {key: exact(0) for key in ("unloaded_notifications", "wrong_vcpu")}
    values: dict[str, object] = {
        "name": name,
        "title": "what it does",
        "unloaded_notifications": exact(0),
        "residual_notifications": exact(0),
        "wrong_vcpu": exact(0),
        "wrong_vcpu_if_evenly_spread": 0.0,
        "known": none | {"residual_notifications": exact(0)},
        "outcomes": {},
        "unloaded_by_reason": {},
        "residual_by_state": {},
        "residual_by_exit_reason": {},
        "exposure": exposed(0, 0, 0),
        "exposure_by_reason": {},
        "exposure_by_vcpu": {},
        "costs": {k: exact(0) for k in ("pir_scans", "locked_ops", "list_locks")},
        "contradictions": 0,
    }
    return PolicySummary(**(values | changes))  # type: ignore[arg-type]


def with_posts() -> Summary:
    """Posts are known, some windows leave room for more."""
    before = policy(
        "preempt-only",
        unloaded_notifications=Bounds(1250, 1252),
        residual_notifications=Bounds(7, 346),
        wrong_vcpu=Bounds(0, 230),
        wrong_vcpu_if_evenly_spread=198.4,
        known={
            "unloaded_notifications": exact(1250),
            "residual_notifications": exact(7),
            "wrong_vcpu": Bounds(0, 230),
        },
        outcomes={
            "guest": exact(2),
            "latched": exact(1),
            "wakeup": exact(4),
            "host": exact(5),
            "unloaded-host": Bounds(1020, 1250),
            "wrong-vcpu": Bounds(0, 230),
            "silent-on": exact(3),
            "silent-sn": exact(0),
            "silent-pir": exact(0),
            "software": exact(1),
            "unknown": exact(0),
        },
        unloaded_by_reason={"userspace": exact(1249), "asleep": exact(1)},
        residual_by_state={"host": exact(5), "before-put": exact(2)},
        residual_by_exit_reason={"48": exact(5)},
        exposure=exposed(1262, 830, 7),
        exposure_by_reason={"userspace": exposed(1262, 830, 7)},
        exposure_by_vcpu={
            "vm0/vcpu0": exposed(1260, 827, 4),
            "vm0/vcpu1": exposed(2, 3, 7),
        },
        costs={
            "pir_scans": exact(6),
            "locked_ops": Bounds(1270, 1272),
            "list_locks": exact(0),
        },
    )
    after = policy(
        "suppress-on-put",
        residual_notifications=Bounds(7, 346),
        known={
            "unloaded_notifications": exact(0),
            "residual_notifications": exact(7),
            "wrong_vcpu": exact(0),
        },
        outcomes=before.outcomes
        | {
            "unloaded-host": exact(0),
            "wrong-vcpu": exact(0),
            "silent-sn": exact(1250),
        },
        residual_by_state=before.residual_by_state,
        residual_by_exit_reason=before.residual_by_exit_reason,
        exposure_by_vcpu={
            "vm0/vcpu0": exposed(0, 0, 0),
            "vm0/vcpu1": exposed(0, 0, 0),
        },
        costs={
            "pir_scans": exact(1266),
            "locked_ops": Bounds(3788, 3790),
            "list_locks": exact(0),
        },
    )
    return Summary(
        schema_version=1,
        piscope_version="0.1.0",
        trace=trace(),
        question=Question("msi", 0, 1, 1265, 0, 0, "What became of them?"),
        vcpus=[
            vcpu("vm0/vcpu0", 1893, guest=49, host=20, userspace=931),
            vcpu("vm0/vcpu1", 1894, guest=861, host=38, userspace=1, unknown=100),
        ],
        policies={"preempt-only": before, "suppress-on-put": after},
        removed=Removed(
            before="preempt-only",
            after="suppress-on-put",
            total=exact(1250),
            host_irqs=Bounds(1020, 1250),
            by_vm=[Group("vm0", exact(1250))],
            by_vcpu=[Group("vm0/vcpu0", exact(1250))],
            by_reason=[Group("userspace", exact(1249)), Group("asleep", exact(1))],
            by_cpu=[Group("cpu0", exact(1250))],
            windows=[
                WindowLine(
                    "vm0/vcpu0", "userspace", 0, 1260, exact(1250), 4 * MS, 827 * MS
                ),
                WindowLine("vm0/vcpu1", "userspace", 1, 2, exact(0), 7 * MS, 8 * MS),
            ],
        ),
        narrowed={},
        cannot_tell=["Removing an IRQ would itself shift the timeline."],
    )


def without_posts() -> Summary:
    """The usual trace of a host with posting: it shows no post, and it has losses."""
    summary = with_posts()
    summary.trace = trace(
        kernel_release=None,
        captured_policy=None,
        captured_policy_by="nothing",
        captured_policy_evidence="the trace names no kernel release",
        posting_by_hardware=None,
        probes=[],
        host_cpus=None,
        vms=None,
        losses=[
            LossLine("missed-events", 3, None, [0, 1], "before the page at byte 4096")
        ],
        notes=["the first line is cut"],
    )
    summary.question = Question("msi", 0, 0, 0, 0, 0, "No post is visible.")
    summary.removed = Removed(
        "preempt-only", "suppress-on-put", exact(0), exact(0), [], [], [], [], []
    )
    summary.removed.windows = [
        WindowLine("vm0/vcpu0", "unknown", 0, 262, exact(0), 4 * MS, 827 * MS)
    ]
    summary.policies["preempt-only"] = policy(
        "preempt-only",
        unloaded_notifications=Bounds(0, 331),
        residual_notifications=Bounds(0, 1091),
        wrong_vcpu=Bounds(0, 100),
        hidden_windows=69,
        exposure=Exposed(Bounds(0, 262), Bounds(0, 831 * MS), 7 * MS),
        exposure_by_reason={
            "unknown": Exposed(Bounds(0, 262), Bounds(0, 831 * MS), 7 * MS)
        },
        exposure_by_vcpu={
            "vm0/vcpu0": Exposed(Bounds(0, 262), Bounds(0, 831 * MS), 7 * MS)
        },
    )
    summary.policies["suppress-on-put"] = policy("suppress-on-put")
    summary.cannot_tell = ["Posts by a device leave no event.", "Lost: something."]
    return summary
