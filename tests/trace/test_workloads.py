"""The workload generators: fast against plain, blocks against long runs, and what each sequence is for."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.errors import SizeError, UnknownNameError
from twofold.kernels import workloads as kernels
from twofold.spec import workloads as spec
from twofold.trace import AREA_BASE, WORKLOADS, get_workload

NAMES = sorted(WORKLOADS)
MIB = 1 << 20

seeds = st.integers(0, 2**64 - 1)
footprints = st.integers(16, 40).map(lambda bits: 1 << bits)
starts = st.integers(0, 2**48)


def run(engine, name, seed, footprint, start, steps):
    """Return what one twin writes for these steps."""
    gvas = np.zeros(steps * WORKLOADS[name].accesses_per_step, np.uint64)
    scalars = (np.uint64(number) for number in (seed, AREA_BASE, footprint, start))
    getattr(engine, f"generate_{name}")(*scalars, gvas)
    return gvas


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)  # the first call compiles
@given(seed=seeds, footprint=footprints, start=starts, steps=st.integers(0, 50))
def test_the_kernel_writes_what_the_spec_writes(name, seed, footprint, start, steps):
    fast = run(kernels, name, seed, footprint, start, steps)
    np.testing.assert_array_equal(fast, run(spec, name, seed, footprint, start, steps))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(seed=seeds, footprint=footprints, start=starts, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_blocks_joined_are_one_long_run(name, seed, footprint, start, cuts):
    workload = WORKLOADS[name]
    edges = [0, *sorted(cuts), 40]
    blocks = [
        workload.addresses(seed, AREA_BASE, footprint, end - begin, start + begin) for begin, end in pairwise(edges)
    ]
    whole = workload.addresses(seed, AREA_BASE, footprint, 40, start)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(seed=seeds, footprint=footprints, start=starts)
def test_every_access_is_an_aligned_word_inside_the_area(name, seed, footprint, start):
    workload = WORKLOADS[name]
    gvas = workload.addresses(seed, AREA_BASE, footprint, 64, start).reshape(64, -1)
    assert gvas.min() >= AREA_BASE
    assert gvas.max() < AREA_BASE + footprint
    assert not np.any(gvas % np.uint64(8))
    assert not np.any(gvas[:, 0] % np.uint64(workload.node_bytes)), "a step starts at its node"


def test_random_numbers_are_those_of_the_published_generator():
    # The first five outputs for this seed, as every implementation of splitmix64 lists them.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [spec.random64(1234567, step) for step in range(5)] == published


@settings(deadline=None)
@given(seed=seeds)
def test_chase_visits_every_node_once_a_round_then_repeats(seed):
    nodes = MIB // 64
    gvas = WORKLOADS["chase"].addresses(seed, AREA_BASE, MIB, 2 * nodes)
    assert len(np.unique(gvas[:nodes])) == nodes
    np.testing.assert_array_equal(gvas[:nodes], gvas[nodes:])


def test_chase_ends_where_its_closed_form_says():
    chase = WORKLOADS["chase"]
    for steps in (0, 1, 2, 1000, 2**40 + 12345):
        (gva,) = chase.addresses(7, AREA_BASE, MIB, 1, start=steps).tolist()
        assert gva == chase.answer(7, AREA_BASE, MIB, steps)


def test_lookup_gives_each_rank_a_slot_of_its_own_and_each_octave_an_equal_share():
    steps, octaves = 200_000, 14
    ranks = [spec.lookup_rank(spec.random64(1, step), octaves) for step in range(steps)]
    gvas = WORKLOADS["lookup"].addresses(1, AREA_BASE, 64 << octaves, steps)[::2]
    assert len({*zip(ranks, gvas.tolist(), strict=True)}) == len({*ranks}) == len(np.unique(gvas))
    shares = np.bincount([rank.bit_length() for rank in ranks])[1:] * octaves / steps
    assert len(shares) == octaves
    assert shares.min() > 0.95
    assert shares.max() < 1.05


def test_gups_touches_all_parts_of_its_table_alike():
    gvas = WORKLOADS["gups"].addresses(1, AREA_BASE, 1 << 30, 160_000)[::2]
    parts = np.bincount((gvas - np.uint64(AREA_BASE)) >> np.uint64(26), minlength=16)
    assert len(parts) == 16
    assert parts.min() > 9_500
    assert parts.max() < 10_500


def test_the_answer_of_stream_is_the_sum_that_the_loop_makes():
    stream, seed, lines = WORKLOADS["stream"], 2**64 - 3, (64 << 10) // 64
    words, total = [0] * lines, 0
    for step in range(3 * lines + 17):
        assert total % 2**64 == stream.answer(seed, AREA_BASE, 64 << 10, step)
        words[step % lines] += step + seed
        total += words[step % lines]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("footprint", [0, 32 << 10, 96 << 10, MIB + 64, -MIB])
def test_a_footprint_that_cannot_mask_an_index_is_refused(name, footprint):
    workload = WORKLOADS[name]
    with pytest.raises(SizeError, match="power of two of at least 64KiB"):
        workload.addresses(0, AREA_BASE, footprint, 1)
    with pytest.raises(SizeError, match="power of two of at least 64KiB"):
        workload.answer(0, AREA_BASE, footprint, 1)


def test_an_unknown_workload_is_named_with_those_that_exist():
    assert get_workload("gups") is WORKLOADS["gups"]
    with pytest.raises(UnknownNameError) as caught:
        get_workload("spec2006")
    assert caught.value.kind == "workload"
    assert caught.value.known == ("gups", "chase", "lookup", "stream")
