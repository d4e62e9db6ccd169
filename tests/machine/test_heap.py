"""The buddy heap against a dict of owned extents, and what it promises about order."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from snapshots import assert_heap_is_canonical
from twofold import kernels, spec
from twofold.errors import AddressError, HeapExhaustedError, OwnershipError
from twofold.freemaps import FreeMap
from twofold.machine import Heap

# Three runs of free memory with holes between them; the machine's end is odd.
RUNS = [(3, 200), (256, 600), (1000, 1301)]
FRAMES = 2305


def make_heap(engine) -> Heap:
    return Heap(FreeMap([start for start, _ in RUNS], [length for _, length in RUNS], FRAMES, "synthetic"), engine)


class HeapModel(RuleBasedStateMachine):
    """The heap, and a dict of the extents that it gave away."""

    engine = kernels

    def __init__(self):
        super().__init__()
        self.heap = make_heap(self.engine)
        self.owned: dict[int, int] = {}
        self.whole = {mfn for start, length in RUNS for mfn in range(start, start + length)}

    def frames(self) -> set[int]:
        return {mfn for head, order in self.owned.items() for mfn in range(head, head + (1 << order))}

    def own(self, mfn: int, order: int) -> None:
        assert mfn % (1 << order) == 0, "an extent is naturally aligned"
        extent = set(range(mfn, mfn + (1 << order)))
        assert extent <= self.whole
        assert not extent & self.frames(), "no frame is given twice"
        self.owned[mfn] = order

    @rule(order=st.integers(0, 10))
    def alloc(self, order):
        largest = max(self.heap.free_blocks(), default=-1)
        if largest >= order:
            self.own(self.heap.alloc(order), order)
            return
        with pytest.raises(HeapExhaustedError) as caught:
            self.heap.alloc(order)
        assert (caught.value.order, caught.value.wanted_frames) == (order, 1 << order)

    @rule(order=st.integers(0, 10), extents=st.integers(0, 200))
    def alloc_runs(self, order, extents):
        possible = sum(count << (each - order) for each, count in self.heap.free_blocks().items() if each >= order)
        mfns, counts = self.heap.alloc_runs(order, extents)
        assert counts.sum() == min(extents, possible)
        for start, count in zip(mfns.tolist(), counts.tolist(), strict=True):
            for mfn in range(start, start + (count << order), 1 << order):
                self.own(mfn, order)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def free(self, data):
        mfn = data.draw(st.sampled_from(sorted(self.owned)))
        self.heap.free(mfn, self.owned.pop(mfn))

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def free_runs(self, data):
        mfns = data.draw(st.lists(st.sampled_from(sorted(self.owned)), unique=True))
        lengths = [1 << self.owned.pop(mfn) for mfn in mfns]
        self.heap.free_runs(np.array(mfns, np.uint64), np.array(lengths, np.uint64))

    @precondition(lambda self: self.whole - self.frames())
    @rule(data=st.data())
    def freeing_what_is_free_is_refused(self, data):
        mfn = data.draw(st.sampled_from(sorted(self.whole - self.frames())))
        with pytest.raises(OwnershipError):
            self.heap.free(mfn, 0)

    @invariant()
    def free_and_owned_are_all(self):
        blocks = self.heap.blocks()
        free = {mfn for head, order in blocks for mfn in range(head, head + (1 << order))}
        assert free == self.whole - self.frames()
        assert self.heap.free_frames == len(free)
        assert_heap_is_canonical(self.heap)


@pytest.mark.medium
@pytest.mark.parametrize("twin", [spec, kernels], ids=["spec", "kernels"])
def test_the_heap_keeps_to_its_model(twin):
    model = type("Model", (HeapModel,), {"engine": twin})
    run_state_machine_as_test(model, settings=settings(max_examples=15))


@pytest.mark.slow
@pytest.mark.parametrize("twin", [spec, kernels], ids=["spec", "kernels"])
def test_the_heap_keeps_to_its_model_for_long(twin):
    model = type("Model", (HeapModel,), {"engine": twin})
    run_state_machine_as_test(model, settings=settings.get_profile("long"))


def test_neighbouring_extents_ascend(engine):
    heap = Heap(FreeMap.empty_machine("64MiB"), engine)
    assert [heap.alloc(9) for _ in range(4)] == [0, 512, 1024, 1536]
    assert heap.alloc_runs(0, 1000)[0].tolist() == [2048]


def test_a_small_request_breaks_the_smallest_block_that_will_do(engine):
    heap = Heap(FreeMap([8, 512], [4, 512], 1024, "synthetic"), engine)
    assert heap.alloc(1) == 8
    assert heap.free_blocks() == {1: 1, 9: 1}


def test_all_that_is_freed_merges_back_whatever_the_order(engine):
    heap = Heap(FreeMap.empty_machine("1MiB"), engine)
    mfns = [heap.alloc(0) for _ in range(256)]
    assert sorted(mfns) == list(range(256))
    assert heap.free_frames == 0
    for mfn in np.random.Generator(np.random.PCG64(1)).permutation(mfns).tolist():
        heap.free(mfn, 0)
    assert heap.blocks() == [(0, 8)]


def test_no_block_is_larger_than_4_gib(engine):
    heap = Heap(FreeMap.empty_machine("12GiB"), engine)
    assert heap.blocks() == [(0, 20), (1 << 20, 20), (2 << 20, 20)]
    with pytest.raises(AddressError, match="order 0x15"):
        heap.alloc(21)


@pytest.mark.parametrize(("mfn", "order"), [(1, 1), (-1, 0), (-512, 9), (256, 0), (0, 9), (255, 1)])
def test_what_is_no_block_of_the_machine_cannot_be_freed(engine, mfn, order):
    heap = Heap(FreeMap.empty_machine("1MiB"), engine)
    heap.alloc(8)
    with pytest.raises(AddressError):
        heap.free(mfn, order)
    assert heap.free_frames == 0


def test_an_exhausted_heap_says_what_is_left(engine):
    heap = Heap(FreeMap([0, 3], [2, 2], 8, "synthetic"), engine)
    with pytest.raises(HeapExhaustedError, match="4 frames at order 2: 4 frames are free"):
        heap.alloc(2)
    assert heap.free_blocks() == {0: 2, 1: 1}


def test_a_block_with_free_frames_inside_cannot_be_freed(engine):
    heap = Heap(FreeMap.empty_machine("64KiB"), engine)
    mfns = [heap.alloc(1) for _ in range(8)]
    heap.free(mfns[1], 1)
    with pytest.raises(OwnershipError):
        heap.free(0, 2)
    assert heap.blocks() == [(2, 1)]
