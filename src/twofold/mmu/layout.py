"""How a profile becomes the arrays that `formats.mmu_state` describes."""

from typing import Final

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts
from twofold.mmu.profile import CpuProfile, Structure

# Fields of a profile by the number of the structure.
FIELDS: Final = (
    *("l1_4k", "l1_2m", "l1_1g", "l1i_4k", "l1i_2m", "l1i_1g"),
    *("l2_4k", "l2_2m", "l2_1g", "l2i_4k", "l2i_2m", "l2i_1g"),
    *("guest_pde", "guest_pdpte", "guest_pml4e", "guest_pml5e"),
    *("nested_4k", "nested_2m", "nested_1g"),
    *("host_pde", "host_pdpte", "host_pml4e", "host_pml5e"),
    *("l2_lines", "l3_lines"),
)
POLICIES: Final = {"lru": at.LRU, "fifo": at.FIFO, "tree-plru": at.TREE_PLRU, "random": at.RANDOM_WAY}


def settings_of(profile: CpuProfile, guest_root: int, p2m_root: int | None) -> Counts:
    """Return a profile's settings and both roots; without a P2M root the walk has one dimension."""
    smash = profile.smash_1g.value
    settings = np.zeros(at.SETTINGS, np.int64)
    settings[at.GUEST_ROOT] = guest_root
    settings[at.P2M_ROOT] = p2m_root or 0
    settings[at.NESTED] = p2m_root is not None
    settings[at.COMBINED] = profile.guest_structure_holds.value == "combined"
    settings[at.SMASH_L1] = smash in {"l1", "both"}
    settings[at.SMASH_L2] = smash in {"l2", "both"}
    cycles = (profile.l2_cycles, profile.l3_cycles, profile.memory_cycles)
    settings[at.READ_CYCLES : at.READ_CYCLES + len(cycles)] = [latency.value for latency in cycles]
    settings[at.L2_TLB_PENALTY] = profile.l2_tlb_cycles.value
    settings[at.MARKS] = profile.accessed_dirty.value == "update"
    settings[at.ROOTS_LOADED] = profile.pae_root.value == "load"
    settings[at.FETCH_L1] = at.L1_FETCH if _is_any_present(profile, at.L1_FETCH) else at.L1
    settings[at.FETCH_L2] = at.L2_FETCH if _is_any_present(profile, at.L2_FETCH) else at.L2
    return settings


def _is_any_present(profile: CpuProfile, first: int) -> bool:
    """Return whether the profile has any of three structures."""
    parts = (profile.structures[name] for name in FIELDS[first : first + at.SIZES])
    return any(part.entries or part.shares for part in parts)


def lay_out(profile: CpuProfile) -> tuple[Counts, int, int]:
    """Return (structures, slots of the pool, slots before the lines); sharers get their owner's slots."""
    rows: dict[str, list[int]] = {}
    slots, lines, parts = 0, 0, profile.structures
    for number, name in enumerate(FIELDS):
        part = parts[name]
        if number == at.L2_LINES:
            lines = slots
        rows[name] = _row(part, slots, number, profile.random_seed.value)
        slots += part.sets * rows[name][at.STRIDE]
    for name in FIELDS:
        if owner := parts[name].shares:
            random = rows[name][at.RANDOM]
            rows[name] = rows[owner].copy()
            rows[name][at.RANDOM] = random
    return np.array(list(rows.values()), np.int64), slots, lines


def _row(part: Structure, offset: int, number: int, seed: int) -> list[int]:
    """Return the row of a structure that shares with none."""
    row = [0] * at.STRUCTURE_COLUMNS
    row[at.OFFSET], row[at.SETS], row[at.WAYS] = offset, part.sets, part.ways
    row[at.POLICY] = POLICIES[part.replacement]
    row[at.STRIDE] = part.ways + (row[at.POLICY] == at.TREE_PLRU)
    row[at.RANDOM] = seed * at.STRUCTURES + number
    return row
