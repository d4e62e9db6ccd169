"""The write door: whoever watches is told each store before it happens, and what one refuses leaves no trace."""

import ast
from pathlib import Path

import numpy as np
import pytest

import twofold
from twofold.domain import DomainOptions, Machine, build
from twofold.errors import AddressError, NotPresentError, SizeError, WriteRefusedError
from twofold.p2m import P2MType


@pytest.fixture
def domain():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat"))
        build(domain, "toolstack")
        domain.p2m.unmap(100, 1)
        yield domain


def words(*numbers):
    return np.array(numbers, np.uint64)


def rows(store) -> list[tuple[int, int, int]]:
    return list(zip(store.gfns.tolist(), store.offsets.tolist(), store.bytes_.tolist(), strict=True))


def write_entries(domain, gfns, slots, entries):
    domain.door.write_entries(words(*gfns), words(*slots), entries, "tables")


STORES = {
    "write": (lambda domain: domain.write(0x3FFE, b"abcd"), [(3, 0xFFE, 2), (4, 0, 2)], "host"),
    "write within a frame": (lambda domain: domain.write(0x5010, b"abcd"), [(5, 0x10, 4)], "host"),
    "frames": (
        lambda domain: domain.door.write_frames(words(9, 3, 77), 8, b"x" * 5000, "loader"),
        [(9, 8, 4088), (3, 0, 912)],
        "loader",
    ),
    "entries": (
        lambda domain: write_entries(domain, [3, 9, 3], [1, 0, 511], words(5, 6, 7)),
        [(3, 8, 8), (9, 0, 8), (3, 4088, 8)],
        "tables",
    ),
    "entries of 32 bits": (
        lambda domain: write_entries(domain, [3, 3], [1, 1023], np.array([5, 7], np.uint32)),
        [(3, 4, 4), (3, 4092, 4)],
        "tables",
    ),
    "zeros": (lambda domain: domain.door.zero_frames(words(3, 1)), [(3, 0, 4096), (1, 0, 4096)], "host"),
    "wipe": (lambda domain: domain.door.wipe(words(1, 9), words(3, 2)), [(1, 0, 12288), (9, 0, 8192)], "wipe"),
    "wipe all": (lambda domain: domain.wipe(), [(0, 0, 100 << 12), (101, 0, (4096 - 101) << 12)], "wipe"),
}


def contents(domain) -> bytes:
    return domain.read(0, 100 << 12)


@pytest.mark.parametrize("name", STORES)
def test_a_store_is_told_before_it_happens(domain, name):
    store, expected, by = STORES[name]
    domain.write(0, b"\xee" * (100 << 12))
    before, told = contents(domain), []
    domain.on_write(lambda store: told.append((rows(store), store.by, contents(domain) == before)))
    store(domain)
    assert told == [(expected, by, True)]
    assert contents(domain) != before


@pytest.mark.parametrize("name", STORES)
def test_what_is_refused_leaves_no_trace(domain, name):
    store, expected, by = STORES[name]
    domain.write(0, b"\xee" * (100 << 12))
    before = contents(domain)
    last = expected[-1][0]

    def refuse(store):
        raise WriteRefusedError(int(store.gfns[0]), store.by, "it holds a page table")

    domain.on_write(refuse, range(last, last + 1))
    with pytest.raises(WriteRefusedError, match="it holds a page table") as caught:
        store(domain)
    assert (caught.value.gfn, caught.value.by) == (last, by)
    assert contents(domain) == before
    domain.off_write(refuse)
    store(domain)
    assert contents(domain) != before


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_nobody_watches_is_the_same(domain, name):
    with Machine("64MiB") as machine:
        other = machine.create_domain("16MiB", options=DomainOptions(layout="flat"))
        build(other, "toolstack")
        other.p2m.unmap(100, 1)
        for each in (domain, other):
            each.write(0, b"\xee" * (100 << 12))
        other.on_write(lambda _: None)
        for each in (domain, other):
            STORES[name][0](each)
        assert contents(domain) == contents(other)


def test_who_watches_a_range_hears_of_it_alone(domain):
    told = []
    domain.on_write(lambda store: told.append(rows(store)), range(3, 5))
    domain.write(0x1000, b"x" * 8192)
    domain.write(0x2000, b"x" * 8192)
    domain.door.zero_frames(words(9, 4, 2))
    domain.door.wipe(words(0), words(4))
    domain.door.wipe(words(5), words(4))
    assert told == [[(3, 0, 4096)], [(4, 0, 4096)], [(0, 0, 16384)]]
    assert [domain.is_watched(gfn) for gfn in (2, 3, 4, 5)] == [False, True, True, False]


def test_one_who_has_stopped_watching_is_not_told(domain):
    told, other = [], []
    domain.on_write(told.append, range(8))
    domain.on_write(told.append, range(9, 12))
    domain.on_write(other.append)
    domain.off_write(told.append)
    domain.write(0, b"x")
    assert (len(told), len(other)) == (0, 1)
    assert not domain.door.is_open
    domain.off_write(other.append)
    assert domain.door.is_open
    assert not domain.is_watched(0)


def test_what_a_program_writes_is_told_by_the_frame(domain):
    told = []
    domain.on_write(lambda store: told.append((rows(store), store.by)), range(8))
    domain.note_write(5, "some engine")
    domain.note_write(9, "some engine")
    assert told == [([(5, 0, 4096)], "some engine")]


def test_whoever_remembers_what_may_be_written_is_told_to_forget_it(domain):
    calls = []
    drop = lambda: calls.append(1)  # noqa: E731
    domain.door.on_watch(drop)
    domain.on_write(print, range(4))
    assert calls == [1]
    domain.door.off_watch(drop)
    domain.on_write(print, range(4, 8))
    assert calls == [1]


@pytest.mark.parametrize(
    "store",
    [
        lambda domain: domain.write(99 << 12, b"x" * 5000),
        lambda domain: domain.write(100 << 12, b"x"),
        lambda domain: domain.door.write_frames(words(3, 100), 0, b"x" * 4097),
        lambda domain: write_entries(domain, [3, 100], [0, 0], words(1, 2)),
        lambda domain: domain.door.zero_frames(words(3, 100)),
    ],
)
def test_a_store_into_a_hole_is_refused_whole_and_told_to_nobody(domain, store):
    before, told = domain.machine.digest(), []
    domain.on_write(told.append)
    with pytest.raises(NotPresentError, match="gpa 0x64000"):
        store(domain)
    assert domain.machine.digest() == before
    assert told == []


@pytest.mark.parametrize(
    ("store", "error"),
    [
        (lambda door: door.write_frames(words(3), 1, b"x" * 4096), SizeError),
        (lambda door: door.write_frames(words(3), 4096, b""), SizeError),
        (lambda door: door.write_frames(words(3), -1, b"x"), SizeError),
        (lambda door: door.write_entries(words(3), words(512), words(1)), AddressError),
        (lambda door: door.write_entries(words(3, 4), words(0), words(1)), SizeError),
        (lambda door: door.write_entries(words(3), words(0), np.zeros(1, np.uint8)), SizeError),
        (lambda door: door.on_write(print, range(0, 8, 2)), AddressError),
        (lambda door: door.on_write(print, range(-4, 8)), AddressError),
    ],
)
def test_what_is_no_store_is_refused(domain, store, error):
    before = domain.machine.digest()
    with pytest.raises(error):
        store(domain.door)
    assert domain.machine.digest() == before


def test_wiping_a_range_with_a_hole_in_it_wipes_the_rest(domain):
    domain.write(99 << 12, b"x")
    domain.write(101 << 12, b"x")
    domain.door.wipe(words(90), words(20))
    assert domain.read(99 << 12, 1) == domain.read(101 << 12, 1) == b"\0"


def test_a_device_s_frames_are_no_memory_to_store_into(domain):
    domain.p2m.set_entry(100, domain.machine.frames + 5, 0, P2MType.MMIO_DIRECT)
    with pytest.raises(AddressError, match="no memory of the machine"):
        domain.write(100 << 12, b"x")


def test_nothing_is_stored_by_an_empty_write(domain):
    told = []
    domain.on_write(told.append)
    domain.write(0x64001, b"")
    domain.door.write_entries(words(), words(), words())
    domain.door.zero_frames(words())
    assert told == []


def test_long_stores_are_cut_into_parts_that_are_checked_together(domain, monkeypatch):
    """A part is what one record of a journal holds."""
    monkeypatch.setattr("twofold.domain.door._PART_FRAMES", 2)
    monkeypatch.setattr("twofold.domain.door._PART_ENTRIES", 2)
    data = bytes(np.random.default_rng(1).integers(0, 256, 5 * 4096 - 7, np.uint8))
    domain.door.write_frames(words(20, 4, 7, 30, 9), 5, data)
    assert b"".join(domain.read(gfn << 12, 4096) for gfn in (20, 4, 7, 30, 9))[5:-2] == data
    write_entries(domain, [3, 4, 5, 6, 7], [1, 2, 3, 4, 5], words(10, 20, 30, 40, 50))
    assert [int.from_bytes(domain.read((3 + i << 12) + 8 * (1 + i), 8), "little") for i in range(5)] == [
        10, 20, 30, 40, 50,
    ]  # fmt: skip
    told = []
    domain.on_write(told.append)
    domain.door.write_frames(words(20, 4, 7, 30, 9), 5, data)
    assert len(told) == 1


STORING = {"write", "discard", "copy", "tables", "tables_of", "words", "words_of"}


def test_every_store_of_the_host_side_is_in_the_door():
    direct = set()
    for path in [path for room in ("domain", "guest") for path in Path(twofold.__file__).with_name(room).glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in STORING and "arena" in ast.unparse(node.value):
                direct.add((path.stem, node.attr))
    reads = {("tables", "tables_of")}  # of the guest, for walks
    assert direct - reads == {("door", "tables"), ("door", "tables_of"), ("door", "discard")}
