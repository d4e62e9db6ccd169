"""The change feed: whoever listens knows what the tables hold, in every format, and each flush says what it covers."""

import ast
import inspect

import numpy as np
import pytest
from feed_model import Mirror, RandomChanges, pairs

from kinds import FORMATS
from twofold import spec
from twofold.domain import DomainOptions, Machine, build
from twofold.errors import EncodingError, ListenerError, P2MTypeError, PoolExhaustedError
from twofold.p2m import ChangeKind, P2MType, changes, edits, table
from twofold.p2m.edits import Editor
from twofold.units import INVALID_MFN


def live(name: str, steps: int, seed: int = 1, *, before: bool = True, **how) -> Mirror:
    """Let a P2M live with a mirror beside it, which is held to the tables after every step."""
    life = RandomChanges(name, seed, **how)
    mirror = Mirror(life.p2m, before=before)
    for _ in range(steps):
        life.step()
        mirror.check()
    life.machine.close()
    return mirror


@pytest.mark.medium
@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_listener_that_keeps_a_dict_has_what_the_tables_have(name, before, behaviour):
    mirror = live(name, 80, before=before, behaviour=behaviour)
    assert len(mirror.changes) > 25
    assert len(mirror.flushes) > 10


@pytest.mark.medium
@pytest.mark.parametrize("name", FORMATS)
def test_it_has_with_the_readable_twin_too(name):
    assert live(name, 25, 3, engine=spec, pool=12).changes


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["twofold", "xen-4.17"])
@pytest.mark.parametrize("name", FORMATS)
def test_it_has_for_long(name, behaviour):
    kinds = set()
    for seed in range(10, 18):
        kinds |= {change.kind for change in live(name, 300, seed, before=seed % 2 == 0, behaviour=behaviour).changes}
    assert kinds == set(ChangeKind)


def live_until_it_fails() -> None:
    for seed in range(20):
        live("npt", 60, seed)


# -- a change that is not told is noticed -------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("edit", sorted(Editor.NAMES))
def test_a_change_that_is_not_told_is_noticed(edit, monkeypatch):
    """Each mutant lets the kernel work and tells nothing of it."""
    monkeypatch.setattr(Editor, f"_{edit}", lambda self, kind, kernel, arguments: kernel(*arguments))
    with pytest.raises(AssertionError):
        live_until_it_fails()


@pytest.mark.parametrize("lost", ["rest", "flush", "before"])
def test_a_part_that_is_not_told_is_noticed(lost, monkeypatch):
    """What is left of a leaf that was cut, the ranges of a flush, and what stood there."""
    tell, owe = Editor._tell, Editor._owe
    if lost == "rest":
        monkeypatch.setattr(Editor, "_tell", lambda s, k, asked, rest, *r: tell(s, k, asked, edits.NONE, *r))
    elif lost == "flush":
        monkeypatch.setattr(Editor, "_owe", lambda self, seen, also: owe(self, edits._NOTHING, also))
    else:
        monkeypatch.setattr(Editor, "_tell", lambda s, k, a, r, after, seen: tell(s, k, a, r, after, edits._NOTHING))
    with pytest.raises(AssertionError):
        live_until_it_fails()


def kernels_that_take(*parameters: str) -> set[str]:
    """Return the kernels of a P2M's tables that have these parameters."""
    return {
        name
        for module in (spec.p2m, spec.resize)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if {*parameters} <= set(inspect.signature(function).parameters)
    }


def changing_kernels() -> set[str]:
    """Return the kernels that change the tables of a P2M: those that take its stock, but for the pool's own."""
    steps = {"descend", "clear_first", "prune"}  # of the others
    return kernels_that_take("memory", "root", "stock") - steps | kernels_that_take("tables", "pool")


@pytest.mark.medium
def test_every_kernel_that_changes_tables_is_called_in_one_place():
    assert changing_kernels() == set(Editor.NAMES)
    assert kernels_that_take("tables", "pool") == Editor.BULK
    for module in (changes, table):
        tree = ast.parse(inspect.getsource(module))
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr != "split"}
        direct = {
            f"{node.value.attr}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute)
        }
        assert not {f"{room}.{name}" for room in ("_p2m", "_resize") for name in changing_kernels()} & direct
        assert "_edit" in called


# -- what one call tells ------------------------------------------------------------------------------------------


@pytest.fixture
def domain():
    with Machine("64MiB") as machine:
        options = DomainOptions(layout="flat", table_pool=40)
        domain = machine.create_domain("16MiB", options=options)
        build(domain, "toolstack")
        yield domain


def heard(p2m, *, before: bool = False):
    """Return the list that changes and flushes of a P2M are going to be put on, in order."""
    news = []
    p2m.on_change(news.append, before=before)
    p2m.on_flush(news.append)
    return news


def test_a_frame_cut_out_of_a_large_leaf_is_told_with_the_rest_of_the_leaf(domain):
    mfn, news = domain.p2m.get_entry(0).mfn, heard(domain.p2m, before=True)
    domain.p2m.unmap(5, 1)
    change, flush = news
    assert change.kind == "unmap"
    assert pairs(change.gfns, change.frames) == [(5, 1), (0, 5), (6, 506)]
    assert change.same.tolist() == [False, True, True]
    assert change.changes_translation
    assert pairs(change.after.gfns, change.after.frames) == [(0, 5), (6, 506)]
    assert change.after.mfns.tolist() == [mfn, mfn + 6]
    assert change.after.orders.tolist() == [0, 0]
    assert (change.before.orders.tolist(), pairs(*change.before.ranges)) == ([9], [(0, 512)])
    assert pairs(*flush) == [(0, 512)], "the large leaf is gone from wherever it was cached"


def test_holes_that_are_filled_owe_no_flush(domain):
    p2m = domain.p2m
    p2m.unmap(0, 1024)
    news = heard(p2m)
    p2m.set_entries([3, 700, 4], [9, 10, 11])
    (change,) = news
    assert (change.kind, change.gfns.tolist(), change.frames.tolist()) == ("set", [3, 700, 4], [1, 1, 1])
    assert change.after.mfns.tolist() == [9, 10, 11]


def test_a_change_keeps_what_it_told_when_the_caller_uses_its_arrays_again(domain):
    gfns, mfns, news = np.arange(3, dtype=np.uint64), np.arange(7, 10, dtype=np.uint64), heard(domain.p2m)
    domain.p2m.set_entries(gfns, mfns)
    gfns[:], mfns[:] = 0, 0
    assert news[0].gfns[:3].tolist() == [0, 1, 2]
    assert news[0].after.mfns[:3].tolist() == [7, 8, 9]


def test_merging_everything_is_several_changes_and_one_flush(domain):
    p2m = domain.p2m
    p2m.split_all(order=0)
    news = heard(p2m)
    p2m.merge_all()
    *told, flush = news
    assert [change.kind for change in told] == ["merge"]
    assert not any(change.changes_translation for change in told)
    assert pairs(told[0].gfns, told[0].frames) == [(0, 4096)]
    assert pairs(*flush) == [(0, 4096)], "neighbours are one range"


def test_moving_a_frame_is_told_before_the_old_one_is_free(domain):
    p2m, heap = domain.p2m, domain.machine.heap
    old, new, seen = p2m.get_entry(512).mfn, heap.alloc(9), []
    p2m.on_change(lambda change: seen.append((change.kind, heap.is_free(old))))
    p2m.on_flush(lambda flush: seen.append((pairs(*flush), heap.is_free(old))))
    p2m.move(512, new, 9)
    assert seen == [("move", False), ([(512, 512)], False)]
    assert heap.is_free(old)


def test_another_type_is_another_translation(domain):
    news = heard(domain.p2m)
    domain.p2m.change_type(0, 512, P2MType.RAM_RO)
    assert (news[0].kind, news[0].changes_translation) == ("type", True)
    assert news[0].after.types.tolist() == [P2MType.RAM_RO]


def test_what_a_replaced_table_covered_is_flushed_whole(domain):
    p2m = domain.p2m
    p2m.unmap(0, 4096)
    p2m.set_entry(3, 77, 0)
    news = heard(p2m)
    p2m.set_entry(0, 1024, 9)
    assert pairs(*news[1]) == [(0, 512)], "whoever cached the table's place would walk it for all 512"


def test_unmapping_a_hole_tells_nothing(domain):
    domain.p2m.unmap(0, 1024)
    news = heard(domain.p2m)
    domain.p2m.unmap(0, 600)
    domain.p2m.remove_entries([3, 5])
    assert news == []


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda p2m: p2m.set_entry(3, 5, 0), PoolExhaustedError),
        (lambda p2m: p2m.set_entries([3, 600], [5, 6]), PoolExhaustedError),
        (lambda p2m: p2m.unmap(3, 1), PoolExhaustedError),
        (lambda p2m: p2m.split(3, 0), PoolExhaustedError),
        (lambda p2m: p2m.split_all(order=0), PoolExhaustedError),
        (lambda p2m: p2m.change_type(3, 1, P2MType.RAM_RO), PoolExhaustedError),
        (lambda p2m: p2m.set_entry(3, INVALID_MFN, 0), P2MTypeError),
    ],
)
def test_what_is_refused_tells_nothing(domain, operation, error):
    domain.pool.seal()
    news = heard(domain.p2m, before=True)
    with pytest.raises(error):
        operation(domain.p2m)
    assert news == []


def test_what_no_entry_can_hold_tells_nothing():
    with Machine("5GiB", paging="2-level") as machine:
        p2m = machine.create_domain("16MiB", options=DomainOptions(layout="flat")).p2m
        p2m.set_entry(0, 1 << 20, 10)
        news = heard(p2m)
        with pytest.raises(EncodingError):
            p2m.split(3, 0)
        assert news == []


# -- listeners that fail ------------------------------------------------------------------------------------------


def test_a_listener_that_raises_stops_nothing_and_is_heard_at_the_end(domain):
    p2m, news = domain.p2m, []

    def fail(_):
        raise RuntimeError(f"failure {len(news)}")

    p2m.on_change(fail)
    p2m.on_flush(fail)
    p2m.on_change(news.append)
    p2m.on_flush(news.append)
    with pytest.raises(RuntimeError, match="failure 0") as caught:
        p2m.unmap(0, 513)
    assert caught.value.__notes__ == ["and another listener raised RuntimeError: failure 1"]
    assert len(news) == 2, "the others are told"
    assert p2m.counters.flushes_done == p2m.counters.flushes_owed == 1
    assert p2m.clear_frames(0, 513) == 513
    assert domain.pool.free == domain.pool.capacity - p2m.tables, "what was replaced can be used again"
    p2m.off_change(fail)
    p2m.off_flush(fail)
    p2m.unmap(513, 1)


def test_a_move_is_finished_before_a_listener_s_failure_is_raised(domain):
    p2m, machine = domain.p2m, domain.machine

    def fail(_):
        raise RuntimeError

    p2m.on_change(fail)
    old, new = p2m.get_entry(512).mfn, machine.heap.alloc(9)
    with pytest.raises(RuntimeError):
        p2m.move(512, new, 9)
    assert machine.heap.is_free(old)
    assert p2m.audit().clean


@pytest.mark.parametrize(
    "deed",
    [
        lambda p2m: p2m.set_entry(0, 1, 0),
        lambda p2m: p2m.on_change(print),
        lambda p2m: p2m.on_flush(print),
    ],
    ids=["change", "listen to changes", "listen to flushes"],
)
def test_a_listener_cannot_change_what_it_is_told_of(domain, deed):
    p2m = domain.p2m
    p2m.on_change(lambda _: deed(p2m))
    with pytest.raises(ListenerError):
        p2m.unmap(0, 512)
    assert p2m.clear_frames(0, 512) == 512


def test_a_listener_may_take_itself_off(domain):
    p2m, calls = domain.p2m, []

    def once(_):
        calls.append(1)
        p2m.off_change(once)

    p2m.on_change(once)
    p2m.on_change(calls.append)
    p2m.unmap(0, 512)
    p2m.unmap(512, 512)
    assert len(calls) == 3


@pytest.mark.parametrize("paging", ["4-level", "5-level", "pae", "2-level"])
def test_the_linear_mapping_follows_by_the_feed_where_it_has_to(paging):
    with Machine("3GiB", paging=paging) as machine:
        p2m = machine.create_domain("16MiB", options=DomainOptions(layout="flat", table_pool=40)).p2m
        assert p2m.linear.exists
        assert p2m._feed.is_watched is (paging == "pae")
        for gfn in (0, 1 << 18, 3 << 18):  # each under another of PAE's four root entries
            p2m.set_entry(gfn, 5, 0)
            assert p2m.gfn_to_mfn_current(gfn) == 5
        p2m.release_linear()
        assert not p2m._feed.is_watched
