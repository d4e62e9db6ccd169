"""Replay: a journal's operations lead to the same bytes, and whatever does not fit is told."""

import contextlib
import inspect
import sys
import zlib
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_run import MACHINE, RandomRun

import twofold as tf
from twofold import spec
from twofold.domain import DomainOptions, Extents, Machine, Reason, build
from twofold.domain.domain import Domain
from twofold.domain.door import WriteDoor
from twofold.domain.memory import MemoryOperations
from twofold.domain.replay import CLASSES, replay
from twofold.errors import (
    DamagedJournalError,
    DivergenceError,
    DomainError,
    FormatError,
    HeapExhaustedError,
    NotPresentError,
    OwnershipError,
)
from twofold.freemaps import FreeMap
from twofold.machine import Arena, Heap, Origin
from twofold.machine.journal import FRAME, START, Journal, digest_of, frame_check, journaled_methods
from twofold.machine.journal_reader import JournalReader
from twofold.machine.journal_values import Encoder, Name
from twofold.p2m import P2M, LinearMapping, P2MType

OBJECTS = (Machine, Heap, Arena, Domain, WriteDoor, MemoryOperations, P2M, LinearMapping)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "machine.journal"


def methods_of(path) -> list[str]:
    with JournalReader(path, CLASSES) as reader:
        return [f"{each.target}.{each.method}" for each in reader]


def assert_replays(path, digest, **how) -> None:
    replayed = replay(path, **how)
    assert replayed.digest == digest
    replayed.machine.close()


# -- the same bytes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "paging"),
    [
        pytest.param(
            *case, marks=[pytest.mark.medium] * (case not in {("twofold", "4-level"), ("xen-4.17", "2-level")})
        )
        for case in product(["twofold", "xen-4.17"], ["4-level", "5-level", "pae", "2-level"])
    ],
)
def test_a_random_run_replays_to_the_same_bytes(path, paging, behaviour):
    with Machine(MACHINE, paging=paging, behaviour=behaviour, nodes=2, journal=path) as machine:
        run = RandomRun(machine, seed=7)
        run.steps(400)
        digest = machine.digest()
    assert run.failed > 20, "failures are operations too"
    assert_replays(path, digest)


def test_a_journal_replays_on_the_readable_twin_too(path):
    with Machine("64MiB", journal=path) as machine:
        build(machine.create_domain("16MiB"), "opportunistic")
        machine.domains[1].p2m.split_all(order=0)
        digest = machine.digest()
    assert_replays(path, digest, engine=spec)


@pytest.mark.medium
def test_every_operation_that_is_marked_is_done_by_random_runs(path):
    """An operation that is new has to join the random run, or the tests below."""
    done = set()
    for paging, seed in (("4-level", 1), ("2-level", 2)):
        with Machine(MACHINE, paging=paging, journal=path) as machine:
            RandomRun(machine, seed).steps(1500)
            machine.digest()
        done |= set(methods_of(path))
    marked = {f"{kind.__name__}.{method}" for kind in OBJECTS for method in journaled_methods(kind)}
    # By way of another: it is what `remove_entries`, `destroy` and `build` do.
    within = {"P2M.remove_first_entries", "P2M.unmap", "P2M.set_entry", "MemoryOperations.release_all"}
    # What guests store, and that a program runs: in tests/guest/test_guests_in_a_journal.py.
    within |= {f"WriteDoor.{method}" for method in journaled_methods(WriteDoor)} | {"Domain.begin_run"}
    assert marked - done <= within
    assert done <= marked


# Public methods that leave the machine as it is, or are nobody's to call but an operation's.
UNMARKED = {
    "Machine": {
        *("close", "digest_fields", "forget", "frames_by_use", "save", "watch"),
    },
    "Heap": {"blocks", "digest_fields", "free_blocks", "is_free", "let_go", "lists"},
    "Arena": {"close", "copy", "data_runs", "discard", "read", "tables_of", "words_of"},
    "Domain": {
        *("apply_page_sizes", "check_runnable", "digest_fields", "is_watched", "note_write", "off_write", "on_write"),
        "read",
    },
    "WriteDoor": {
        *("is_watched", "note_write", "off_watch", "off_write", "on_watch", "on_write", "wipe_all", "write_entries"),
        "write_frames",
    },
    "MemoryOperations": set(),
    "P2M": {
        *("certify_empty", "certify_gone", "digest_fields", "map_over"),
        *("audit", "can_map_exactly", "clear_frames", "get_entry", "gfn_to_mfn_foreign", "leaf_array"),
        *("held", "leaf_rows", "leaves", "level_masks", "map", "off_change", "off_flush", "on_change", "on_flush"),
        *("plan", "runs", "settle", "split_need", "translate"),
        *("unmap_need", "unmap_refusal", "walk"),
    },
    "LinearMapping": {"address", "release", "sync"},
}


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
def test_a_public_method_is_marked_or_known_to_change_nothing(kind):
    public = {name for name, thing in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert public - set(journaled_methods(kind)) == UNMARKED[kind.__name__]


@pytest.mark.slow
@pytest.mark.parametrize("paging", ["4-level", "2-level"])
def test_a_random_run_of_100000_operations_replays_to_the_same_bytes(path, paging):
    with Machine(MACHINE, paging=paging, nodes=2, journal=path) as machine:
        run = RandomRun(machine, seed=11)
        while machine.journal.operations < 100_000:
            run.steps(1000)
        run.finish()
        digest = machine.digest()
    assert run.failed > 10_000, "what is refused is recorded too"
    assert_replays(path, digest)


def test_a_build_is_in_the_journal_as_the_operations_that_it_makes(path):
    class Odd:
        name = "nobody has this design installed"

        def populate(self, populate, gfns, layout):
            populate(gfns[::-1], 0)

    with Machine("64MiB", journal=path) as machine:
        domain = machine.create_domain("4MiB", options=DomainOptions(layout="flat"))
        build(domain, Odd())
        digest = machine.digest()
    assert methods_of(path) == ["Machine.create_domain", "MemoryOperations.populate_physmap", "Machine.digest"]
    assert_replays(path, digest)


def test_a_build_that_fails_is_undone_in_the_replay_too(path):
    with Machine("64MiB", journal=path) as machine:
        held = machine.heap.alloc_runs(9, 20)
        domain = machine.create_domain("16MiB", options=DomainOptions(table_pool=5))
        with pytest.raises(tf.BuildError):
            build(domain, "small")
        digest = machine.digest()
    assert len(held[0])
    assert "MemoryOperations.release_all" in methods_of(path)
    assert_replays(path, digest)


def test_a_machine_of_a_real_host_replays_from_its_free_map(path):
    with Machine(free=FreeMap.shipped("fragmented"), journal=path) as machine:
        build(machine.create_domain("256MiB"), "toolstack")
        digest = machine.digest()
    assert_replays(path, digest)


def test_the_settings_of_a_machine_come_back(path):
    with Machine("1GiB", paging="pae", page_sizes="4K", seed=9, behaviour="xen-4.17", nodes=2, journal=path) as machine:
        kept = (machine.paging, machine.page_sizes, machine.seed, machine.behaviour, machine.nodes, machine.frames)
    with replay(path).machine as again:
        assert (again.paging, again.page_sizes, again.seed, again.behaviour, again.nodes, again.frames) == kept
        assert again.journal is None


def test_memory_that_is_written_and_wiped_replays(path):
    with Machine("64MiB", journal=path) as machine:
        domain = machine.create_domain("8MiB", options=DomainOptions(layout="flat"))
        build(domain)
        domain.write(0x1FF0, b"over the end of a frame" * 9)
        with pytest.raises(NotPresentError):
            domain.write(1 << 30, b"nowhere")
        digest = machine.digest()
        with replay(path).machine as again:
            assert again.domains[1].read(0x1FF0, 23) == b"over the end of a frame"
            assert again.digest() == digest
        domain.wipe()
        assert machine.digest() != digest
        digest = machine.digest()
    assert_replays(path, digest)


def test_an_operation_that_was_stopped_by_a_callback_stops_at_the_same_place(path):
    class Stop(Exception):  # noqa: N818  the test's own
        pass

    def stop(done, _total):
        if done > 3 << 18:
            raise Stop

    with Machine("8GiB", journal=path) as machine:
        domain = machine.create_domain("6GiB", options=DomainOptions(layout="flat", table_pool=4000))
        build(domain)
        with pytest.raises(Stop):
            domain.p2m.split_all(order=9, progress=stop)
        leaves, digest = domain.p2m.leaves(), machine.digest()
    replayed = replay(path)
    with replayed.machine:
        assert replayed.digest == digest
        assert replayed.leaves == leaves == {0: 0, 9: 4 << 9, 18: 2}


def test_a_replay_tells_how_far_it_is(path):
    with Machine("64MiB", journal=path) as machine:
        for _ in range(600):
            machine.heap.alloc(0)
    told = []
    replay(path, progress=lambda *each: told.append(each)).machine.close()
    size = path.stat().st_size
    assert [(text, total) for text, _, total in told] == [("replaying", size)] * 3
    assert 0 < told[0][1] < told[1][1] < told[2][1] == size


def test_what_a_replay_came_to_is_there_to_be_read(path):
    with Machine("64MiB", journal=path) as machine:
        build(machine.create_domain("8MiB", "web", DomainOptions(layout="flat")))
        digest = machine.digest()
    replayed = replay(path)
    with replayed.machine:
        assert replayed.as_dict() == {
            "operations": 3,
            "machine_bytes": 64 << 20,
            "free_frames": replayed.machine.heap.free_frames,
            "domains": [{"domid": 1, "name": "web", "owned_frames": 2048}],
            "leaves": {0: 0, 9: 4, 18: 0},
            "digest": digest,
            "runs": 0,
            "work": replayed.work,
            "closed": True,
            "damage": "",
        }


# -- what is not as it was --------------------------------------------------------------------------------------


def test_a_journal_that_ends_half_way_through_a_destruction_leads_to_no_digest(path):
    with Machine("64MiB", journal=path) as machine:
        domain = machine.create_domain("8MiB", "web", DomainOptions(layout="flat"))
        build(domain)
        assert not domain.destroy(lambda: True)
        with pytest.raises(DomainError, match="half-way"):
            machine.digest()
        machine.journal.close()
        done = machine.journal.operations
        while not domain.destroy(lambda: True):
            pass
    replayed = replay(path)
    with replayed.machine as again:
        assert (replayed.digest, replayed.as_dict()["digest"], replayed.operations) == (None, None, done)
        assert again.domains[1].is_dying
        assert again.domains[1].destroy()


def test_a_journal_that_ends_early_is_replayed_as_far_as_it_is_whole(path):
    with Machine("64MiB", journal=path) as machine:
        build(machine.create_domain("8MiB", options=DomainOptions(layout="flat")))
        digest = machine.digest()
        size = path.stat().st_size
        machine.heap.alloc(0)
    path.write_bytes(path.read_bytes()[: size + 5])
    with pytest.raises(DamagedJournalError) as caught:
        replay(path)
    assert (caught.value.offset, caught.value.operations) == (size, 3)
    replayed = replay(path, partial=True)
    replayed.machine.close()
    assert (replayed.digest, replayed.operations, replayed.is_closed) == (digest, 3, False)
    assert str(replayed.damage) == str(caught.value)


def forge(path, machine: Machine, *calls) -> None:
    """Write a journal with checksums that are right: (object, domid, method, args, kwargs, callbacks, outcome)."""
    settings_ = {
        "paging": machine.paging,
        "page_sizes": machine.page_sizes,
        "seed": 0,
        "behaviour": "twofold",
        "nodes": machine.nodes,
    }
    Journal(path, settings_, FreeMap.empty_machine(machine.frames << 12).to_bytes()).close()
    data = path.read_bytes()
    length, _, chain = FRAME.unpack_from(data, START.size)
    length &= 0x7FFFFFFF
    out, encoder = bytearray(data[: START.size + FRAME.size + length]), Encoder()
    for name in ("Begin", *settings_):  # what the first record has written out
        encoder.put(Name(name))
    encoder.finish()
    for target, domid, method, *rest in calls:
        encoder.begin()
        for value in (Name(target), domid, Name(method), *rest):
            encoder.put(value)
        payload = encoder.finish()
        crc = zlib.crc32(payload, chain)
        out += FRAME.pack(len(payload), frame_check(chain, len(payload)), crc) + payload
        chain = crc
    path.write_bytes(out)


def one(mfn, frames=1):
    return np.array([mfn], np.uint64), np.array([frames], np.uint64)


def call(target, domid, method, *args, outcome=0, callbacks=(), **kwargs):
    return (target, domid, method, args, kwargs, callbacks, outcome)


@pytest.fixture
def small():
    with Machine("64MiB") as machine:
        yield machine


CREATE = call("Machine", 0, "create_domain", "8MiB", "a", DomainOptions(layout="flat"), outcome=zlib.crc32(b"Domain"))
POPULATE = call("MemoryOperations", 1, "populate_physmap", range(2048), 0, outcome=0)


def test_an_answer_that_differs_is_found_at_its_operation(path, small):
    forge(path, small, CREATE, POPULATE)
    with pytest.raises(DivergenceError, match="it answered something else") as caught:
        replay(path)
    assert caught.value.operation == 2
    assert "MemoryOperations.populate_physmap of domain 1 answers Extents(done=2048" in str(caught.value)


@pytest.mark.parametrize(
    ("forged", "shown"),
    [
        (call("Heap", 0, "alloc", 20, outcome=Name("OwnershipError")), "raises HeapExhaustedError"),
        (call("Heap", 0, "alloc", 0, outcome=Name("HeapExhaustedError")), "answers 0"),
        (call("Heap", 0, "alloc", 20, outcome=1), "raises HeapExhaustedError"),
        (call("Heap", 0, "alloc", outcome=1), "raises TypeError"),
        (call("Machine", 0, "create_domain", "8EiB", outcome=1), "raises SizeError"),
    ],
)
def test_another_error_or_none_is_a_divergence(path, small, forged, shown):
    forge(path, small, forged)
    with pytest.raises(DivergenceError, match=shown):
        replay(path)


def test_an_error_that_is_the_same_is_none(path, small):
    forge(path, small, call("Heap", 0, "alloc", 20, outcome=Name("HeapExhaustedError")))
    replay(path).machine.close()
    with pytest.raises(HeapExhaustedError):
        small.heap.alloc(20)


@pytest.mark.parametrize(
    "forged",
    [
        call("Heap", 0, "blocks"),
        call("Heap", 0, "__init__"),
        call("Heap", 1, "alloc", 0),
        call("Machine", 0, "close"),
        call("Machine", 0, "save", "/tmp/x"),  # noqa: S108  never written
        call("Domain", 9, "destroy"),
        call("Domain", 0, "destroy"),
        call("Arena", 0, "discard", *one(0)),
        call("P2M", 1, "map"),
    ],
)
def test_what_is_no_operation_is_never_called(path, small, forged):
    forge(path, small, CREATE, forged)
    with pytest.raises(FormatError, match="there is nothing of that name"):
        replay(path)


def own_frame() -> int:
    """Return a frame that the first domain's tables stand in."""
    with Machine("64MiB") as machine:
        return int(machine.create_domain("8MiB", options=DomainOptions(layout="flat")).pool.runs[0][0])


TABLES = own_frame()
MAP_TABLES = call("P2M", 1, "set_entry", 7, TABLES, 0, outcome=zlib.crc32(b"\0"))


@pytest.mark.parametrize(
    "calls",
    [
        [call("Heap", 0, "free", TABLES, 0)],
        [call("Heap", 0, "free", TABLES + 1, 0)],
        [call("Heap", 0, "free_runs", *one(TABLES))],
        [call("Heap", 0, "free_runs", *one(2**64 - 1, 2))],
        [call("Heap", 0, "free_runs", *one(1 << 13, 1 << 40))],
        [call("Heap", 0, "free_runs", [1], [1])],
        [call("Heap", 0, "free_runs", np.array([[1]], np.uint64), np.array([[1]], np.uint64))],
        [MAP_TABLES, call("Domain", 1, "write", 7 << 12, b"\xff" * 8)],
        [MAP_TABLES, call("Domain", 1, "wipe")],
        [call("Arena", 0, "write", (TABLES << 12) + 5, b"\xff")],
        [call("Heap", 0, "alloc", 1 << 40)],
        [call("P2M", 1, "set_entry", 0, 0, 1 << 40)],
        [call("MemoryOperations", 1, "populate_physmap", range(1), np.int64(1 << 40))],
        [call("MemoryOperations", 1, "populate_physmap", range(1), 0, origin=Origin(address_bits=1 << 40))],
    ],
    ids=str,
)
def test_what_would_break_the_machine_is_refused(path, small, calls):
    forge(path, small, CREATE, *calls)
    with pytest.raises(FormatError, match=r"calls \w+\.\w+.* at offset 0x"):
        replay(path)


def test_the_frames_of_a_monitor_are_nobody_elses(path, small):
    domain = small.create_domain("8MiB", options=DomainOptions(layout="flat"))
    monitor = domain.p2m.linear.monitor
    made = call("P2M", 1, "_make_linear", outcome=zlib.crc32(b"LinearMapping"))
    forge(path, small, CREATE, made, call("Heap", 0, "free", monitor, 0))
    with pytest.raises(FormatError, match="not the journal's to free"):
        replay(path)
    some = call("MemoryOperations", 1, "populate_physmap", [0], 0, outcome=digest_of(Extents(1, 1, Reason.NONE)))
    forge(path, small, CREATE, made, some, call("P2M", 1, "move", 0, monitor))
    with pytest.raises(DivergenceError, match="OwnershipError"):  # the frame table says whose they are
        replay(path)


def test_freeing_what_is_free_or_nonsense_fails_in_a_replay_as_it_did(path):
    with Machine("64MiB", journal=path) as machine:
        heap = machine.heap
        mfn = heap.alloc(3)
        heap.free(mfn, 3)
        for bad in ((mfn, 3), (1, 3), (-1, 0), (0, 99), (1 << 50, 0), (0, -1)):
            with pytest.raises((OwnershipError, tf.AddressError)):
                heap.free(*bad)
        digest = machine.digest()
    assert_replays(path, digest)


def test_memory_taken_whole_may_be_freed_in_parts_and_once(path, small):
    taken = call("Heap", 0, "alloc", 4, outcome=zlib.crc32(bytes([3, 0])))
    freed = [call("Heap", 0, "free", 8, 3, outcome=zlib.crc32(b"\0"))]
    freed += [call("Heap", 0, "free_runs", *one(0, 8), outcome=zlib.crc32(b"\0"))]
    forge(path, small, taken, *freed)
    replay(path).machine.close()
    forge(path, small, taken, *freed, freed[1])
    with pytest.raises(FormatError, match="not the journal's to free"):
        replay(path)


@pytest.mark.medium
def test_a_machine_larger_than_allowed_is_refused(path):
    with Machine("1152GiB", journal=path):
        pass
    with pytest.raises(FormatError, match=r"of a machine of 1\.125TiB, more than the 1TiB that are allowed"):
        replay(path)
    replay(path, max_machine="2TiB").machine.close()


def test_a_machine_that_this_host_has_no_memory_for_is_refused_unless_its_size_is_allowed(path, monkeypatch):
    with Machine("1GiB", journal=path):
        pass
    monkeypatch.setattr(sys.modules["twofold.domain.replay"], "free_bytes", lambda: 1 << 20)
    with pytest.raises(FormatError, match="takes 7MiB of memory, and this machine has 1MiB left"):
        replay(path)
    replay(path, max_machine="1GiB").machine.close()


@pytest.mark.parametrize(
    ("settings_", "free", "problem"),
    [
        ({}, FreeMap.empty_machine("1MiB").to_bytes(), "has other settings"),
        ({"paging": "4-level"}, b"junk", "has no free map"),
        (
            {"paging": 5, "page_sizes": None, "seed": 0, "behaviour": "twofold", "nodes": 1},
            FreeMap.empty_machine("1MiB").to_bytes(),
            "describes a machine that cannot be",
        ),
        (
            {"paging": "pae", "page_sizes": b"4K", "seed": 0, "behaviour": "twofold", "nodes": 1},
            FreeMap.empty_machine("1MiB").to_bytes(),
            "describes a machine that cannot be",
        ),
        (
            {"paging": "pae", "page_sizes": None, "seed": 0, "behaviour": "twofold", "nodes": 1 << 60},
            FreeMap.empty_machine("1MiB").to_bytes(),
            "describes a machine that cannot be",
        ),
    ],
)
def test_a_beginning_that_describes_no_machine_is_refused(path, settings_, free, problem):
    Journal(path, settings_, free).close()
    with pytest.raises(FormatError, match=problem):
        replay(path)


NUMBERS = st.one_of(st.integers(-2, 70), st.sampled_from([2**31, 2**63, 2**64 - 1, 1 << 39, np.uint64(7)]))
RUNS = st.builds(one, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
ARGUMENTS = st.one_of(
    NUMBERS,
    st.builds(range, st.integers(-5, 5000), st.integers(0, 5000)),
    st.sampled_from(["", "4K", "gmfn", "read", None, True, b"\xff" * 9, [], P2MType.RAM_RW, DomainOptions()]),
    RUNS.map(lambda runs: runs[0]),
)
CALLS = st.builds(
    lambda kind, method, args: call(*kind, method, *args),
    st.sampled_from([("Heap", 0), ("Machine", 0), ("Domain", 1), ("MemoryOperations", 1), ("P2M", 1)]),
    st.sampled_from(sorted({method for kind in OBJECTS for method in journaled_methods(kind)})),
    st.lists(ARGUMENTS, max_size=4),
)


@pytest.mark.medium
@settings(max_examples=5 * settings.default.max_examples)
@given(data=st.data())
def test_forged_operations_end_in_an_error_of_ours(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "forged.journal"
    with Machine("64MiB") as machine:
        forge(path, machine, CREATE, MAP_TABLES, *data.draw(st.lists(CALLS, min_size=1, max_size=3)))
    with contextlib.suppress(FormatError, DivergenceError):
        replay(path).machine.close()


def test_what_a_dying_domain_refused_is_refused_again(path):
    with Machine("64MiB", journal=path) as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat"))
        build(domain, "small")
        domain.destroy(lambda: True)
        assert domain.is_dying
        for what in (lambda: domain.write(0x1000, b"late"), domain.wipe):
            with pytest.raises(tf.DomainError):
                what()
        domain.destroy()
        digest = machine.digest()
    assert_replays(path, digest)
