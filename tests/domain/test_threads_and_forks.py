"""Two threads on one machine take turns; a child that was forked has dead handles, and no memory of its parent's."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from snapshots import assert_every_frame_is_accounted_for, snapshot
from twofold.domain import DomainOptions, Machine, build, replay
from twofold.errors import ClosedError, TwofoldError
from twofold.guest import Session
from twofold.guest.engine import Start

OPTIONS = DomainOptions(layout="flat", table_pool=200)


def work(domain, rng, until) -> int:
    """Do operations of every kind on a domain until a time; return how many."""
    p2m, memory, done = domain.p2m, domain.memory, 0
    while time.monotonic() < until:
        gfn = int(rng.integers(0, 16)) << 9
        for deed in (
            lambda gfn=gfn: memory.populate_physmap(range(gfn, gfn + 512), 0),
            lambda gfn=gfn: memory.populate_physmap([gfn], 9),
            lambda gfn=gfn: memory.exchange([gfn], 0, [gfn], 0),
            lambda gfn=gfn: memory.decrease_reservation(range(gfn, gfn + 512), 0),
            lambda: p2m.split_all(order=0),
            p2m.merge_all,
            lambda: p2m.translate(np.arange(8192)),
            p2m.leaf_array,
            lambda gfn=gfn: p2m.set_entries(range(0x8000, 0x8100), range(0x100)),
            lambda: p2m.unmap(0x8000, 0x100),
        ):
            deed()
            done += 1
    return done


def alternate(machine, domains, seconds) -> list:
    """Let a thread work on each domain and another create and destroy; return what went wrong."""
    until, wrong, done = time.monotonic() + seconds, [], []

    def run(seed, domain):
        try:
            done.append(work(domain, np.random.default_rng(seed), until))
        except BaseException as error:  # noqa: BLE001  whatever it is
            wrong.append(error)

    def live_and_die():
        try:
            while time.monotonic() < until:
                domain = machine.create_domain("4MiB", options=OPTIONS)
                build(domain)
                domain.destroy()
        except BaseException as error:  # noqa: BLE001  whatever it is
            wrong.append(error)

    threads = [threading.Thread(target=run, args=each) for each in enumerate(domains)]
    threads.append(threading.Thread(target=live_and_die))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def check_threads(seconds) -> None:
    with Machine("128MiB") as machine:
        domains = [machine.create_domain("32MiB", options=OPTIONS) for _ in range(2)]
        assert alternate(machine, domains, seconds) == []
        assert_every_frame_is_accounted_for(machine)
        for domain in domains:
            assert domain.p2m.audit().clean
            assert domain.destroy()
        assert machine.heap.blocks() == [(0, 15)]


@pytest.mark.medium
def test_two_threads_on_two_domains_of_a_machine_lose_no_frame():
    check_threads(3)


@pytest.mark.slow
def test_two_threads_for_a_minute_lose_no_frame():
    check_threads(60)


def test_a_thread_waits_until_an_operation_of_another_is_over():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("4MiB", options=OPTIONS)
        order, is_inside = [], threading.Event()

        def ask() -> bool:
            is_inside.set()
            time.sleep(0.05)
            order.append("asked")
            return False

        def other():
            is_inside.wait()
            machine.heap.alloc(0)
            order.append("other")

        thread = threading.Thread(target=other)
        thread.start()
        assert domain.memory.populate_physmap(range(3), 0, preempt=ask).complete
        order.append("done")
        thread.join()
        assert order[:2] == ["asked", "asked"]
        assert set(order[2:]) == {"done", "other"}


# -- forks ----------------------------------------------------------------------------------------------------------


def in_a_child(deed) -> str:
    """Fork, do something in the child, and return what it wrote."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)  # a child that hangs is a failure
        try:
            text = str(deed())
        except BaseException as error:  # noqa: BLE001  whatever it is, the parent is to see it
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return text


@pytest.fixture
def machine(tmp_path):
    with Machine("64MiB", journal=tmp_path / "a.journal") as machine:
        yield machine


@pytest.fixture
def domain(machine):
    domain = machine.create_domain("4MiB", options=OPTIONS)
    build(domain, "small")
    domain.write(0, b"parent")
    return domain


DEEDS = {
    "read": lambda d: d.read(0, 6),
    "write": lambda d: d.write(0, b"child!"),
    "wipe": lambda d: d.wipe(),
    "get_entry": lambda d: d.p2m.get_entry(0),
    "set_entry": lambda d: d.p2m.set_entry(0, 5, 0),
    "translate": lambda d: d.p2m.translate([0]),
    "populate": lambda d: d.memory.populate_physmap([0x2000], 0),
    "decrease": lambda d: d.memory.decrease_reservation([0], 0),
    "destroy": lambda d: d.destroy(),
    "create": lambda d: d.machine.create_domain("1MiB"),
    "alloc": lambda d: d.machine.heap.alloc(0),
    "discard": lambda d: d.machine.arena.discard(np.zeros(1, np.uint64), np.full(1, 100, np.uint64)),
    "digest": lambda d: d.machine.digest(),
    "linear": lambda d: d.p2m.linear,
    "run": lambda d: Session(d).start(Start(0, {})),
}


@pytest.mark.parametrize("name", DEEDS)
def test_a_forked_child_has_dead_handles_and_is_told_so(machine, domain, name):
    before, digest = snapshot(domain), machine.digest()
    told = in_a_child(lambda: DEEDS[name](domain))
    assert told.startswith("ClosedError: ")
    assert f"belongs to process {os.getpid()}, and this is a child that was forked from it" in told
    assert snapshot(domain) == before
    assert machine.digest() == digest


def test_a_forked_child_cannot_reach_its_parents_memory_by_a_view_that_it_has(machine, domain):
    mfn, tables = domain.p2m.get_entry(0).mfn, machine.arena.tables
    words = machine.arena.words

    def spoil():
        tables[mfn] = 7
        words[mfn << 9] = 8
        return tables[mfn, 0]

    assert in_a_child(spoil) == "8", "what it stores is its own"
    assert domain.read(0, 6) == b"parent"


def test_a_child_that_closes_or_ends_leaves_machine_and_journal_of_its_parent_alone(machine, domain, tmp_path):
    size = (tmp_path / "a.journal").stat().st_size

    def leave():
        with machine:
            pass
        machine.close()
        return "closed"

    assert in_a_child(leave) == "closed"
    assert (tmp_path / "a.journal").stat().st_size == size
    assert domain.read(0, 6) == b"parent"
    assert domain.memory.decrease_reservation([5], 0).complete
    digest = machine.digest()
    machine.close()
    again = replay(tmp_path / "a.journal")
    assert again.digest == digest
    assert again.is_closed
    again.machine.close()


def test_a_child_has_machines_of_its_own(machine):
    def live():
        with Machine("16MiB") as own:
            build(own.create_domain("4MiB", options=OPTIONS))
            return own.heap.free_frames

    assert int(in_a_child(live)) < 4096


@pytest.mark.parametrize("operation", ["populate", "destroy", "listener", "design"])
def test_an_operation_in_whose_middle_somebody_forks_goes_on_in_the_parent_only(machine, domain, tmp_path, operation):
    children, told = [], tmp_path / "child.txt"

    def fork(*_) -> bool:
        if not children:
            children.append(os.fork())
        return False

    class Forking:
        name = "forking"

        def populate(self, populate, gfns, _layout):
            fork()
            populate(gfns, 0)

    try:
        if operation == "populate":
            domain.memory.populate_physmap([0x2000, 0x2001], 0, preempt=fork)
        elif operation == "destroy":
            domain.destroy(fork)
        elif operation == "listener":
            domain.p2m.on_flush(fork)
            domain.memory.decrease_reservation([5], 0)
        else:
            build(machine.create_domain("4MiB", options=OPTIONS), Forking())
    except TwofoldError as error:
        if children == [0]:
            told.write_text(type(error).__name__)
    finally:
        if children == [0]:
            os._exit(0)
    os.waitpid(children[0], 0)
    assert told.read_text() == ClosedError.__name__
    assert_every_frame_is_accounted_for(machine)
    assert all(each.p2m.audit().clean for each in machine.domains.values())
    machine.close()
    replay(tmp_path / "a.journal").machine.close()


def test_a_fork_while_another_thread_holds_the_machine_does_not_hang(machine, domain):
    is_inside, may_go = threading.Event(), threading.Event()

    def hold() -> bool:
        is_inside.set()
        may_go.wait()
        return False

    thread = threading.Thread(target=lambda: domain.memory.populate_physmap([0x2000, 0x2001], 0, preempt=hold))
    thread.start()
    is_inside.wait()
    told = in_a_child(lambda: domain.p2m.get_entry(0))
    may_go.set()
    thread.join()
    assert told.startswith("ClosedError")
    assert domain.p2m.clear_frames(0x2000, 2) == 0
