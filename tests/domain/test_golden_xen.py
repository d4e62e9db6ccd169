"""The builder held to recordings of a real Xen 4.17: the same gfns in leaves of the same size, the same tables."""

import numpy as np
import pytest

from golden import layout_of, read, tables_by_level
from twofold.domain import DomainOptions, Machine, build
from twofold.formats.npt import P2MType, leaf_flags

NAMES = ["hvm1100", "pvh1536", "pvh2048", "pvh300", "pvh3100", "pvh512", "pvh513"]  # as built, all sizes on


@pytest.mark.parametrize("name", NAMES)
def test_the_recording_agrees_with_its_own_summary(name):
    leaves, meta = read(name)
    names = {0: "4K", 9: "2M", 18: "1G"}
    counts = {
        f"{names[order]}/ram_rw/P": int(np.count_nonzero(leaves["order"] == order))
        for order in set(leaves["order"].tolist())
    }
    assert counts == meta["leaf_counts"]
    assert meta["m2p_check"]["bad"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_builder_makes_the_leaves_and_tables_that_xen_made(name):
    leaves, meta = read(name)
    kind, mib = layout_of(name)
    with Machine("8GiB") as machine:
        domain = machine.create_domain(f"{mib}MiB", options=DomainOptions(layout=kind))
        built = build(domain, "toolstack", fallback="builder")
        ours = domain.p2m.leaf_array()
        assert ours["gfn"].tolist() == leaves["gfn"].tolist()
        assert ours["order"].tolist() == leaves["order"].tolist()
        assert ours["type"].tolist() == leaves["type"].tolist()
        assert domain.p2m.audit().clean
        # Every flag of every entry too; frame numbers aside, which another heap gives.
        frame_bits = np.uint64((1 << 52) - (1 << 12))
        assert set((leaves["pte"] & ~frame_bits).tolist()) == {
            leaf_flags(P2MType.RAM_RW, level) for level in set((leaves["level"] - 1).tolist())
        }
        assert tables_by_level(domain.p2m, ours["gfn"]) == meta["tables_by_level"]
        assert built.tables == meta["n_tables"]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("pvh")])
def test_what_the_builder_printed_is_what_it_asks_for(name):
    _, meta = read(name)
    with Machine("8GiB") as machine:
        domain = machine.create_domain(f"{name.removeprefix('pvh')}MiB")
        built = build(domain, "toolstack", fallback="builder")
        special = sum(part.frames for part in domain.layout.special)
        printed = {"4KB": built.leaves[0] - special, "2MB": built.leaves[9], "1GB": built.leaves[18]}
        assert printed == meta["builder_counts"]
