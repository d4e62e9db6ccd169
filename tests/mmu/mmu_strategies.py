"""Random CPU profiles and traces for the MMU tests."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from twofold.mmu import load_profile
from twofold.mmu.profile import (
    Cycles,
    Marking,
    Number,
    PaeRoot,
    Smashing,
    Structure,
    TableEntryContent,
)

FAMILIES = (
    ("l1_4k", "l1_2m", "l1_1g"),
    ("l2_4k", "l2_2m", "l2_1g"),
    ("guest_pde", "guest_pdpte", "guest_pml4e", "guest_pml5e"),
    ("nested_4k", "nested_2m", "nested_1g"),
    ("host_pde", "host_pdpte", "host_pml4e", "host_pml5e"),
    ("l1i_4k", "l1i_2m", "l1i_1g"),
    ("l2i_4k", "l2i_2m", "l2i_1g"),
)
POLICIES = ("lru", "lru", "fifo", "tree-plru", "random")


def structure(entries=0, ways=None, shares="", replacement="lru"):
    """Return a structure; fully associative unless the ways are given."""
    return Structure("a test", "high", entries, entries if ways is None else ways, shares, replacement)


def fully(entries):
    """Return a structure of one set."""
    return structure(entries)


def profile_of(holds="combined", smash="none", **structures):
    """Return a profile with these structures and no others; each kind of read has a price of its own."""
    return replace(
        load_profile("none"),
        guest_structure_holds=TableEntryContent(holds, "a test", "high"),
        smash_1g=Smashing(smash, "a test", "high"),
        l2_cycles=Cycles(3, "a test", "high"),
        l3_cycles=Cycles(17, "a test", "high"),
        memory_cycles=Cycles(101, "a test", "high"),
        l2_tlb_cycles=Cycles(7, "a test", "high"),
        **structures,
    )


shapes = st.tuples(st.integers(0, 5), st.integers(1, 5)).map(
    lambda shape: structure(shape[0] * shape[1], shape[1] if shape[0] else 0)
)


@st.composite
def policed_shapes(draw):
    """Draw a structure of any policy; a tree has a power of two of ways."""
    policy, sets = draw(st.sampled_from(POLICIES)), draw(st.integers(0, 5))
    ways = draw(st.sampled_from((1, 2, 4, 8))) if policy == "tree-plru" else draw(st.integers(1, 5))
    return structure(sets * ways, ways if sets else 0, replacement=policy)


@st.composite
def profiles(draw):
    """Draw a profile: each family of structures absent in part, separate or unified."""
    structures = {"l2_lines": draw(shapes), "l3_lines": draw(shapes)}
    for family in FAMILIES:
        unified = draw(st.booleans())
        for name in family:
            structures[name] = structure(shares=family[0]) if unified and name != family[0] else draw(policed_shapes())
    if draw(st.booleans()):  # guest entries in the L2 TLB, as some cores have them
        structures |= dict.fromkeys(FAMILIES[2], structure(shares="l2_4k"))
    if draw(st.booleans()):  # no instruction side
        structures |= dict.fromkeys(FAMILIES[5] + FAMILIES[6], structure())
    structures |= {
        "accessed_dirty": Marking(draw(st.sampled_from(("preset", "update"))), "a test", "high"),
        "pae_root": PaeRoot(draw(st.sampled_from(("walk", "load"))), "a test", "high"),
        "random_seed": Number(draw(st.integers(1, 65535)), "a test", "high"),
    }
    holds = draw(st.sampled_from(("combined", "guest")))
    return profile_of(holds, draw(st.sampled_from(("none", "l1", "l2", "both"))), **structures)


def random_trace(rng, places, accesses):
    """Return accesses near some page numbers, a few of them anywhere, a few not canonical."""
    near = rng.choice(np.array(places, np.uint64), accesses) << np.uint64(12)
    gvas = near + rng.integers(0, 1 << 15, accesses, dtype=np.uint64)
    wild = rng.random(accesses) < 0.02
    gvas[wild] = rng.integers(0, 2**64, int(wild.sum()), dtype=np.uint64)
    return gvas
