"""The digest of a machine: what it covers, and what it does not see."""

import hashlib

import numpy as np
import pytest

from twofold.domain import DomainOptions, Machine, build
from twofold.machine import Use
from twofold.machine.arena import Arena
from twofold.units import FRAME_BYTES


@pytest.fixture
def machine():
    with Machine("64MiB") as machine:
        yield machine


def test_equal_machines_have_equal_digests_and_others_have_not(machine):
    with Machine("64MiB") as twin, Machine("68MiB") as larger:
        assert machine.digest() == twin.digest() != larger.digest()


def test_a_page_that_was_touched_and_is_zero_is_as_one_that_never_was(machine):
    before = machine.digest()
    machine.arena.write(5 << 12, bytes(FRAME_BYTES))
    assert list(machine.arena.data_runs()) == [(5, 1)]
    assert machine.digest() == before


def test_computing_it_touches_no_memory(machine):
    machine.digest()
    assert list(machine.arena.data_runs()) == []


def one(number):
    return np.array([number], np.uint64)


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: machine.arena.write((9 << 12) + 4095, b"\x01"),
        lambda machine: machine.frame_table.assign(one(9), one(1), 3, Use.NONE),
        lambda machine: machine.frame_table.assign(one(9), one(1), 0, Use.RAM),
        lambda machine: machine.m2p.set_runs(one(9), one(2), one(1)),
        lambda machine: machine.heap.alloc(0),
    ],
    ids=["arena", "owner", "use", "m2p", "heap"],
)
@pytest.mark.parametrize("frames", [1 << 14, 1 << 14 | 7], ids=["whole pages", "a part of a page"])
def test_each_part_of_a_machine_counts(change, frames):
    with Machine(frames << 12) as machine:
        before = machine.digest()
        change(machine)
        assert machine.digest() != before


def test_the_order_of_a_heap_list_counts():
    def digest_after(machine, order):
        blocks = sorted(machine.heap.alloc(0) for _ in range(8))[1::2]
        for place in order:
            machine.heap.free(blocks[place], 0)
        digest, free = machine.digest(), machine.heap.blocks()
        for _ in order:
            machine.heap.alloc(0)
        return digest, free

    with Machine("64MiB") as machine:
        one_way = digest_after(machine, [0, 1, 2, 3])
    with Machine("64MiB") as machine:
        other_way = digest_after(machine, [3, 2, 1, 0])
    assert one_way[1] == other_way[1]
    assert one_way[0] != other_way[0]


@pytest.mark.medium
def test_it_is_what_its_definition_says(machine):
    """The definition again, word for word and page for page."""
    build(machine.create_domain("8MiB", options=DomainOptions(layout="flat")))
    machine.domains[1].write(0x1234, b"contents")
    before = machine.digest()
    digest = hashlib.sha256(b"twofold machine 2\n")
    for name, value in machine.digest_fields():
        if not isinstance(value, np.ndarray | Arena):
            numbers = [] if value is None else [value] if isinstance(value, int) else value
            text = value if isinstance(value, str) else ",".join(str(number) for number in numbers)
            digest.update(f"{name}={text}\n".encode())
            continue
        length = value.frames if isinstance(value, Arena) else len(value)
        data = value.read(0, length << 12) if isinstance(value, Arena) else value.tobytes()
        digest.update(f"{name}[{length}]\n".encode())
        for start in range(0, len(data), FRAME_BYTES):
            page = data[start : start + FRAME_BYTES].ljust(FRAME_BYTES, b"\0")
            if any(page):
                digest.update((start // FRAME_BYTES).to_bytes(8, "little") + page)
        digest.update(b"\xff" * 8)
    assert before == digest.hexdigest()


@pytest.mark.parametrize("seed", [-5, 1 << 100, ("x", 2), None, np.arange(4).reshape(2, 2)], ids=str)
def test_a_seed_may_be_whatever_it_is(seed):
    """A journal from anywhere says what it was."""
    with Machine("4MiB", seed=seed) as machine, Machine("4MiB", seed=1) as other:
        assert machine.digest() != other.digest()
