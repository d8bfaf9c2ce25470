"""The letters of a timeline, their order, and the posts that probes betray."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from timeline.scene import HLT, SLEEPS, Scene, Vcpu
from timeline.streams import scenes

from piscope.model.letters import Letter
from piscope.posted import Posted
from piscope.replay.hidden_posts import window_of, window_posts
from piscope.replay.stimuli import build_stimuli


def letters(scene: Scene, posted: Posted = "msi", vcpu: int = 0) -> list[str]:
    events = scene.events()
    s = build_stimuli(scene.timeline(), events, posted)
    return [Letter(x).name for x in s.letter[s.vcpu == vcpu]]


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def a(scene: Scene) -> Vcpu:
    return scene.vcpu(0, cpu=0)


def visit(a: Vcpu, before: tuple[int, int], after: int, load: tuple[int, int]) -> None:
    """Userspace and back: (ON, PIR) at the put, ON after it, (ON, PIR) at the load."""
    a.exit()
    a.unload()
    a.pi_put(before, (after, 0, 0xF2))
    a.event("kvm:kvm_userspace_exit", reason=2, errno=0)
    a.pi_load(on=load[0], pir=load[1])
    a.run()
    a.enter()


def test_a_halt_s_letters(scene: Scene, a: Vcpu) -> None:
    # the sync of check_block, the put; the load, the sync of the next check_block
    a.run()
    a.enter()
    a.exit(HLT)
    a.out(SLEEPS)
    a.into(cpu=1)
    a.wakeup()
    a.enter()
    scene.tick()
    assert letters(scene) == [
        *("LOAD_OTHER", "ENTER", "EXIT"),
        *("SYNC", "PUT_BLOCK_IF1_NOT"),
        *("LOAD_OTHER", "SYNC", "SYNC", "ENTER"),
    ]


def test_a_load_on_the_same_pcpu(scene: Scene, a: Vcpu) -> None:
    a.enter()
    a.exit()
    a.leave()
    a.run()
    a.enter()
    scene.tick()
    assert letters(scene)[-2:] == ["LOAD_SAME", "ENTER"]


def test_a_thread_that_moves_in_userspace_is_loaded_elsewhere(
    scene: Scene, a: Vcpu
) -> None:
    a.enter()
    a.exit()
    a.leave()
    a.cpu = 1
    a.run()
    a.enter()
    scene.tick()
    assert letters(scene)[-2:] == ["LOAD_OTHER", "ENTER"]


def test_an_entry_that_no_event_shows_comes_before_its_exit(
    scene: Scene, a: Vcpu
) -> None:
    # up to 5.10: kvm_exit, kvm_exit
    a.enter()
    a.exit()
    a.exit()
    scene.tick()
    assert letters(scene) == ["ENTER", "EXIT", "ENTER", "EXIT"]


def test_what_probes_read_stands_around_put_and_load(scene: Scene, a: Vcpu) -> None:
    a.enter()
    visit(a, before=(0, 0), after=0, load=(0, 0))
    scene.tick()
    assert letters(scene) == [
        *("ENTER", "EXIT"),
        *("OBSERVE_ON0_PIR0", "PUT_RUN_NOT"),
        *("LOAD_SAME", "OBSERVE_ON0_PIR0"),
        "ENTER",
    ]


def test_a_window_in_which_on_went_to_1_holds_a_post(scene: Scene, a: Vcpu) -> None:
    a.enter()
    visit(a, before=(0, 0), after=0, load=(1, 1 << 0x41))
    scene.tick()
    events = scene.events()
    s = build_stimuli(scene.timeline(), events, "none")
    names = [Letter(x).name for x in s.letter]
    at = names.index("POST_HW")
    assert names[at - 1] == "PUT_RUN_NOT"
    assert names[at + 1] == "LOAD_SAME"
    assert (s.vector[at], s.post[at], s.window[at]) == (0x41, -1, 0)


def test_pir_that_was_filled_under_sn_is_a_post_too(scene: Scene, a: Vcpu) -> None:
    # suppress-on-put: SN=1, ON stays 0, and pi_load sets it (after_clear_sn)
    a.enter()
    a.exit()
    a.unload()
    a.pi_put((0, 0), (0, 1, 0xF2))
    a.pi_load(on=0, sn=1, pir=1 << 0x41)
    a.enter()
    scene.tick()
    assert letters(scene)[2:] == [
        *("OBSERVE_ON0_PIR0", "PUT_RUN_NOT", "POST_HW"),
        *("LOAD_SAME", "OBSERVE_ON1_PIR1", "ENTER"),
    ]


def test_on_that_was_set_already_hides_what_follows(scene: Scene, a: Vcpu) -> None:
    a.enter()
    visit(a, before=(1, 1 << 0x41), after=1, load=(1, 1 << 0x41))
    scene.tick()
    assert "POST_HW" not in letters(scene)


class TestWindowsInWhichKvmPosted:
    def scene(self, traced: int, gained: int, poster: int = 9) -> Scene:
        """One window: KVM posts `traced` into it, PIR gains the bits of `gained`."""
        scene = Scene()
        a = scene.vcpu(0, cpu=0)
        a.enter()
        a.exit()
        a.unload()
        a.pi_put()
        scene.accept(0, traced, tid=poster)
        a.pi_load(on=1, pir=gained)
        a.enter()
        scene.tick()
        return scene

    def test_kvm_s_own_post_explains_the_window(self) -> None:
        hidden = window_posts(self.scene(0x41, 1 << 0x41).timeline()).hidden
        assert not hidden.any()

    def test_another_vector_is_hardware_s_in_an_open_order(self) -> None:
        found = window_posts(self.scene(0x41, 1 << 0x41 | 1 << 0x52).timeline())
        assert found.hidden.tolist() == [True]
        assert found.open_order.tolist() == [True]

    def test_a_post_to_one_of_two_explains_the_windows_of_both(self) -> None:
        # two vCPUs with vcpu_id 0: the target of the post is not known
        scene = Scene()
        one, two = scene.vcpu(0, cpu=0, tid=100), scene.vcpu(0, cpu=1, tid=200)
        for v in (one, two):
            v.enter()
            v.exit()
            v.unload()
            v.pi_put()
        scene.accept(0, 0x41, cpu=2)
        for v in (one, two):
            v.pi_load(on=1, pir=1 << 0x41)
            v.enter()
        scene.tick()
        t = scene.timeline()
        assert t.posts.vcpu.tolist() == [-1]
        assert len(t.windows) == 2
        assert not window_posts(t).hidden.any()


class TestWhatTheQuestionIs:
    @pytest.fixture
    def scene(self) -> Scene:
        scene = Scene()
        scene.vcpu(0, cpu=0).enter()
        scene.msi(0x51)
        scene.accept(0, 0x51)
        scene.accept(0, 0x41, cpu=0, tid=100)  # an IPI
        scene.tick()
        return scene

    def test_msi_as_a_device_would_have_posted_them(self, scene: Scene) -> None:
        assert letters(scene, "msi") == ["ENTER", "POST_HW", "POST_SW_EITHER"]

    def test_none_keeps_kvm_s_posts(self, scene: Scene) -> None:
        assert letters(scene, "none") == ["ENTER", "POST_SW_EITHER", "POST_SW_EITHER"]


def test_nothing_is_remembered_across_a_gap(scene: Scene, a: Vcpu) -> None:
    # events of pCPU 1 are lost while the vCPU goes on: somebody there may have posted
    a.enter()
    a.exit()
    scene.tick()
    scene.lose(1, 3_500, 5_500)
    scene.tick()
    scene.tick()
    scene.accept(0, 0x41)
    a.enter()
    scene.tick()
    assert letters(scene) == ["ENTER", "EXIT", "FORGET", "POST_SW_EITHER", "ENTER"]


def test_within_a_gap_each_letter_is_preceded_by_forget(scene: Scene, a: Vcpu) -> None:
    a.enter()
    scene.lose(1, 1_500, 6_500)
    a.exit()
    scene.accept(0, 0x41, cpu=0)
    scene.accept(0, 0x41, cpu=0)
    a.enter()
    scene.tick()
    assert letters(scene) == [
        "ENTER",
        *("FORGET", "EXIT"),
        *("FORGET", "POST_SW_EITHER"),
        *("FORGET", "POST_SW_EITHER"),
        *("FORGET", "ENTER"),
    ]


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_the_letters_of_any_stream(scene: Scene) -> None:
    events = scene.events()
    t = scene.timeline()
    s = build_stimuli(t, events, "msi")
    assert (np.diff(s.vcpu) >= 0).all()
    same = np.diff(s.vcpu) == 0
    assert (np.diff(s.row)[same] >= 0).all(), "in the order of the events"
    assert len(s.starts) == len(t.vcpus)
    for vcpu, start in enumerate(s.starts):
        assert (s.vcpu[:start] < vcpu).all()
        assert (s.vcpu[start:] >= vcpu).all()
    # every put and every real post has exactly one letter
    is_put = (s.letter >= Letter.PUT_RUN_PREEMPTED) & (
        s.letter <= Letter.PUT_BLOCK_IF0_NOT
    )
    assert sorted(s.window[is_put].tolist()) == list(range(len(t.windows)))
    known = np.flatnonzero(t.posts.posted & (t.posts.vcpu >= 0))
    assert sorted(s.post[s.post >= 0].tolist()) == known.tolist()


@settings(max_examples=100, deadline=None)
@given(scenes(probes=False))
def test_window_of_is_the_last_put_without_a_load(scene: Scene) -> None:
    events = scene.events()
    w = scene.timeline().windows
    for vcpu in set(w.vcpu.tolist()):
        for row in range(len(events)):
            covering = [
                k
                for k in range(len(w))
                if w.vcpu[k] == vcpu and w.put_row[k] <= row < w.end_row[k]
            ]
            found = window_of(w, np.array([vcpu]), np.array([row]))[0]
            assert found == (covering[-1] if covering else -1)
