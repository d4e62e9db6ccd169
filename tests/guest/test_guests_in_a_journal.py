"""Guests on a machine that keeps a journal: what is put into them is replayed, what their programs store is not."""

import numpy as np
import pytest

from twofold.domain import DomainOptions, Machine, build, replay
from twofold.domain.replay import CLASSES
from twofold.errors import DivergenceError, FormatError, WriteRefusedError
from twofold.guest import Guest, Program, TraceGuest, TracePolicy, run
from twofold.machine.journal_reader import JournalReader


@pytest.fixture
def path(tmp_path):
    return tmp_path / "machine.journal"


def built(machine, size: str = "32MiB"):
    domain = machine.create_domain(size, options=DomainOptions(layout="flat"))
    build(domain)
    return domain


def methods_of(path) -> list[str]:
    with JournalReader(path, CLASSES) as reader:
        return [f"{each.target}.{each.method}" for each in reader]


@pytest.mark.parametrize(
    ("paging", "mode", "pages"),
    [("4-level", "4-level", "4K"), ("4-level", "4-level", "2M"), ("pae", "pae", "2M"), ("2-level", "2-level", "4K")],
)
def test_a_guest_replays_to_the_same_bytes(path, paging, mode, pages):
    with Machine("128MiB", paging=paging, journal=path) as machine:
        guest = Guest(built(machine), mode, pages, "8MiB")
        guest.wipe_area()
        digest = machine.digest()
    replayed = replay(path)
    assert (replayed.digest, replayed.runs, replayed.is_compared) == (digest, 0, True)
    replayed.machine.close()


@pytest.mark.medium
def test_a_trace_guest_replays_to_the_same_bytes(path):
    gvas = np.random.default_rng(2).integers(0, 1 << 46, 300).astype(np.uint64) << np.uint64(1)
    with Machine("128MiB", journal=path) as machine:
        TraceGuest(built(machine), gvas, TracePolicy(placement="scattered"))
        digest = machine.digest()
    replayed = replay(path)
    assert replayed.digest == digest
    replayed.machine.close()


def test_after_a_run_the_replay_compares_no_digest_and_says_so(path):
    with Machine("128MiB", journal=path) as machine:
        guest = Guest(built(machine), footprint="1MiB")
        run(guest, Program.workload("gups", steps=20))
        machine.digest()
        guest.domain.p2m.split_all(order=0)
        run(guest, Program.workload("sort", steps=20))
        digest, leaves = machine.digest(), guest.domain.p2m.leaves()
    assert methods_of(path).count("Domain.begin_run") == 2
    replayed = replay(path)
    assert (replayed.runs, replayed.is_compared) == (2, False)
    assert replayed.as_dict()["runs"] == 2
    assert replayed.digest != digest
    assert replayed.machine.domains[1].p2m.leaves() == leaves, "all else is replayed as ever"
    replayed.machine.close()


def test_a_digest_before_the_first_run_is_compared(path):
    with Machine("128MiB", journal=path) as machine:
        guest = Guest(built(machine), footprint="1MiB")
        machine.arena.tables[int(guest.domain.p2m.translate([3])[0]), 5] = 77  # past the door
        machine.digest()
        run(guest, Program.workload("gups", steps=20))
    with pytest.raises(DivergenceError, match="digest"):
        replay(path)


def test_what_somebody_refused_is_not_done_in_the_replay(path):
    def refuse(store):
        raise WriteRefusedError(int(store.gfns[0]), store.by, "not now")

    with Machine("128MiB", journal=path) as machine:
        domain = built(machine)
        domain.write(0x1000, b"there")
        domain.on_write(refuse)
        for store in (lambda: domain.write(0x1000, b"never"), domain.wipe, lambda: Guest(domain, footprint="1MiB")):
            with pytest.raises(WriteRefusedError):
                store()
        digest = machine.digest()
    replayed = replay(path)
    assert replayed.digest == digest
    assert replayed.machine.domains[1].read(0x1000, 5) == b"there"
    replayed.machine.close()


@pytest.mark.parametrize("watch", ["on_write", "on_change"])
def test_a_journal_ends_before_what_a_listener_s_failure_interrupted(path, watch):
    def fail(_):
        raise RuntimeError

    with Machine("128MiB", journal=path) as machine:
        domain = built(machine)
        getattr(domain if watch == "on_write" else domain.p2m, watch)(fail)
        with pytest.raises(RuntimeError):
            domain.write(0, b"x") if watch == "on_write" else domain.p2m.unmap(0, 1)
    replayed = replay(path)
    assert not replayed.is_closed
    assert replayed.machine.domains[1].memory.owned_frames == 8192
    replayed.machine.close()


@pytest.mark.parametrize("method", ["_store_frames", "_store_entries", "zero_frames", "wipe"])
def test_a_journal_does_not_store_into_page_tables_by_the_door(path, method):
    one = np.ones(1, np.uint64)
    with Machine("128MiB", journal=path) as machine:
        domain = built(machine)
        table = int(domain.p2m.root)
        domain.p2m.set_entry(5, table, 0)
        gfns, data = 5 * one, (0, b"x") if method == "_store_frames" else ()
        if method == "_store_entries":
            data = np.zeros(1, np.uint16), one
        getattr(domain.door, method)(gfns, *data, *([one] if method == "wipe" else []))
    with pytest.raises(FormatError, match="holds page tables"):
        replay(path)


@pytest.mark.parametrize("frames", [[1 << 60], [1, 1]])
def test_a_journal_does_not_wipe_more_than_there_is(path, frames):
    with Machine("128MiB", journal=path) as machine:
        door = built(machine).door
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever it is: the journal has it
            door.wipe(np.array([5], np.uint64), np.array(frames, np.uint64))
    with pytest.raises(FormatError):
        replay(path)
