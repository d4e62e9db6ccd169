"""The linear mapping under an engine: machine code that reads each window gets what our look-up gets, at every entry.

That includes the garbage that a window shows under a larger leaf, and a caught fault at a hole above.
"""

import numpy as np
import pytest
from monitor_engine import MonitorEngine, fill

from twofold.domain import DomainOptions, Machine
from twofold.p2m import P2MType
from twofold.units import INVALID_MFN

MODES = ("4-level", "5-level", "pae", "2-level")
LIVES = 40
PROBES = 1500


def lived(machine: Machine, rng: np.random.Generator):
    """Return a P2M with leaves of every size, places and holes, and random words in the memory that it maps."""
    domain = machine.create_domain("64MiB", options=DomainOptions(table_pool=400))
    p2m, limit = domain.p2m, domain.p2m.geometry.frame_limit
    orders = [int(order) for order in p2m.geometry.leaf_orders]
    bases = [0, limit // 2, limit - (1 << 20 if limit > 1 << 20 else 1 << 18)]
    first = machine.frames // 2  # above all table pools and monitor tables
    corners = []
    for number in range(LIVES):
        order = orders[number % len(orders)] if number < 2 * len(orders) else int(rng.choice(orders[:2]))
        gfn = int(rng.choice(bases)) + int(rng.integers(0, 1 << 18)) >> order << order
        mfn = int(rng.integers(first, machine.frames - (1 << order))) >> order << order
        p2m.set_entry(gfn, max(mfn, first >> order << order), order)
        inside = gfn + int(rng.integers(1 << order))
        fill(machine, p2m.get_entry(inside).mfn, 1, rng)
        if number % 4 == 1:
            p2m.split(inside, 0)
        if number % 5 == 2:
            p2m.unmap(inside, int(rng.integers(1, 600)))
        if number % 7 == 3:
            p2m.set_entry(inside >> 9 << 9, INVALID_MFN, 0, P2MType.POPULATE_ON_DEMAND)
        corners += [gfn, gfn - 1, gfn + (1 << order) - 1, gfn + (1 << order), inside]
    return p2m, [gfn for gfn in corners if 0 <= gfn < limit]


@pytest.mark.medium
@pytest.mark.parametrize("mode", MODES)
def test_machine_code_reads_from_each_window_what_our_look_up_reads(mode):
    rng = np.random.Generator(np.random.PCG64(7))
    with Machine("4GiB", paging=mode) as machine:
        p2m, corners = lived(machine, rng)
        linear, engine = p2m.linear, MonitorEngine(machine, p2m)
        anywhere = rng.integers(0, p2m.geometry.frame_limit, PROBES // 4).tolist()
        near = [int(rng.choice(corners)) + int(rng.integers(-3, 4)) for _ in range(PROBES)]
        wrong, seen = [], {"entry": 0, "garbage": 0, "fault": 0}
        for gfn in [gfn for gfn in near + anywhere if 0 <= gfn < p2m.geometry.frame_limit]:
            for level in linear.windows:
                theirs = engine.read(linear.address(level, gfn))
                ours = linear.read(level, gfn)
                if theirs != ours:
                    wrong.append((hex(gfn), level, theirs, ours))
                step = next((step for step in p2m.walk(gfn) if step.level == level), None)
                seen["fault" if theirs is None else "garbage" if step is None else "entry"] += 1
                assert theirs is None or step is None or theirs == step.entry, "an entry that is there is shown"
            assert p2m.gfn_to_mfn_current(gfn) == p2m.gfn_to_mfn_foreign(gfn)
        assert wrong == []
        assert all(count > PROBES // 20 for count in seen.values()), seen


@pytest.mark.parametrize("mode", MODES)
def test_the_windows_follow_the_tables_as_they_change(mode):
    with Machine("1GiB", paging=mode) as machine:
        p2m = machine.create_domain("64MiB").p2m
        linear, engine = p2m.linear, MonitorEngine(machine, p2m)
        top = max(linear.windows)
        gfn = p2m.geometry.frame_limit - 512
        for address in (linear.address(level, gfn) for level in linear.windows):
            assert engine.read(address) in {None, 0}, "nothing is mapped yet"
        p2m.set_entry(gfn, 0x200, 0)
        for step in p2m.walk(gfn)[-1 - top :]:
            assert engine.read(linear.address(step.level, gfn)) == step.entry
        p2m.unmap(gfn, 1)
        assert [engine.read(linear.address(level, gfn)) in {None, 0} for level in linear.windows] == [True] * (top + 1)
