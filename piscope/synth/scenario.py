"""A scenario: the host, its VMs, who posts, and how it is captured.

Times are in the units that the keys end in. What a key means is said here, and
nowhere else; `scenarios/` has examples. `scenario_from` refuses what contradicts
itself, with key and line.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path

from piscope.errors import UsageError
from piscope.events.vmx_exits import VmxExit
from piscope.model.policy import POLICIES, policy_of_release
from piscope.synth.events import E
from piscope.synth.toml_tables import read_toml, setting

__all__ = (
    "Capture",
    "Device",
    "Exit",
    "Gaps",
    "Halt",
    "Hog",
    "Host",
    "Ipi",
    "Lose",
    "Replay",
    "Scenario",
    "Vm",
    "named_scenarios",
    "read_scenario",
    "scenario_from",
)

_MOST_PCPUS = 4096
_MOST_US = 1e9
_MOST_BYTES = 1 << 20
_FOLDER = Path(__file__).parent / "scenarios"
_REASONS = tuple(reason.name for reason in VmxExit)


@dataclass(frozen=True)
class Lose:
    """Events of a pCPU that the ring buffer loses, all of them.

    cpu       pCPU
    start_ms  from this instant of the capture on
    end_ms    until before this one
    """

    cpu: int = setting(least=0, most=_MOST_PCPUS)
    start_ms: float = setting(least=0, most=1e9)
    end_ms: float = setting(least=0, most=1e9)


@dataclass(frozen=True)
class Capture:
    """What is recorded, how long, in which form.

    release      `uname -r`; chooses the events' formats and the host's policy
    format       of the file; "": by the name of the file
    clock        trace clock (its name only: all count nanoseconds)
    probes       on pi_load and pi_put: none, bare (when and where), or full (ON, SN,
                 NV, NDST and PIR as well)
    syscalls     sys_enter_ioctl and sys_exit_ioctl are recorded
    drop         names of events that are not recorded
    lose         stretches that are lost
    duration_ms  of the capture; 0: until `events`
    events       end after so many events; 0: none
    start_s      first instant on the trace clock
    seed         of everything random
    """

    release: str = setting("6.17.13")
    format: str = setting("", words=("", "trace.dat", "perf.data"))
    clock: str = setting("local", words=("local", "global", "mono", "mono_raw", "boot"))
    probes: str = setting("none", words=("none", "bare", "full"))
    syscalls: bool = setting(False)
    drop: tuple[str, ...] = setting(())
    lose: tuple[Lose, ...] = setting(())
    duration_ms: float = setting(100.0, least=0, most=1e8)
    events: int = setting(0, least=0, most=1 << 40)
    start_s: float = setting(100.0, least=0, most=1e6)
    seed: int = setting(1, least=0, most=1 << 62)


@dataclass(frozen=True)
class Gaps:
    """How long those stretches last that leave no event; 0: of no length.

    entry_ns   IRQs off from the sync to kvm_entry (rows 7 and 8 of the state table)
    exit_ns    IRQs off behind kvm_exit (row 3)
    put_ns     from sched_switch to pi_put (row 11)
    load_ns    from the switch to a vCPU thread to its pi_load (row 21)
    scan_ns    in pi_load, from the clearing of SN to the scan of PIR (row 22)
    """

    entry_ns: int = setting(0, least=0, most=1000000)
    exit_ns: int = setting(0, least=0, most=1000000)
    put_ns: int = setting(0, least=0, most=1000000)
    load_ns: int = setting(0, least=0, most=1000000)
    scan_ns: int = setting(0, least=0, most=1000000)


@dataclass(frozen=True)
class Hog:
    """A thread that computes in userspace.

    pcpus    where it may run; empty: anywhere
    run_us   for so long, on average
    sleep_us and sleeps for so long; 0: never
    """

    pcpus: tuple[int, ...] = setting((), least=0, most=_MOST_PCPUS)
    run_us: float = setting(2000.0, least=1, most=_MOST_US)
    sleep_us: float = setting(0.0, least=0, most=_MOST_US)


@dataclass(frozen=True)
class Host:
    """The physical machine and its kernel.

    pcpus         how many
    policy        of the captured kernel; "": that of the release
    posting       puts maintain the descriptor (VT-d posting or IPI virtualization);
                  false: a host without either, which only KVM posts on
    tick_hz       scheduler tick of a pCPU that is not idle
    timeslice_us  after which a waiting thread takes over
    preemption    full: also in the kernel, when an interrupt returns
    halt_poll_us  most that a halted vCPU polls; 0: never
    """

    pcpus: int = setting(2, least=1, most=_MOST_PCPUS)
    policy: str = setting("", words=("", *POLICIES))
    posting: bool = setting(True)
    tick_hz: int = setting(250, least=1, most=10000)
    timeslice_us: float = setting(3000.0, least=1, most=_MOST_US)
    preemption: str = setting("voluntary", words=("voluntary", "full"))
    halt_poll_us: float = setting(200.0, least=0, most=_MOST_US)


@dataclass(frozen=True)
class Exit:
    """A kind of VM-exit; KVM handles it, unless a key says otherwise.

    reason        its name in piscope.events.vmx_exits
    every_us      on average, of time in the guest
    handler_us    time in KVM
    fastpath      IRQs stay off until the re-entry
    userspace_us  the VMM handles it, for so long on average
    blocks        of that, the share in which the VMM's thread sleeps
    ioctls        vCPU ioctls other than KVM_RUN, on average, while in the VMM
    asleep_us     the handler sleeps in KVM (a page that has to be read)
    """

    reason: str = setting("IO_INSTRUCTION", words=_REASONS)
    every_us: float = setting(500.0, least=0.1, most=_MOST_US)
    handler_us: float = setting(2.0, least=0.1, most=_MOST_US)
    fastpath: bool = setting(False)
    userspace_us: float = setting(0.0, least=0, most=_MOST_US)
    blocks: float = setting(0.0, least=0, most=1)
    ioctls: float = setting(0.0, least=0, most=1)
    asleep_us: float = setting(0.0, least=0, most=_MOST_US)


@dataclass(frozen=True)
class Halt:
    """How the guest idles.

    every_us     on average, of time in the guest; 0: never
    timer_us     the guest's own timer ends the halt after so long, on average
    vector       of that timer
    irqs_off     share of the halts with IF=0; another thread's kick ends those
    """

    every_us: float = setting(0.0, least=0, most=_MOST_US)
    timer_us: float = setting(1000.0, least=1, most=_MOST_US)
    vector: int = setting(0xEC, least=16, most=255)
    irqs_off: float = setting(0.0, least=0, most=1)


@dataclass(frozen=True)
class Ipi:
    """IPIs between the VM's vCPUs.

    via       ipiv: posted by the sender's CPU, without any event; exit: by KVM
    every_us  on average, of each sender's time in the guest
    vectors   one of them, at random
    """

    via: str = setting("exit", words=("ipiv", "exit"))
    every_us: float = setting(1000.0, least=0.1, most=_MOST_US)
    vectors: tuple[int, ...] = setting((0xFB,), least=16, most=255)


@dataclass(frozen=True)
class Device:
    """What posts from outside the VM.

    mode      posted: VT-d, no event; remapped: a host IRQ, and KVM posts in it;
              vhost: KVM posts in a kernel thread; msi: in a thread of the VMM
    pattern   poisson, periodic, or burst
    every_us  between posts, or bursts, on average
    burst     posts of one burst, 2 us apart
    vectors   one of them, at random
    vcpus     targets (vcpu_id), one at random; empty: all
    pcpus     where the host IRQ or the thread is; empty: anywhere
    start_ms  first
    """

    mode: str = setting("posted", words=("posted", "remapped", "vhost", "msi"))
    pattern: str = setting("poisson", words=("poisson", "periodic", "burst"))
    every_us: float = setting(500.0, least=0.1, most=_MOST_US)
    burst: int = setting(8, least=1, most=10000)
    vectors: tuple[int, ...] = setting((0x41,), least=16, most=255)
    vcpus: tuple[int, ...] = setting((), least=0, most=4095)
    pcpus: tuple[int, ...] = setting((), least=0, most=_MOST_PCPUS)
    start_ms: float = setting(1.0, least=0, most=1e9)


@dataclass(frozen=True)
class Vm:
    """Some VMs alike.

    count    how many
    vcpus    of each
    pcpus    where its vCPU threads may run; empty: anywhere
    pinned   vCPU n only on the n-th of those
    """

    count: int = setting(1, least=1, most=4096)
    vcpus: int = setting(1, least=1, most=4096)
    pcpus: tuple[int, ...] = setting((), least=0, most=_MOST_PCPUS)
    pinned: bool = setting(False)
    exit: tuple[Exit, ...] = setting(())
    halt: Halt = field(default_factory=Halt)
    ipi: tuple[Ipi, ...] = setting(())
    device: tuple[Device, ...] = setting(())


@dataclass(frozen=True)
class Replay:
    """A question whose true answer is written beside that of the captured kernel.

    policy  what the notifications would have hit under it, all else being the same
    posted  msi: if a posting device had posted KVM's MSIs; none: they stay KVM's
    """

    policy: str = setting(words=tuple(POLICIES))
    posted: str = setting("none", words=("msi", "none"))


_REPLAYS = tuple(
    Replay(policy, posted)
    for policy in ("preempt-only", "suppress-on-put")
    for posted in ("msi", "none")
)


@dataclass(frozen=True)
class Scenario:
    """All of it."""

    vm: tuple[Vm, ...] = setting()
    capture: Capture = field(default_factory=Capture)
    host: Host = field(default_factory=Host)
    gaps: Gaps = field(default_factory=Gaps)
    hog: tuple[Hog, ...] = setting(())
    replay: tuple[Replay, ...] = setting(_REPLAYS)

    @property
    def policy(self) -> str:
        """The captured kernel's."""
        return self.host.policy or policy_of_release(self.capture.release)


def scenario_from(text: str, path: str = "scenario") -> Scenario:
    """A scenario from its text; `path` is for messages.

    Raises UsageError, with key and line.
    """
    made = read_toml(text, Scenario, path)

    def refuse(why: str) -> None:
        raise UsageError(why, path=path)

    if not made.vm:
        refuse("vm: expected at least one")
    if not made.capture.duration_ms and not made.capture.events:
        refuse("capture: expected duration_ms or events")
    pcpus = made.host.pcpus
    named = [("hog.pcpus", hog.pcpus) for hog in made.hog]
    named.append(("capture.lose.cpu", tuple(lose.cpu for lose in made.capture.lose)))
    for vm in made.vm:
        named.append(("vm.pcpus", vm.pcpus))
        named += [("vm.device.pcpus", device.pcpus) for device in vm.device]
        if vm.pinned and vm.vcpus > len(vm.pcpus or range(pcpus)):
            refuse(f"vm.pinned: {vm.vcpus} vCPUs on {len(vm.pcpus) or pcpus} pCPUs")
        for device in vm.device:
            if not device.vectors:
                refuse("vm.device.vectors: expected at least one")
            if any(number >= vm.vcpus for number in device.vcpus):
                refuse(f"vm.device.vcpus: the VM has {vm.vcpus}, numbered from 0")
        for ipi in vm.ipi:
            if not ipi.vectors:
                refuse("vm.ipi.vectors: expected at least one")
            if vm.vcpus < 2:
                refuse("vm.ipi: expected a VM of at least 2 vCPUs")
        posts = any(device.mode == "posted" for device in vm.device)
        if not made.host.posting and (posts or any(i.via == "ipiv" for i in vm.ipi)):
            refuse("host.posting: false, yet hardware posts (posted, ipiv)")
        for one in vm.exit:
            if one.fastpath + bool(one.userspace_us) + bool(one.asleep_us) > 1:
                refuse("vm.exit: expected one of fastpath, userspace_us, asleep_us")
    for key, numbers in named:
        if any(number >= pcpus for number in numbers):
            refuse(f"{key}: the host has {pcpus} pCPUs, numbered from 0")
    for lose in made.capture.lose:
        if lose.start_ms >= lose.end_ms:
            refuse("capture.lose: end_ms is not after start_ms")
    for pattern in made.capture.drop:
        if not fnmatch.filter(E.__members__, pattern):
            known = ", ".join(E.__members__)
            refuse(f"capture.drop: {pattern!r} is none of {known}")
    if made.gaps.scan_ns and made.host.preemption == "full":
        refuse("gaps.scan_ns: pi_load is not preempted: expected voluntary preemption")
    policy_of_release(made.capture.release)
    return made


def read_scenario(path: str | Path) -> Scenario:
    """A scenario from a file, or the shipped one of that name.

    Raises UsageError, with path, key and line, for whatever is wrong with it.
    """
    shipped = _FOLDER / f"{path}.toml"
    if str(path) in named_scenarios() and not Path(path).exists():
        path = shipped
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{error.strerror or error}; shipped are {', '.join(named_scenarios())}",
            path=path,
        ) from None
    if len(raw) > _MOST_BYTES:
        raise UsageError(f"longer than {_MOST_BYTES} bytes", path=path)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError("not UTF-8 text", path=path, byte=error.start) from None
    return scenario_from(text, str(path))


def named_scenarios() -> dict[str, str]:
    """The scenarios that come with piscope: names, and each one's first line."""
    found = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        with path.open(encoding="utf-8") as file:
            found[path.stem] = file.readline().strip("# \n")
    return found
