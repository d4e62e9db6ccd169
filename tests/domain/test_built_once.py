"""A domain is built once, from nothing: whatever else is refused first, and nothing of it is touched."""

import pytest

import twofold as tf
from snapshots import snapshot
from twofold.domain import DomainOptions, Exact, Machine, Mem, build
from twofold.errors import BuildError
from twofold.machine.behaviour import BEHAVIOURS
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

LAYOUTS = ["pvh", "hvm", "flat"]
DESIGNS = ["small", "toolstack", "opportunistic"]
# What may have been done to a domain by hand before somebody builds it.
BY_HAND = {
    "one page": lambda domain: domain.memory.populate_physmap([5], 0),
    "an orphan": lambda domain: domain.memory.increase_reservation(1, 0),
    "a page of the hypervisor's": lambda domain: domain.memory.add_to_physmap("shared_info", 0, 0xFF000),
    "a place": lambda domain: domain.p2m.set_entry(7, INVALID_MFN, 0, P2MType.POPULATE_ON_DEMAND),
    "a device": lambda domain: domain.p2m.set_entry(0xF0000, 1 << 22, 0, P2MType.MMIO_DIRECT),
}


class GoesWrong:
    """A design that populates a part, and then leaves the rest out or fails."""

    name = "wrong"

    def __init__(self, failure=None):
        self.failure = failure

    def populate(self, populate, gfns, layout):
        populate(range(gfns.start, gfns.start + 512, 512), 9)
        if self.failure:
            raise self.failure


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_built_domain_is_not_built_again_and_keeps_all_it_has(behaviour, layout):
    with Machine("256MiB", behaviour=behaviour) as machine:
        domain = machine.create_domain("32MiB", options=DomainOptions(layout=layout))
        build(domain)
        domain.write(0x1000, b"hello")
        before, digest = snapshot(domain), machine.digest()
        for design in (*DESIGNS, GoesWrong()):
            with pytest.raises(
                BuildError, match=r"domain 1 is built already, or populated by hand: it owns 3[\d.]+MiB"
            ):
                build(domain, design)
        with pytest.raises(BuildError, match="built already"):
            build(domain, exact=[Exact("8MiB", "2MiB", "4K")])
        assert (snapshot(domain), machine.digest()) == (before, digest)
        assert domain.read(0x1000, 5) == b"hello"


@pytest.mark.parametrize("what", BY_HAND)
def test_a_domain_that_has_anything_by_hand_is_not_built_and_keeps_it(what):
    with Machine("256MiB") as machine:
        domain = machine.create_domain("32MiB")
        BY_HAND[what](domain)
        digest = machine.digest()
        with pytest.raises(BuildError, match=r"populated by hand|is mapped in domain 1 already"):
            build(domain)
        assert machine.digest() == digest
        domain.memory.release_all()
        assert build(domain).calls


def test_memory_of_another_domain_that_is_mapped_is_in_the_way_too():
    with Machine("256MiB") as machine:
        owner, domain = machine.create_domain("32MiB"), machine.create_domain("32MiB")
        build(owner)
        assert domain.memory.add_to_physmap("gmfn_foreign", 3, 0xFF000, foreign=owner.domid).complete
        digest = machine.digest()
        with pytest.raises(BuildError, match="something is mapped in domain 2 already"):
            build(domain)
        assert machine.digest() == digest


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("failure", [None, RuntimeError("mine"), KeyboardInterrupt()])
def test_a_build_that_failed_may_be_done_again_and_counts_for_itself(behaviour, failure):
    with Machine("256MiB", behaviour=behaviour) as machine, Machine("256MiB", behaviour=behaviour) as fresh:
        domain = machine.create_domain("32MiB")
        with pytest.raises((BuildError, RuntimeError, KeyboardInterrupt)):
            build(domain, GoesWrong(failure), exact=[Exact("8MiB", "2MiB", "4K")])
        assert not domain.memory.owned_frames
        built = build(domain)
        assert built == build(fresh.create_domain("32MiB"))
        domain.memory.release_all()
        assert build(domain, "small").leaves[9] == 0


def test_a_domain_that_is_being_destroyed_is_not_built():
    with Machine("256MiB") as machine:
        domain = machine.create_domain("32MiB")
        build(domain)
        while not domain.destroy(lambda: True):
            with pytest.raises(BuildError, match="domain 1 is being destroyed"):
                build(domain)
        with pytest.raises(BuildError, match="domain 1 is being destroyed"):
            build(domain)


def test_a_refused_build_is_no_operation_and_a_replay_has_the_same_bytes(tmp_path):
    with Machine("256MiB", journal=tmp_path / "a") as machine:
        domain = machine.create_domain("32MiB")
        build(domain)
        with pytest.raises(BuildError):
            build(domain)
        digest = machine.digest()
    replayed = tf.replay(tmp_path / "a")
    with replayed.machine as again:
        assert replayed.digest == digest
        with pytest.raises(BuildError, match="built already"):
            build(again.domains[1])
        assert again.digest() == digest


def test_a_journal_in_which_a_domain_was_built_twice_is_replayed_as_it_was(tmp_path):
    """Journals hold the operations of a build, and those of a second one were refused or not when they were written."""
    with Machine("256MiB", journal=tmp_path / "a") as machine:
        domain = machine.create_domain("32MiB", options=DomainOptions(layout="flat"))
        for _ in range(2):
            domain.memory.populate_physmap(range(0, 8192, 512), 9, Mem.FALLBACK)
        domain.memory.release_all()
        domain.memory.populate_physmap(range(8192), 0)
        digest = machine.digest()
    replayed = tf.replay(tmp_path / "a")
    with replayed.machine:
        assert replayed.digest == digest
