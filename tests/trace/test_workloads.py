"""The workload generators: fast against plain, blocks against long runs, and what each sequence is for."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold import kernels as kernels_package
from twofold import spec as spec_package
from twofold.errors import SizeError, UnknownNameError
from twofold.formats.workloads import KEEP
from twofold.spec import workloads as spec
from twofold.spec.requests import scatter, zipf_rank
from twofold.trace import AREA_BASE, DEFAULT_WORKLOADS, WORKLOADS, get_workload
from twofold.trace.workloads import BLOCK_ACCESSES
from twofold.trace.zipf import DEFAULT_SKEW, zipf_table

NAMES = sorted(WORKLOADS)
MIB = 1 << 20

seeds = st.integers(0, 2**64 - 1)
footprints = st.integers(16, 40).map(lambda bits: 1 << bits)
starts = st.integers(0, 2**48)


def run(package, name, seed, footprint, start, steps):
    """Return what one twin writes for these steps."""
    workload = WORKLOADS[name]
    gvas = np.zeros(steps * workload.accesses_per_step, np.uint64)
    scalars = (np.uint64(number) for number in (seed, AREA_BASE, footprint, start))
    tables = (zipf_table(DEFAULT_SKEW),) if workload.is_skewed else ()
    twins = package.requests if workload.is_skewed else package.workloads
    getattr(twins, f"generate_{name}")(*scalars, *tables, gvas)
    return gvas


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)  # the first call compiles
@given(seed=seeds, footprint=footprints, start=starts, steps=st.integers(0, 50))
def test_the_kernel_writes_what_the_spec_writes(name, seed, footprint, start, steps):
    fast = run(kernels_package, name, seed, footprint, start, steps)
    np.testing.assert_array_equal(fast, run(spec_package, name, seed, footprint, start, steps))


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


def test_following_the_addresses_of_sort_sorts_its_input_then_sorts_it_again():
    seed, footprint = 11, 64 << 10
    words, base = footprint // 32, AREA_BASE
    passes = words.bit_length() - 1
    memory = {base + index * 8: spec.sort_key(index, words, seed) for index in range(words)}
    steps = WORKLOADS["sort"].addresses(seed, base, footprint, passes * words + 1).reshape(-1, 3).tolist()
    for left, right, out in steps[:-1]:
        memory[out] = min(memory[left], memory[right])
    buffer = base + (1 + (passes - 1) % 2) * footprint // 4
    assert [memory[buffer + index * 8] for index in range(words)] == list(range(words))
    assert [memory[base + index * 8] for index in range(words)] != list(range(words)), "the input stays"
    assert steps[-1] == steps[0]


def test_the_input_of_sort_is_in_no_order():
    keys = np.array([spec.sort_key(index, 4096, 5) for index in range(4096)])
    assert sorted(keys.tolist()) == list(range(4096))
    assert 0.45 < np.mean(keys[1:] > keys[:-1]) < 0.55
    assert abs(np.corrcoef(keys, np.arange(4096))[0, 1]) < 0.1


def test_bfs_finds_every_vertex_once_and_few_have_most_of_the_edges():
    bits, seed = 12, 9
    vertices = 1 << bits
    gvas = WORKLOADS["bfs"].addresses(seed, AREA_BASE, 128 * vertices, vertices).reshape(vertices, 35)
    heads = gvas[:, 0]
    np.testing.assert_array_equal(np.diff(heads), 8)
    scanned = (gvas[:, 1] - np.uint64(AREA_BASE + 64 * vertices)) // np.uint64(8)
    assert sorted(scanned.tolist()) == list(range(vertices))
    ends = (gvas[:, 4::4] - np.uint64(AREA_BASE + 64 * vertices)) // np.uint64(8)
    found, order = {int(scanned[0])}, [int(scanned[0])]
    for row in ends.tolist():
        for end in row:
            if end not in found:
                found.add(end)
                order.append(end)
    assert order == scanned.tolist(), "in the order in which they are scanned"
    degrees = np.sort(np.bincount(ends.reshape(-1).astype(int), minlength=vertices))[::-1]
    assert degrees[:41].sum() > 0.35 * degrees.sum(), "one vertex in a hundred has over a third of the edges"


def test_matmul_multiplies_every_pair_once_a_round():
    footprint = 64 << 10
    rows, inner = 32, 64
    steps = rows * rows * inner
    gvas = WORKLOADS["matmul"].addresses(0, AREA_BASE, footprint, 2 * steps).reshape(2, steps, 4) - np.uint64(AREA_BASE)
    np.testing.assert_array_equal(gvas[0], gvas[1])
    a, b, c = (gvas[0, :, matrix] % np.uint64(footprint // 4) // np.uint64(8) for matrix in range(3))
    assert set(zip(a // inner, a % inner, b // rows, b % rows, c // rows, c % rows, strict=True)) == {
        (i, k, k, j, i, j) for i in range(rows) for j in range(rows) for k in range(inner)
    }


# -- ranks by Zipf -----------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("skew", [0, 0.5, 0.99, 1, 1.3, 2])
def test_each_rank_has_the_probability_that_zipf_gives_it(skew):
    """From the table itself: an octave's share, over its ranks, times the probability to keep one."""
    octaves = 14
    table = zipf_table(skew).tolist()
    shares = np.diff([0, *(Fraction(bound, table[octaves - 1]) for bound in table[:octaves])])
    chances = []
    for rank in range(1, 1 << octaves):
        octave = rank.bit_length() - 1
        place, rest = divmod((rank - (1 << octave)) << 11, 1 << octave)
        high, low = table[KEEP + place], table[KEEP + place + 1]
        chances.append(float(shares[octave] / 2**octave * (high - ((high - low) * rest >> octave))))
    ranks = np.arange(1, 1 << octaves, dtype=float)
    found, wanted = np.array(chances) / sum(chances), ranks**-skew / np.sum(ranks**-skew)
    assert np.abs(found / wanted - 1).max() < 2**-22


@pytest.mark.medium
@pytest.mark.parametrize("skew", [0, 0.8, 0.99, 1.5])
def test_drawn_ranks_come_as_often_as_zipf_says(skew):
    octaves, draws = 7, 200_000
    table = zipf_table(skew)
    gvas = WORKLOADS["kv"].addresses(5, 0, 64 << 10, draws, skew=skew)[::8]
    place_of = {scatter(rank, octaves) << 7: rank for rank in range(1, 1 << octaves)}
    counts = np.bincount([place_of[gva] for gva in gvas.tolist()], minlength=1 << octaves)[1:]
    weights = np.arange(1, 1 << octaves) ** -float(skew)
    expected = draws * weights / weights.sum()
    chi_square = float(np.sum((counts - expected) ** 2 / expected))
    degrees = len(counts) - 1
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)
    assert zipf_rank(5, 0, octaves, table) == place_of[int(gvas[0])]


def test_a_record_is_scattered_to_a_place_of_its_own():
    for bits in (3, 7, 12):
        assert len({scatter(rank, bits) for rank in range(1 << bits)}) == 1 << bits


@pytest.mark.parametrize("skew", [-0.1, 2.01, float("nan")])
def test_a_skew_that_cannot_be_is_refused(skew):
    with pytest.raises(SizeError, match="is no skew"):
        WORKLOADS["kv"].addresses(0, AREA_BASE, MIB, 1, skew=skew)


def test_a_workload_without_a_choice_of_skew_says_so():
    with pytest.raises(SizeError, match="gups, which has no choice of it"):
        WORKLOADS["gups"].addresses(0, AREA_BASE, MIB, 1, skew=0.5)
    for name in ("kv", "web"):
        with pytest.raises(SizeError, match="more keys than"):
            WORKLOADS[name].addresses(0, AREA_BASE, 1 << 42, 1)


@pytest.mark.medium
@pytest.mark.parametrize("name", ["kv", "web"])
def test_more_skew_touches_fewer_pages(name):
    workload = WORKLOADS[name]
    touched = [
        len(np.unique(workload.addresses(1, 0, 1 << 30, 20_000, skew=skew) >> np.uint64(12)))
        for skew in (0, 0.5, 1, 1.5)
    ]
    assert touched == sorted(touched, reverse=True)
    assert touched[0] > 1.5 * touched[-1]


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
    assert caught.value.known == ("gups", "chase", "lookup", "stream", "sort", "bfs", "matmul", "kv", "web")
    assert DEFAULT_WORKLOADS == ("gups", "chase", "lookup", "stream"), "what a comparison runs"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("accesses", [0, 1, 36, 70_000, 3_000_000])
def test_blocks_of_a_workload_are_as_long_as_asked(name, accesses):
    workload = WORKLOADS[name]
    blocks = list(workload.blocks(3, AREA_BASE, MIB, accesses))
    assert sum(map(len, blocks)) == accesses
    assert all(len(block) <= BLOCK_ACCESSES for block in blocks)
    if 0 < accesses < 100_000:
        steps = -(-accesses // workload.accesses_per_step)
        np.testing.assert_array_equal(np.concatenate(blocks), workload.addresses(3, AREA_BASE, MIB, steps)[:accesses])
