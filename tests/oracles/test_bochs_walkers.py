"""P2Ms of ours under Bochs's walkers: where an access leads, how a refusal is reported, which bits a walk leaves.

EPT is asked as EPT, and NPT as the one-level tables that it consists of. Of five-level tables, which this Bochs does
not have, the four levels below the first entry of the root are. How Bochs differs is in bochs_ept.py and
bochs_paging.py, and what is left out because of that in random_p2ms.py.

Each probe is made in Bochs, on a copy of the tables, and by `fault` on the P2M itself. Then the tables are compared,
so accessed and dirty bits are; `forget_marks` has taken some away before.
"""

from typing import NamedTuple

import bochs_cpu
import bochs_ept
import bochs_paging
import numpy as np
import pytest
from bochs_cpu import ACCESSES, EXECUTE, READ, WRITE, made_up_word
from random_p2ms import (
    OFFSETS,
    RandomP2M,
    forget_marks,
    gfns_of,
    malformations,
    random_p2m,
    restrictions,
    spoil,
)

from twofold.formats import npt, shape
from twofold.p2m import Fault
from twofold.units import FRAME_SHIFT

pytestmark = pytest.mark.medium

# What can be asked for: one TiB of guest-physical addresses, and the lower half of virtual ones.
REACHES = {"ept": 1 << 28, "ept-5": 1 << 28, "npt": 1 << 35, "npt-5": 1 << 35, "npt-pae": 1 << 20, "npt-2": 1 << 20}
MODES = {"npt": "4-level", "npt-5": "4-level", "npt-pae": "pae", "npt-2": "2-level"}
LEVELS = 4  # the most that are walked
# Seeds and probes: slow ones 60,000 of well-formed tables a format, and as many of spoiled ones.
CASES = [(0, 2_500), *(pytest.param(seed, 20_000, marks=pytest.mark.slow) for seed in (1, 2, 3))]
RESTRICTED = [(0, 4_000), *(pytest.param(seed, 4_000, marks=pytest.mark.slow) for seed in (1, 2, 3))]
# Of EXITINFO1: what is also in the error code of a page fault.
ERROR_CODE = npt.FAULT_PRESENT | npt.FAULT_WRITE | npt.FAULT_RESERVED | npt.FAULT_FETCH


class Outcome(NamedTuple):
    """What came of one access, whoever says it.

    kind : as of a `Fault`, "done" if the access was made
    code : exit qualification, or error code
    address : of the access that was refused; 0 if it was made
    value : the word that a load brought; otherwise 0
    """

    kind: str
    code: int = 0
    address: int = 0
    value: int = 0


@pytest.fixture(scope="module", autouse=True)
def _oracle():
    bochs_cpu.require()


def probes_of(random: RandomP2M, count: int) -> list[tuple[int, str]]:
    """Return accesses to make, of aligned words; fetches are of the last byte of a page."""
    offsets = random.rng.integers(OFFSETS // 8, size=count).astype(np.uint64) << np.uint64(3)
    gpas = (gfns_of(random, count) << np.uint64(FRAME_SHIFT) | offsets).tolist()
    accesses = [ACCESSES[number] for number in random.rng.integers(len(ACCESSES), size=count)]
    return [(gpa | 0xFFF if access == EXECUTE else gpa, access) for gpa, access in zip(gpas, accesses, strict=True)]


def made_in_bochs(name: str, random: RandomP2M, memory: np.ndarray, probes: list) -> tuple[list[Outcome], np.ndarray]:
    """Return what Bochs says of each access, and the memory afterwards."""
    root = root_of(random)
    if name.startswith("ept"):
        results, after = bochs_ept.probe_ept(memory, root, probes)
        kinds = {
            bochs_ept.DONE: "done",
            bochs_ept.VIOLATION: "violation",
            bochs_ept.MISCONFIGURATION: "misconfiguration",
        }
        return [Outcome(kinds[reason], *rest) for reason, *rest in results], after
    results, after = bochs_paging.probe_paging(memory, root, MODES[name], probes)
    return [Outcome("done" if code is None else "npf", code or 0, *rest) for code, *rest in results], after


def root_of(random: RandomP2M) -> int:
    """Return the frame of the top table that Bochs walks."""
    if random.p2m.geometry.levels <= LEVELS:
        return int(random.p2m.root)
    return shape.frame_of(random.p2m.format.shape, int(random.entries[random.p2m.root, 0]))


def made_by_us(random: RandomP2M, probes: list) -> list[Outcome]:
    """Return what Twofold says of each access, made in the same order; sets accessed and dirty bits."""
    outcomes: list[Outcome] = []
    stored: dict[int, int] = {}
    for gpa, access in probes:
        fault = random.p2m.fault(gpa, access)
        if fault is not None:
            outcomes.append(Outcome(fault.kind, code_of(fault), fault.gpa))
            continue
        maddr = random.p2m.get_entry(gpa >> FRAME_SHIFT).mfn << FRAME_SHIFT | gpa & 0xFFF
        if access == WRITE:
            stored[maddr] = gpa
        outcomes.append(Outcome("done", value=stored.get(maddr, made_up_word(maddr)) if access == READ else 0))
    return outcomes


def code_of(fault: Fault) -> int:
    """Return the code of a fault as a one-dimensional walk has it: NPT's says more, the same for each probe here."""
    if fault.kind != "npf":
        return fault.code
    assert fault.code & ~ERROR_CODE == npt.FAULT_USER | npt.FAULT_FINAL
    return fault.code & ERROR_CODE


def differences(random: RandomP2M, probes: list, theirs: list[Outcome], after: np.ndarray) -> list[tuple]:
    """Return the probes that come to something else, then the entries that are not the same afterwards."""
    ours = made_by_us(random, probes)
    wrong = [
        (hex(gpa), access, bochs, twofold)
        for (gpa, access), bochs, twofold in zip(probes, theirs, ours, strict=True)
        if bochs != twofold
    ]
    places = np.argwhere(after != random.tables).tolist()
    return wrong + [(table, slot, hex(after[table, slot]), hex(random.tables[table, slot])) for table, slot in places]


def run(name: str, random: RandomP2M, count: int) -> tuple[list[tuple], list[Outcome]]:
    """Return differences over so many probes, and what Bochs said."""
    probes = probes_of(random, count)
    theirs, after = made_in_bochs(name, random, random.tables.copy(), probes)
    return differences(random, probes, theirs, after), theirs


def count_of(outcomes: list[Outcome], kind: str) -> int:
    return sum(outcome.kind == kind for outcome in outcomes)


@pytest.mark.parametrize(("seed", "count"), CASES)
@pytest.mark.parametrize("name", REACHES)
def test_bochs_makes_of_our_tables_what_we_do(name, seed, count):
    with random_p2m(name, seed, REACHES[name]) as random:
        forget_marks(random, LEVELS)
        before = random.tables.copy()
        wrong, outcomes = run(name, random, count)
        assert wrong == []
        assert count_of(outcomes, "done") > count // 4, "the probes hit leaves"
        assert count - count_of(outcomes, "done") > count // 8, "and holes"
        assert (before != random.tables).any(), "accessed and dirty bits were set"
        codes = {outcome.code for outcome in outcomes}
        if name.startswith("ept"):
            assert count_of(outcomes, "misconfiguration") == 0
            # All accesses, refused by all rights that Twofold gives: none, r, x, rw, rx.
            assert {code >> 3 & 7 for code in codes} >= {0, 1, 3, 4, 5}
            assert {code & 7 for code in codes} >= {1, 2, 4}
        else:
            assert codes == {0, 2, 3} | ({16, 17} if name != "npt-2" else set())
        assert max(outcome.value & (1 << 40) - 1 for outcome in outcomes) >= 1 << 32, "above 4 GiB, in every format"


@pytest.mark.parametrize(("seed", "count"), CASES)
@pytest.mark.parametrize("name", REACHES)
def test_bochs_reports_malformed_entries_as_we_do(name, seed, count):
    with random_p2m(name, seed, REACHES[name]) as random:
        forget_marks(random, LEVELS)
        assert spoil(random, malformations(name), LEVELS) > 5
        wrong, outcomes = run(name, random, count)
        assert wrong == []
        malformed = [o for o in outcomes if o.kind == "misconfiguration" or (o.kind == "npf" and o.code & 8)]
        assert len(malformed) > count // 50


@pytest.mark.parametrize(("seed", "count"), RESTRICTED)
@pytest.mark.parametrize("name", REACHES)
def test_bochs_reports_tables_of_fewer_rights_as_we_do(name, seed, count):
    with random_p2m(name, seed, REACHES[name]) as random:
        forget_marks(random, LEVELS)
        assert spoil(random, restrictions(name) + malformations(name), LEVELS) > 5
        wrong, _ = run(name, random, count)
        assert wrong == []


@pytest.mark.parametrize("name", REACHES)
def test_the_comparison_notices_an_entry_that_is_wrong(name):
    with random_p2m(name, 0, REACHES[name]) as random:
        words, order = random.p2m.format.shape, random.p2m.geometry.leaf_orders[1]
        large = [gfn << FRAME_SHIFT for gfn in random.rows["gfn"][random.rows["order"] == order].tolist()]
        victim = next(gpa for gpa in large if not any(random.p2m.fault(gpa, access) for access in ACCESSES))
        probes = [(victim, READ), (victim, WRITE), (victim | 0xFFF, EXECUTE), *probes_of(random, 200)]
        memory = random.tables.copy()
        assert differences(random, probes, *made_in_bochs(name, random, memory, probes)) == []
        malformed = next(way for way in malformations(name) if way.level == 1 and way.is_leaf)
        flips = {
            "present": int(words[shape.PRESENT]),
            "frame": 1 << FRAME_SHIFT + order,
            "right": int(words[shape.NEED + 1]) & ~int(words[shape.NEED]),
            "malformed": malformed.set_,
        }
        step = random.p2m.walk(victim >> FRAME_SHIFT)[-1]
        for change, flip in flips.items():
            changed = memory.copy()
            changed.view(random.entries.dtype)[step.table, step.slot] ^= random.entries.dtype.type(flip)
            found = differences(random, probes, *made_in_bochs(name, random, changed, probes))
            assert hex(victim) in [row[0] for row in found], change


@pytest.mark.parametrize("name", REACHES)
def test_the_comparison_notices_marks_that_only_bochs_has_set(name):
    with random_p2m(name, 0, REACHES[name]) as random:
        forget_marks(random, LEVELS)
        _, after = made_in_bochs(name, random, random.tables.copy(), probes_of(random, 200))
        assert differences(random, [], [], after) != []
