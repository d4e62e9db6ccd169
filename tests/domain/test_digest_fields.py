"""The digest covers all that decides what happens next: each field alone counts, and no attribute is forgotten.

Every attribute of every object of a machine stands here, under the field of the digest that it is in, or with the
reason why it decides nothing.
"""

import re
from dataclasses import fields, replace

import numpy as np
import pytest

from twofold.domain import DomainOptions, Machine, Mem, Reason
from twofold.errors import DomainError
from twofold.formats import p2m_state as at
from twofold.formats.table_formats import P2M_FORMATS
from twofold.machine.arena import Arena
from twofold.machine.ledger import Account
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN, Mfn

PREFIX = re.compile(r"^(domain|account) \d+ ")


def furnished() -> Machine:
    """Return a machine on which every field of the digest has something in it."""
    machine = Machine("64MiB", nodes=2, seed=5, behaviour="xen-4.17")
    owner = machine.create_domain("4MiB", options=DomainOptions(layout="flat"))
    owner.memory.populate_physmap(range(600), 0)
    domain = machine.create_domain("8MiB", options=DomainOptions(layout="flat", max_pages=5000, node=None))
    domain.memory.populate_physmap(range(0, 1024, 512), 9)
    domain.memory.populate_physmap([1024], 9, Mem.EXACT)
    domain.memory.add_to_physmap("shared_info", 0, 0x3000)
    domain.memory.add_to_physmap("gmfn_foreign", 3, 0x3001, foreign=owner.domid)
    domain.memory.add_to_physmap("gmfn_foreign", 4, 0x3002, foreign=owner.domid)
    domain.memory.claim(2000)
    domain.p2m.set_entry(0x3100, INVALID_MFN, 0, P2MType.RAM_BROKEN)
    assert domain.p2m.linear.exists
    domain.pause()
    return machine


@pytest.fixture
def machine():
    with furnished() as machine:
        yield machine


def fields_of(machine: Machine) -> dict[str, object]:
    """Return the fields of a machine's digest in a form that compares."""
    return {
        name: value.read(0, value.frames << 12)
        if isinstance(value, Arena)
        else value.tolist()
        if isinstance(value, np.ndarray)
        else value
        for name, value in machine.digest_fields()
    }


def swap(array) -> None:
    """Exchange the first two elements of an array."""
    array[[0, 1]] = array[[1, 0]]


def set_last_domid(machine):
    machine._last_domid += 1


def set_heap_lists(column):
    def mutate(machine):
        lists = [part.copy() for part in machine.heap.lists()]
        lists[column][:2] = lists[column][:2][::-1] if column == 0 else lists[column][:2] + 1
        machine.heap.lists = lambda: tuple(lists)

    return mutate


def of_domain(change):
    return lambda machine: change(machine.domains[2])


def of_account(change):
    return lambda machine: change(machine.ledger.account(2))


def of_state(column):
    def mutate(machine):
        machine.domains[2].pool.state[column] += 1

    return mutate


def setting(path, value):
    """Return a change that sets an attribute of domain 2."""
    *objects, name = path.split(".")

    def mutate(machine):
        target = machine.domains[2]
        for each in objects:
            target = getattr(target, each)
        setattr(target, name, value)

    return mutate


def reorder(mapping) -> None:
    """Let the first entry of a dict become its last."""
    key = next(iter(mapping))
    mapping[key] = mapping.pop(key)


def set_option(name, value):
    def mutate(machine):
        options = machine.domains[2].options = replace(machine.domains[2].options)
        object.__setattr__(options, name, value)  # past its checks: there may be one mode only

    return mutate


def set_retired(machine):
    """A table more between being taken out and its flush: what is free stays as it is."""
    machine.domains[2].pool.state[at.RETIRED] += 1


# One change of each field, and of nothing else.
MUTANTS = {
    "paging": lambda machine: setattr(machine, "paging", "5-level"),
    "page sizes": lambda machine: setattr(machine, "page_sizes", (0, 9)),
    "seed": lambda machine: setattr(machine, "seed", 6),
    "last domid": set_last_domid,
    "frames": lambda machine: setattr(machine, "frames", machine.frames + 1),
    "nodes": lambda machine: setattr(machine, "nodes", 1),
    "behaviour": lambda machine: setattr(machine, "behaviour", replace(machine.behaviour, leaves_orphans=False)),
    "arena": lambda machine: machine.arena.write(machine.domains[2].p2m.get_entry(5).mfn << 12, b"\1"),
    "owner": lambda machine: machine.frame_table.owner.__setitem__(machine.domains[2].p2m.get_entry(5).mfn, 1),
    "use": lambda machine: machine.frame_table.use.__setitem__(machine.domains[2].p2m.get_entry(5).mfn, 3),
    "m2p": lambda machine: machine.m2p.complement.__setitem__(machine.domains[2].p2m.get_entry(5).mfn, 0),
    "free": set_heap_lists(0),
    "free orders": set_heap_lists(1),
    "claims": lambda machine: machine.ledger.claims.update({2: machine.ledger.claims[2] + 1}),
    "references": lambda machine: machine.ledger.references.update([machine.domains[1].p2m.get_entry(3).mfn]),
    "account max pages": of_account(lambda account: setattr(account, "max_pages", None)),
    "account owned frames": of_account(lambda account: setattr(account, "owned_frames", account.owned_frames + 1)),
    "account special": of_account(lambda account: account.special.update({("grant_table", 0): Mfn(1)})),
    "account foreign": of_account(lambda account: reorder(account.foreign)),
    "domain frames": setting("frames", 1),
    "domain paging": set_option("paging", "another"),
    "domain layout": set_option("layout", "pvh"),
    "domain table format": setting("p2m.format", P2M_FORMATS["ept"]),
    "domain accessed dirty": set_option("accessed_dirty", "clear"),
    "domain wanted sizes": setting("_wanted", (0, 9)),
    "domain pauses": setting("_pauses", 2),
    "domain node": setting("_holding.node", 1),
    "domain last node": setting("_holding._last_node", 7),
    "domain root": setting("p2m.root", Mfn(7)),
    "domain max gfn": setting("p2m._limit", 1 << 20),
    "domain exact": of_domain(lambda domain: domain.p2m.exact.add(0, 1, 0)),
    "domain linear": of_domain(lambda domain: domain.p2m.linear._frames.reverse()),
    "domain pool capacity": setting("pool.capacity", 9),
    "domain pool runs": of_domain(lambda domain: swap(domain.pool.runs[0])),
    "domain pool run frames": of_domain(lambda domain: domain.pool.runs[1].__setitem__(0, 2)),
    "domain pool free": of_domain(lambda domain: swap(domain.pool.stock)),
    "domain pool retired": set_retired,
    "domain pool small leaves": of_state(at.LEAVES),
    "domain pool middle leaves": of_state(at.LEAVES + 1),
    "domain pool large leaves": of_state(at.LEAVES + 2),
    "domain pool places": of_state(at.PLACES),
    "domain pool replaced": of_state(at.REPLACED),
    "domain pool sizes": of_state(at.SIZES),
    "domain pool stops": of_state(at.STOPS),
    "domain pool keeps empty": of_state(at.KEEPS_EMPTY),
    "domain pool aligns whole": of_state(at.ALIGNS_WHOLE),
}


def without_number(name: str) -> str:
    return PREFIX.sub(r"\1 ", name)


def test_every_field_has_a_mutant(machine):
    assert {without_number(name) for name, _ in machine.digest_fields()} == MUTANTS.keys()
    names = [name for name, _ in machine.digest_fields()]
    assert len(set(names)) == len(names)


@pytest.mark.medium
@pytest.mark.parametrize("name", MUTANTS)
def test_each_field_alone_changes_the_digest(machine, name):
    before, digest = fields_of(machine), machine.digest()
    MUTANTS[name](machine)
    after = fields_of(machine)
    assert {without_number(each) for each in before if before[each] != after[each]} == {name}
    assert machine.digest() != digest


# -- no attribute is forgotten ----------------------------------------------------------------------------------------

DERIVED = "follows from what is in the digest"
SHARED = "another object, which has its own fields or decides nothing"
CACHE = "a cache: looked up again where it is empty"
TOLD = "tells what happened and decides nothing"
LISTENERS = "who listens, outside of the machine"
GATE = "who may, not what there is"
ATTRIBUTES = {
    "machine": {
        "gate": GATE,
        **dict.fromkeys(("paging", "page_sizes", "seed", "_last_domid", "behaviour", "nodes"), "in the digest"),
        **dict.fromkeys(("frames", "arena", "heap", "frame_table", "m2p", "ledger", "domains"), "in the digest"),
        "engine": "twins: the same answers",
        "journal": LISTENERS,
    },
    "heap": {
        "gate": GATE,
        "_heap": "twins: the same answers",
        "zones": DERIVED,
        "_rules": DERIVED + "; the limit in it is set before each use",
        **dict.fromkeys(("_heads", "_counts", "_links", "_orders", "_lists"), "in the digest, as lists"),
    },
    "ledger": {
        **dict.fromkeys(("accounts", "claims", "references"), "in the digest"),
        **dict.fromkeys(("arena", "heap", "frame_table", "m2p"), SHARED),
        "begun": "nothing, between two operations",
    },
    "domain": {
        "gate": GATE,
        **dict.fromkeys(("machine", "p2m", "pool", "memory", "_holding", "door"), SHARED),
        "domid": "in the digest: in the name of each field",
        **dict.fromkeys(("frames", "options", "_wanted", "_pauses"), "in the digest"),
        "layout": DERIVED,
        "name": "a label",
        "paging": "who resolves faults, outside of the machine; its mode is in the digest",
        "_teardown": "there is no digest half-way through it",
    },
    "holding": {
        **dict.fromkeys(("hardware", "ledger", "account", "p2m"), SHARED),
        "domid": "in the digest: in the name of each field",
        **dict.fromkeys(("node", "_last_node"), "in the digest"),
        "counters": TOLD,
    },
    "memory": {
        "gate": GATE,
        **dict.fromkeys(("_holding", "_domains"), SHARED),
        "last_reason": TOLD,
    },
    "pool": {
        **dict.fromkeys(("_hardware",), SHARED),
        "_origin": "used once, when the frames were reserved",
        **dict.fromkeys(("capacity", "runs", "stock", "state"), "in the digest"),
    },
    "p2m": {
        "gate": GATE,
        **dict.fromkeys(("_hardware", "_pool", "_arena", "_editor", "_edit", "_counts"), SHARED),
        **dict.fromkeys(("_engine", "_p2m", "_resize"), "twins: the same answers"),
        "domid": "in the digest: in the name of each field",
        **dict.fromkeys(("format", "root", "_limit", "exact", "_linear"), "in the digest"),
        **dict.fromkeys(("geometry", "_shape", "_words", "_gfn_end", "_slot_bits", "_slot_mask", "_levels"), DERIVED),
        **dict.fromkeys(("_large_levels", "_present", "_large", "_frame_mask", "_said", "_recalc_mask"), DERIVED),
        **dict.fromkeys(("_recalc_value", "_has_marks_from"), DERIVED),
        **dict.fromkeys(("_meanings", "_flags"), CACHE),
        "_only_ram": "counts leaves from the tables where it is not set: the same number",
        "_entries": "for views of other tables",
        "_feed": LISTENERS,
        **dict.fromkeys(("_owed", "_done"), TOLD),
    },
    "linear": {
        "gate": GATE,
        "_is_kept": "asks its P2M",
        **dict.fromkeys(("_hardware", "_view", "_domid"), SHARED),
        "_frames": "in the digest",
        **dict.fromkeys(("windows", "monitor", "why_not", "_geometry", "_shape", "_entry_shift", "_pae_root"), DERIVED),
    },
    "exact": {"_starts": DERIVED, "_ranges": "in the digest"},
}
COLUMNS = {
    **dict.fromkeys(("FREE", "RETIRED", "LEAVES", "REPLACED", "SIZES", "PLACES", "STOPS"), "in the digest"),
    **dict.fromkeys(("KEEPS_EMPTY", "ALIGNS_WHOLE"), "in the digest"),
    **dict.fromkeys(("SPLITS", "MERGES", "ALLOCATED", "FREED"), TOLD),
}
NO_COLUMNS = {"COLUMNS", "NOTHING", "MAX_LEAF_LEVELS", "CANNOT_ENCODE"}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_is_in_the_digest_or_decides_nothing(machine, name):
    domain = machine.domains[2]
    objects = {
        "machine": machine,
        "heap": machine.heap,
        "ledger": machine.ledger,
        "domain": domain,
        "holding": domain._holding,
        "memory": domain.memory,
        "pool": domain.pool,
        "p2m": domain.p2m,
        "linear": domain.p2m.linear,
        "exact": domain.p2m.exact,
    }
    assert vars(objects[name]).keys() == ATTRIBUTES[name].keys()


def test_every_column_of_a_p2m_and_every_part_of_an_account_is_in_it_or_decides_nothing():
    named = {name for name in vars(at) if name.isupper()} - NO_COLUMNS
    assert named == COLUMNS.keys()
    assert {each.name for each in fields(Account)} == {"max_pages", "owned_frames", "special", "foreign"}
    deciding = {"accessed_dirty", "layout", "max_pages", "node", "paging", "page_sizes", "table_format"}
    used_once = {"table_pool"}
    assert {each.name for each in fields(DomainOptions)} == deciding | used_once


# -- what it is for ---------------------------------------------------------------------------------------------------


def two_domains():
    machine = Machine("32MiB")
    options = DomainOptions(layout="flat", table_pool=20)
    return machine, machine.create_domain("8MiB", options=options), machine.create_domain("8MiB", options=options)


def test_machines_that_differ_in_one_claim_go_on_differently_and_their_digests_say_so():
    (one, first, other), (same, *_), (claimed, claimer, poor) = two_domains(), two_domains(), two_domains()
    with one, same, claimed:
        assert one.digest() == same.digest()
        assert claimer.memory.claim(one.heap.free_frames - 5).complete
        assert claimed.digest() != one.digest()
        assert other.memory.populate_physmap(range(10), 0).complete
        assert poor.memory.populate_physmap(range(10), 0).reason is Reason.NO_MEMORY
        assert first.memory.owned_frames == 0


def there_and_back(machine, domain, other):
    """Do much that leaves nothing behind that decides anything."""
    domain.pause()
    domain.memory.claim(domain.memory.owned_frames + 10)
    domain.set_page_sizes("4K")
    domain.p2m.split(0, 0)
    domain.set_page_sizes(None)
    table = domain.p2m.walk(0)[-1].table
    assert domain.p2m.merge(0, 9)
    machine.arena.write(table << 12, bytes(4096))  # what is left in a free table decides nothing, but is memory
    other.memory.add_to_physmap("gmfn_foreign", 0x105, 0x200, foreign=domain.domid)
    other.memory.remove_from_physmap(0x200)
    domain.p2m.change_type(0, 512, P2MType.RAM_LOGDIRTY)
    domain.p2m.change_type(0, 512, P2MType.RAM_RW)
    domain.write(0x1000, b"hello")
    domain.wipe()
    machine.heap.free(machine.heap.alloc(0), 0)
    domain.memory.claim(0)
    domain.unpause()


def exact_upwards(domain):
    domain.p2m.exact.add(0, 256, 0)
    domain.p2m.exact.add(256, 256, 0)


def exact_downwards(domain):
    domain.p2m.exact.add(256, 256, 0)
    domain.p2m.exact.add(0, 256, 0)


def test_one_state_has_one_digest_whatever_led_to_it():
    def begun():
        machine, domain, other = two_domains()
        assert domain.memory.populate_physmap([0], 9).complete
        assert other.memory.add_to_physmap("shared_info", 0, 0x201).complete  # and the tables for gfn 0x200
        return machine, domain, other

    (straight, direct, _), (winding, *domains) = begun(), begun()
    with straight, winding:
        assert straight.digest() == winding.digest()
        there_and_back(winding, *domains)
        exact_upwards(direct)
        exact_downwards(domains[0])
        assert domains[0].p2m.counters != direct.p2m.counters
        differing = [
            name
            for (name, value), (_, other) in zip(straight.digest_fields(), winding.digest_fields(), strict=True)
            if not isinstance(value, Arena) and not np.array_equal(value, other)
        ]
        assert not differing
        assert straight.digest() == winding.digest()


def test_half_way_through_a_destruction_there_is_no_digest(machine):
    domain = machine.domains[2]
    domain.unpause()
    assert not domain.destroy(lambda: True)
    with pytest.raises(DomainError, match="domain 2 is half-way through its destruction"):
        machine.digest()
    assert domain.destroy()
    assert len(machine.digest()) == 64
    assert 2 not in machine.ledger.accounts
