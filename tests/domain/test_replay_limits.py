"""What a replay may take is asked for before it is spent; what the program itself wrote replays."""

import numpy as np
import pytest
from random_run import MACHINE, RandomRun

import twofold as tf
from twofold.domain import DomainOptions, Machine, build, replay
from twofold.domain.replay_limits import BASE_WORK, default_work
from twofold.errors import CountError, FormatError, SizeError
from twofold.freemaps import FreeMap
from twofold.machine.journal import journaled
from twofold.memory import resident_bytes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "machine.journal"


def forged(path, target, domid, method, *args, size="1GiB", **kwargs):
    """Write a journal of one domain and one call that nobody has made: as if it had answered None."""
    fake = type(target, (), {method: journaled(lambda *_, **__: None)})
    fake.__dict__[method].__name__ = method
    with Machine(size, journal=path) as machine:
        machine.create_domain("64MiB", options=DomainOptions(layout="flat", table_pool=1000))
        made = fake()
        made.gate = machine.gate
        machine.journal.watch(domid, made)
        getattr(made, method)(*args, **kwargs)


def refused(path, **how):
    """Return why a replay is refused, and that it took next to no memory to say so."""
    before = resident_bytes()
    with pytest.raises(FormatError) as caught:
        replay(path, **how)
    assert resident_bytes() - before < 256 << 20
    return str(caught.value)


FAR = range(1 << 45)


@pytest.mark.parametrize(
    "call",
    [
        ("MemoryOperations", 1, "decrease_reservation", FAR, 0),
        ("MemoryOperations", 1, "exchange", FAR, 0, FAR, 0),
        ("P2M", 1, "set_entries", FAR, FAR),
        ("P2M", 1, "remove_entries", FAR),
        ("WriteDoor", 1, "zero_frames", FAR),
    ],
    ids=lambda call: call[2],
)
def test_a_range_that_fills_any_memory_is_refused_before_a_list_is_made_of_it(path, call):
    forged(path, *call)
    assert "asks for more" in refused(path)


def test_a_domain_split_into_more_tables_than_there_is_work_for_is_refused(path):
    with Machine("64GiB", journal=path) as machine:
        p2m = machine.create_domain("4MiB", options=DomainOptions(layout="flat", table_pool=20000)).p2m
        for gib in range(0, 16, 4):
            p2m.set_entry(gib << 18, 0, 20)
        p2m.split_all(order=0)
        tables = p2m.tables
    assert "P2M.split_all of domain 1 may come to" in refused(path, max_work=12_000_000)
    assert "P2M.split_all of domain 1 may come to" in refused(path, max_memory="24MiB")
    replayed = replay(path)
    assert replayed.machine.domains[1].p2m.tables == tables
    assert tables * 512 < replayed.work < default_work(path.stat().st_size)
    replayed.machine.close()


@pytest.mark.parametrize("operation", ["digest", "merge_all", "split_all", "move", "write", "zero", "pool", "set"])
def test_each_kind_of_operation_is_asked_before_it_is_done(path, operation):
    with Machine("1GiB", journal=path) as machine:
        domain = machine.create_domain("256MiB", options=DomainOptions(layout="flat", table_pool=1000))
        build(domain, "small")
        operations = {
            "digest": machine.digest,
            "merge_all": domain.p2m.merge_all,
            "split_all": lambda: domain.p2m.split_all(range(1 << 36), 0),
            "move": lambda: domain.p2m.move(0, machine.heap.alloc(9), 9),
            "write": lambda: domain.write(0, bytes(8 << 20)),
            "zero": lambda: domain.door.zero_frames(np.arange(4096, dtype=np.uint64)),
            "pool": lambda: machine.create_domain("1MiB", options=DomainOptions(layout="flat", table_pool=30000)),
            "set": lambda: domain.p2m.set_entry(1 << 20, 0, 18),
        }
        built = replay_of_what_is_there(machine)
        operations[operation]()
    assert "may come to" in refused(path, max_work=built + 3000)


def replay_of_what_is_there(machine):
    """Return the work of what a journal holds until now, without the digest at its end."""
    with replay(machine.journal.path, partial=True).machine as replayed:
        digest = replayed.frames // 2 + 1200 * sum(frames for _, frames in replayed.arena.data_runs())
    return replay(machine.journal.path, partial=True).work - digest


def test_memory_is_counted_before_a_store(path):
    with Machine("1GiB", journal=path) as machine:
        for number in range(10):
            machine.arena.write((512 << 20) + number * (16 << 20), bytes(16 << 20))
    said = refused(path, max_memory="132MiB")
    assert "Arena.write may come to" in said
    assert "max_memory allows more" in said
    replay(path, max_memory="400MiB").machine.close()


def test_a_record_that_unpacks_to_more_than_memory_allows_is_not_unpacked(path):
    with Machine("1GiB", journal=path) as machine:
        machine.arena.write(512 << 20, bytes(32 << 20))
    assert "the record at offset 0x16a has more than 8MiB; max_memory allows more" in refused(path, max_memory="64MiB")


def test_a_replay_that_is_refused_is_closed(path, monkeypatch):
    forged(path, "P2M", 1, "remove_entries", FAR)
    closed = []
    monkeypatch.setattr(Machine, "close", lambda self: closed.append(self.frames))
    refused(path)
    assert len(closed) == 1


def test_a_free_map_of_many_runs_is_refused_before_it_is_unpacked(path):
    runs = 200_000
    free = FreeMap(np.arange(runs, dtype=np.uint64) * 2, np.ones(runs, np.uint64), 2 * runs, "made up")
    with Machine(free=free, journal=path):
        pass
    assert path.stat().st_size < 4096
    assert "its free map may come to 80,000,000 steps" in refused(path, max_work=1_000_000)
    assert "its free map may come to 28.61MiB" in refused(path, max_memory="16MiB")
    replay(path).machine.close()


def test_limits_that_are_none_are_refused(path):
    with Machine("64MiB", journal=path):
        pass
    with pytest.raises(CountError):
        replay(path, max_work=-1)
    with pytest.raises(SizeError):
        replay(path, max_memory="much")


def test_what_the_program_wrote_takes_a_small_part_of_what_it_may(path):
    with Machine(MACHINE, nodes=2, journal=path) as machine:
        RandomRun(machine, seed=11).steps(300)
        machine.digest()
    replayed = tf.replay(path)
    assert 300 < replayed.work < BASE_WORK / 8
    replayed.machine.close()


@pytest.mark.medium
def test_a_large_guest_in_small_leaves_replays(path):
    with Machine("64GiB", journal=path) as machine:
        domain = machine.create_domain("48GiB", options=DomainOptions(layout="flat", table_pool=30000))
        build(domain, "toolstack")
        for _ in range(3):
            domain.p2m.split_all(order=0)
            domain.p2m.merge_all()
        digest = machine.digest()
    replayed = tf.replay(path)
    assert replayed.digest == digest
    replayed.machine.close()
