"""Building a domain: Xen's vectors, the three designs, exact ranges, and giving everything back."""

import sys

import pytest

from twofold import kernels
from twofold.domain import DomainOptions, Exact, Machine, Mem, build, design_names, get_design
from twofold.errors import BuildError, SizeError, UnknownNameError
from twofold.freemaps import FreeMap

DESIGNS = ["small", "toolstack", "opportunistic"]
WAYS = [("small", None), ("toolstack", None), ("toolstack", "builder"), ("opportunistic", None)]


@pytest.mark.parametrize(
    ("layout", "size", "leaves"),
    [
        ("hvm", "1GiB", {0: 480 + 16, 9: 511, 18: 0}),
        ("hvm", "4GiB", {0: 480 + 16, 9: 1023, 18: 2}),
        ("hvm", "8GiB", {0: 480 + 16, 9: 1023, 18: 6}),
        ("hvm", (513 << 20) + 4096, {0: 480 + 257 + 16, 9: 255, 18: 0}),
        ("pvh", "4GiB", {0: 17, 9: 512, 18: 3}),
    ],
)
def test_xens_builder_vectors_are_met(layout, size, leaves):
    with Machine("16GiB") as machine:
        domain = machine.create_domain(size, options=DomainOptions(layout=layout))
        built = build(domain, "toolstack", fallback="builder")
        assert built.leaves == leaves
        assert built.extents_failed == {}
        assert domain.p2m.audit().clean


def machine_without_a_free_gib() -> Machine:
    """Return a machine of 16 GiB with one frame of each GiB missing."""
    gib = 1 << 18
    starts = [gib * number + 1 for number in range(16)]
    return Machine(free=FreeMap(starts, [gib - 1] * 16, 16 * gib, "synthetic"))


def test_a_refused_1g_extent_becomes_128_calls_of_four_2m_extents():
    with machine_without_a_free_gib() as machine:
        domain = machine.create_domain("4GiB")
        built = build(domain, "toolstack", fallback="builder")
        assert built.leaves == {0: 17, 9: 2048, 18: 0}
        assert built.extents_failed == {18: 3}
        assert built.extents_asked == {0: 17, 9: 2048, 18: 3}
        # three refused 1G calls, 128 batches for each of those GiB, 120 + 8 for the rest, and two for special pages
        assert built.calls == 3 + 3 * 128 + 128 + 2


def test_a_batch_that_gets_some_of_its_2m_extents_makes_the_rest_4k_and_the_next_batch_tries_again():
    # Two whole 2M blocks, then runs of 511 frames; the table pool takes some of those.
    starts = [0, *(1024 + 512 * number + 1 for number in range(20))]
    with Machine(free=FreeMap(starts, [1024] + [511] * 20, 1 << 14, "synthetic")) as machine:
        domain = machine.create_domain("16MiB", options=DomainOptions(layout="flat", table_pool=32))
        assert machine.heap.free_blocks()[10] == 1
        built = build(domain, "toolstack", fallback="builder")
        assert built.leaves == {0: 6 * 512, 9: 2, 18: 0}
        assert built.extents_asked == {0: 2 * 512 + 4 * 512, 9: 8}
        assert built.extents_failed == {9: 2 + 4}
        assert built.calls == 4


def shapes():
    """Return host states by name: maps of free memory."""
    return {
        "fresh": lambda: FreeMap.empty_machine("8GiB"),
        "synthetic": lambda: FreeMap.synthetic("8GiB", free_share=0.5, fragmentation=0.4, seed=3),
        "splinters": lambda: FreeMap.synthetic("4GiB", free_share=0.4, fragmentation=1.0, seed=1),
        "recorded": lambda: FreeMap.shipped("fragmented"),
    }


@pytest.mark.medium
@pytest.mark.parametrize(
    ("shape", "layout"),
    [("fresh", "pvh"), ("fresh", "flat"), ("synthetic", "hvm"), ("splinters", "pvh"), ("recorded", "hvm")],
)
def test_designs_differ_in_page_sizes_and_in_nothing_else(shape, layout):
    free, seen = shapes()[shape](), []
    for design, fallback in WAYS:
        with Machine(free=free) as machine:
            domain = machine.create_domain("1500MiB", options=DomainOptions(layout=layout))
            built = build(domain, design, fallback=fallback)
            wanted = [*domain.layout.ram(domain.frames), *domain.layout.special]
            assert sum(count << order for order, count in built.leaves.items()) == sum(r.frames for r in wanted)
            assert domain.memory.owned_frames == sum(r.frames for r in wanted)
            for part in wanted:
                assert domain.p2m.runs(part.gfn, part.frames)[2].sum() == part.frames
            report = domain.p2m.audit()
            assert report.clean
            assert report.orphans == 0
            seen.append((design, fallback, built))
    small, toolstack, builder, opportunistic = (built for _, _, built in seen)
    assert small.leaves[9] == small.leaves[18] == 0
    assert small.large_share == 0
    if shape == "fresh":
        assert toolstack.leaves == builder.leaves == opportunistic.leaves
        assert toolstack.large_share > 0.99
    for large in (toolstack, builder, opportunistic):
        assert (large.leaves[9] + large.leaves[18] > 0) is (shape != "splinters")
        assert large.tables < small.tables or shape == "splinters"


@pytest.mark.parametrize(("design", "fallback"), WAYS)
def test_calls_are_counted(design, fallback):
    with Machine("8GiB") as machine:
        domain = machine.create_domain("2050MiB", options=DomainOptions(layout="flat"))
        built = build(domain, design, fallback=fallback)
        # 2 x 1G and 1 x 2M: one call for each order, or for each extent where the builder goes in batches
        assert built.calls == {"small": 1, "toolstack": 3 if fallback else 2, "opportunistic": 1}[design]
        asked = {0: 2050 << 8} if design == "small" else {9: 1, 18: 2}
        assert built.extents_asked == asked


@pytest.mark.parametrize(("design", "fallback"), WAYS)
def test_an_exact_range_keeps_its_order_in_every_design(design, fallback):
    with Machine("8GiB") as machine:
        domain = machine.create_domain("3GiB")
        exact = [Exact("1GiB", "8MiB", "4K"), Exact("1040MiB", "64MiB", "2M"), Exact("2GiB", "1GiB", "1G")]
        build(domain, design, fallback=fallback, exact=exact)
        leaves = domain.p2m.leaf_array()
        for each in exact:
            inside = (leaves["gfn"] >= each.range.gfn) & (leaves["gfn"] < each.range.end)
            assert set(leaves["order"][inside].tolist()) == {each.order}
            assert inside.sum() << each.order == each.range.frames
        assert domain.p2m.audit().clean
        total = int((1 << leaves["order"].astype(int)).sum())
        assert total == domain.frames + 17


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(
    ("exact", "problem"),
    [
        ([Exact("1GiB", "1GiB", "1G")], "switched off"),
        ([Exact("1GiB", "4MiB", "4M")], "switched off"),
        ([Exact("1025MiB", "2MiB", "2M")], "aligned"),
        ([Exact("1GiB", "3MiB", "2M")], "aligned"),
        ([Exact("1GiB", 0, "2M")], "aligned"),
        ([Exact("2047MiB", "2MiB", "4K")], "RAM"),
        ([Exact("1GiB", "4MiB", "2M"), Exact("1026MiB", "2MiB", "4K")], "overlaps"),
    ],
)
def test_what_cannot_be_exact_is_refused_before_anything_is_built(design, exact, problem):
    with Machine("4GiB", page_sizes="4K,2M") as machine:
        domain = machine.create_domain("2GiB")
        before = machine.heap.blocks()
        with pytest.raises(SizeError, match=problem):
            build(domain, design, exact=exact)
        assert machine.heap.blocks() == before
        assert domain.memory.counters.calls.total() == 0
        assert domain.p2m.leaves() == {0: 0, 9: 0, 18: 0}


def test_an_exact_order_that_the_machine_lacks_fails_the_build_and_gives_all_back():
    with machine_without_a_free_gib() as machine:
        domain = machine.create_domain("2GiB")
        before = machine.heap.blocks()
        with pytest.raises(BuildError, match="exact range at gfn 0x40000: no free block"):
            build(domain, "toolstack", exact=[Exact("0GiB", "2MiB", "2M"), Exact("1GiB", "1GiB", "1G")])
        assert machine.heap.blocks() == before


@pytest.mark.parametrize("design", DESIGNS)
def test_a_guest_larger_than_the_host_is_refused_and_the_heap_is_as_before(design):
    with Machine("2GiB") as machine:
        domain = machine.create_domain("2GiB", options=DomainOptions(table_pool=64))
        before = machine.heap.blocks()
        with pytest.raises(BuildError, match="make the guest smaller"):
            build(domain, design)
        assert machine.heap.blocks() == before
        domain.destroy()
        assert machine.heap.free_blocks() == {19: 1}


@pytest.mark.parametrize(("design", "fallback"), WAYS)
@pytest.mark.parametrize("options", [{"table_pool": 5}, {"max_pages": 5000}])
def test_a_build_that_runs_into_a_limit_gives_everything_back(design, fallback, options):
    with Machine("2GiB") as machine:
        domain = machine.create_domain("1GiB", options=DomainOptions(layout="hvm", **options))
        before = machine.heap.blocks(), domain.pool.free
        with pytest.raises(BuildError, match=r"table pool is empty|max_pages"):
            build(domain, design, fallback=fallback)
        assert (machine.heap.blocks(), domain.pool.free) == before
        assert domain.memory.owned_frames == 0
        assert not machine.frame_table.owner[machine.frame_table.use == 1].any()
        assert not machine.m2p.complement.any()


class Interrupted:
    """A design in whose middle somebody presses Ctrl-C."""

    name = "interrupted"

    def populate(self, populate, gfns, layout):
        populate(range(gfns.start, gfns.start + 2048, 512), 9, Mem.FALLBACK)
        populate(range(gfns.start + 2048, gfns.start + 2100), 0)
        raise KeyboardInterrupt


def test_ctrl_c_in_the_middle_of_a_build_gives_everything_back():
    with Machine("2GiB") as machine:
        domain = machine.create_domain("1GiB")
        before = machine.heap.blocks(), domain.pool.free
        with pytest.raises(KeyboardInterrupt):
            build(domain, Interrupted(), exact=[Exact("512MiB", "4MiB")])
        assert (machine.heap.blocks(), domain.pool.free) == before
        assert domain.p2m.leaves() == {0: 0, 9: 0, 18: 0}
        built = build(domain, "toolstack")
        assert built.leaves == {0: 17, 9: 0, 18: 1}


class Alternating:
    """A third party's design: 2M and 4K in turns."""

    name = "alternating"

    def populate(self, populate, gfns, layout):
        for gfn in range(gfns.start, gfns.stop, 1024):
            assert populate(range(gfn, gfn + 512, 512), 9).complete
            assert populate(range(gfn + 512, gfn + 1024), 0).complete


def test_a_design_of_ones_own_decides_every_page():
    with Machine("1GiB") as machine:
        domain = machine.create_domain("64MiB", options=DomainOptions(layout="flat"))
        built = build(domain, Alternating())
        assert built.leaves == {0: 16 * 512, 9: 16, 18: 0}
        assert built.calls == 32


class Forgetful:
    name = "forgetful"

    def populate(self, populate, gfns, layout):
        populate(range(gfns.start + 1, gfns.stop), 0)


def test_a_design_that_leaves_something_out_fails_the_build():
    with Machine("1GiB") as machine:
        domain = machine.create_domain("64MiB", options=DomainOptions(layout="flat"))
        before = machine.heap.blocks()
        with pytest.raises(BuildError, match=r"1 of 16384 frames at gfn 0x0 .* the design left them out"):
            build(domain, Forgetful())
        assert machine.heap.blocks() == before


def test_the_built_in_designs_are_entry_points():
    assert design_names()[:3] == ("small", "toolstack", "opportunistic")
    assert [type(get_design(name)).__name__ for name in DESIGNS] == [
        "SmallDesign",
        "ToolstackDesign",
        "OpportunisticDesign",
    ]


def test_a_design_that_another_package_installs_is_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "house_designs.py").write_text(
        "class House:\n"
        "    name = 'house'\n"
        "    def populate(self, populate, gfns, layout):\n"
        "        populate(range(gfns.start, gfns.stop, 512), 9)\n"
    )
    info = tmp_path / "house_designs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-designs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[twofold.designs]\nhouse = house_designs:House\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert design_names() == ("small", "toolstack", "opportunistic", "house")
    with Machine("1GiB") as machine:
        domain = machine.create_domain("64MiB", options=DomainOptions(layout="flat"))
        assert build(domain, "house").leaves == {0: 0, 9: 32, 18: 0}
    monkeypatch.delitem(sys.modules, "house_designs")


def test_an_unknown_design_or_fallback_is_named_with_those_that_exist():
    with Machine("64MiB") as machine:
        domain = machine.create_domain("16MiB")
        with pytest.raises(UnknownNameError, match="unknown design 'huge'; known are small, toolstack"):
            build(domain, "huge")
        with pytest.raises(UnknownNameError):
            build(domain, "toolstack", fallback="prayer")
        with pytest.raises(UnknownNameError):
            build(domain, "small", fallback="builder")
        assert domain.memory.counters.calls.total() == 0


def test_building_gives_the_same_tables_on_both_engines(engine):
    free = FreeMap.synthetic("256MiB", free_share=0.7, fragmentation=0.4, seed=5)
    answers = []
    for each in (engine, kernels):
        with Machine(free=free, engine=each) as machine:
            domain = machine.create_domain("64MiB", options=DomainOptions(layout="hvm"))
            built = build(domain, "opportunistic")
            answers.append((built, domain.p2m.leaf_array().tolist(), machine.heap.blocks()))
    assert answers[0] == answers[1]
