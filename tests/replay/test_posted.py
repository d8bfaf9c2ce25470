"""What --posted makes of each origin, and which values it refuses."""

from __future__ import annotations

import pytest
from timeline.scene import HARDIRQ, IRQS_OFF, MSR_WRITE, Scene

from piscope.errors import UsageError
from piscope.model.letters import Letter
from piscope.posted import POSTED_WORDS, parse_posted, posted_text
from piscope.replay.posted import by_hardware, resolve_posted
from piscope.replay.stimuli import build_stimuli

IN_IRQ = IRQS_OFF | HARDIRQ


@pytest.fixture
def scene() -> Scene:
    """To vCPU 1: a vfio interrupt, a vhost's MSI, the VMM's, a line, an IPI."""
    scene = Scene(comms={9: "qemu-kvm", 20: "vhost-7"})
    a, b = scene.vcpu(0, cpu=0), scene.vcpu(1, cpu=1)
    a.enter()
    b.enter()
    vfio(scene)
    for tid, vector in ((20, 0x52), (9, 0x53)):
        scene.msi(vector, cpu=3, tid=tid)
        scene.accept(1, vector, cpu=3, tid=tid)
    scene.event("kvm:kvm_set_irq", 3, 9, gsi=11, level=1)
    scene.accept(1, 0x54, cpu=3, tid=9)
    a.exit(MSR_WRITE)
    a.event("kvm:kvm_apic_ipi", icr_low=0x55, dest_id=1)
    scene.accept(1, 0x55, cpu=0, tid=100)
    scene.tick()
    return scene


def vfio(scene: Scene) -> None:
    name = "vfio-msi[0](0000:3b:00.0)"
    scene.event("irq:irq_handler_entry", 2, 0, IN_IRQ, irq=45, name=name)
    scene.msi(0x51, cpu=2, tid=0, flags=IN_IRQ)
    scene.accept(1, 0x51, cpu=2, tid=0, flags=IN_IRQ)
    scene.event("irq:irq_handler_exit", 2, 0, IN_IRQ, irq=45)


@pytest.mark.parametrize(
    ("posted", "vectors"),
    [
        ("none", []),
        ("msi", [0x51, 0x52, 0x53]),
        ("vfio", [0x51]),
        ("vhost", [0x52]),
        ("emulated", [0x53]),  # not the line's, 0x54
        ("ipi", [0x55]),
        ("ipi,vfio", [0x51, 0x55]),
        ("msi,ipi", [0x51, 0x52, 0x53, 0x55]),
        ("irqfd", []),
        ("auto", [0x51]),
    ],
)
def test_whose_posts_are_hardware_s(
    scene: Scene, posted: str, vectors: list[int]
) -> None:
    p = scene.timeline().posts
    assert p.vector[by_hardware(p, posted)].tolist() == vectors
    s = build_stimuli(scene.timeline(), scene.events(), posted)
    assert s.vector[s.letter == Letter.POST_HW].tolist() == vectors
    # and the software post's own effects are gone
    assert sorted(s.vector[s.letter == Letter.POST_SW_EITHER]) == [
        v for v in (0x51, 0x52, 0x53, 0x54, 0x55) if v not in vectors
    ]


@pytest.mark.parametrize(
    ("posted", "event", "field"),
    [("vfio", "irq_handler_entry", 0x51), ("ipi", "kvm_exit", 0x55)],
)
def test_when_hardware_would_have_posted(
    scene: Scene, posted: str, event: str, field: int
) -> None:
    events = scene.events()
    s = build_stimuli(scene.timeline(), events, posted)
    (at,) = (s.letter == Letter.POST_HW).nonzero()[0].tolist()
    assert s.vector[at] == field
    assert int(s.row[at]) in events.rows(event).tolist()


def test_auto_is_msi_where_the_host_handled_no_vfio_interrupt() -> None:
    scene = Scene(comms={9: "qemu-kvm"})
    scene.vcpu(1).enter()
    scene.msi(0x51)
    scene.accept(1, 0x51)
    assert resolve_posted("auto", scene.timeline().posts) == "msi"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no origin"),
        ("all", "'all' is no origin, expected auto, none, or some of msi, vfio"),
        ("vfio,", "'' is no origin"),
        ("vfio ,ipi", "'vfio ' is no origin"),
        ("none,vfio", "none goes with nothing else"),
        ("ipi,auto", "auto goes with nothing else"),
        ("timer", "no hardware posts what is timer's"),
        ("vfio,self", "no hardware posts what is self's"),
    ],
)
def test_values_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_posted(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_words_are_put_in_order_and_told_once() -> None:
    assert parse_posted("ipi,msi,ipi") == ("msi", "ipi")
    for word in POSTED_WORDS[1:]:
        assert posted_text(word)
