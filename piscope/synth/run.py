"""Run a scenario: the machine built, its events handed on batch by batch, its truth.

`simulate` is an iterator, so that a capture of any size streams through bounded memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from piscope.model.policy import Platform, gate_of_release, preempted_rule_of_release
from piscope.synth.descriptors import Descriptors
from piscope.synth.events import FIELDS, HEADER_COLUMNS, Recorder
from piscope.synth.machine import Machine
from piscope.synth.posters import Posters
from piscope.synth.replica import Post
from piscope.synth.scenario import Scenario, Vm
from piscope.synth.vcpus import Guest
from piscope.tables import PutReason

__all__ = ("Batch", "Simulation", "TrueVcpu", "Window")

_FIRST_TID = 1000
_STEPS = 4096
_BATCH_WORDS = 3 << 20


@dataclass(slots=True)
class Window:
    """A put, and the load that ended its window."""

    vcpu: str
    reason: PutReason
    put_ns: int
    put_cpu: int
    load_ns: int | None = None
    load_cpu: int | None = None


@dataclass(frozen=True, slots=True)
class TrueVcpu:
    """A vCPU: its thread, and its VM's process."""

    name: str
    vm: int
    vcpu_id: int
    tid: int
    tgid: int


@dataclass(slots=True)
class Batch:
    """What happened since the last one.

    rows     by event: header columns, then fields (events.FIELDS)
    until_ns nothing that follows is before it
    posts    those of which all is known by now, in the order of their numbers
    windows  those that have ended
    """

    rows: list[array[int]]
    until_ns: int
    posts: list[Post] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)


class Simulation:
    """A scenario's machine; `batches` runs it.

    vcpus  all of them; recorder.comms and recorder.tgids name all threads
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        capture = scenario.capture
        self.start_ns = int(capture.start_s * 1e9)
        self.recorder = Recorder(self.start_ns)
        self.vcpus: list[TrueVcpu] = []
        tid = _FIRST_TID
        self._processes: list[tuple[int, list[TrueVcpu]]] = []
        kinds = [vm for vm in scenario.vm for _ in range(vm.count)]
        for number, vm in enumerate(kinds):
            tgid, tid = tid, tid + 1
            own = []
            for vcpu_id in range(vm.vcpus):
                name = f"vm{number}/vcpu{vcpu_id}"
                own.append(TrueVcpu(name, number, vcpu_id, tid, tgid))
                tid += 1
            self.vcpus += own
            self._processes.append((tgid, own))
        self.descriptors = Descriptors(
            self.recorder,
            scenario.policy,
            self._platform(),
            [vcpu.name for vcpu in self.vcpus],
            scenario.host.pcpus,
            scenario.replay,
        )
        self.machine = Machine(scenario, self.recorder, self.descriptors)
        self.posters = Posters(self.machine, self._posted)
        self._posts: list[Post] = []
        self._open: dict[str, Window] = {}
        self._ended: list[Window] = []
        self._populate(kinds, tid)

    def _platform(self) -> Platform:
        release, posting = self.scenario.capture.release, self.scenario.host.posting
        return Platform(
            vtd_posting=posting,
            ipiv=posting
            and any(i.via == "ipiv" for v in self.scenario.vm for i in v.ipi),
            gate=gate_of_release(release),
            preempted_rule=preempted_rule_of_release(release),
        )

    def _populate(self, kinds: list[Vm], tid: int) -> None:
        machine, recorder = self.machine, self.recorder
        for (tgid, own), vm in zip(self._processes, kinds, strict=True):
            recorder.comms[tgid], recorder.tgids[tgid] = "qemu-system-x86", tgid
            guests = []
            pcpus = vm.pcpus or machine.all_pcpus
            for vcpu in own:
                allowed = (pcpus[vcpu.vcpu_id],) if vm.pinned else pcpus
                guest = Guest(
                    machine,
                    self.posters,
                    vcpu.name,
                    vm,
                    vcpu.vcpu_id,
                    (vcpu.tid, allowed),
                )
                guest.on_put, guest.on_load = self._put, self._loaded
                machine.guests[vcpu.name] = guest
                guests.append(guest)
                recorder.tgids[vcpu.tid] = tgid
                machine.start(guest.thread, f"CPU {vcpu.vcpu_id}/KVM")
            for guest in guests:
                guest.others = [other for other in guests if other is not guest]
            for number, device in enumerate(vm.device):
                name = f"vhost-{tgid}" if device.mode == "vhost" else "msi-inject"
                if device.mode not in ("vhost", "msi"):
                    name = f"device{number}-{tgid}"
                recorder.tgids[tid] = tgid
                self.posters.start(device, guests, name, tid)
                tid += 1
        for number, hog in enumerate(self.scenario.hog):
            recorder.tgids[tid] = tid
            self.posters.start_hog(hog, tid, number)
            tid += 1

    def _posted(self, post: Post) -> None:
        self._posts.append(post)

    def _put(self, guest: Guest, reason: PutReason) -> None:
        now, cpu = self.recorder.now, guest.thread.cpu
        self._open[guest.name] = Window(guest.name, reason, now, cpu)

    def _loaded(self, guest: Guest) -> None:
        window = self._open.pop(guest.name, None)
        if window is not None:
            window.load_ns, window.load_cpu = self.recorder.now, guest.thread.cpu
            self._ended.append(window)

    def batches(self) -> Iterator[Batch]:
        """All that happens, in order."""
        capture = self.scenario.capture
        end_ns = self.start_ns + int(capture.duration_ms * 1e6)
        if not capture.duration_ms:
            end_ns = 1 << 62
        words = [HEADER_COLUMNS + len(names) for names in FIELDS.values()]
        events, more = 0, True
        while more:
            more = self.machine.run(end_ns, _STEPS)
            if more and self.recorder.waiting() < _BATCH_WORDS and not capture.events:
                continue
            if more and capture.events:
                waiting = sum(
                    len(rows) // words[event]
                    for event, rows in enumerate(self.recorder.rows)
                )
                more = events + waiting < capture.events
                if more and self.recorder.waiting() < _BATCH_WORDS:
                    continue
                events += waiting
            yield self._batch(last=not more)

    def _batch(self, last: bool) -> Batch:
        replays = len(self.descriptors.replicas)
        settled = 0
        for post in self._posts:
            if not last and not post.settled(replays):
                break
            settled += 1
        posts, self._posts = self._posts[:settled], self._posts[settled:]
        ended, self._ended = self._ended, []
        if last:
            ended += self._open.values()
        return Batch(self.recorder.take(), self.recorder.now, posts, ended)
