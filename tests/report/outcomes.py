"""Outcomes that were never measured: any sides, any figures, to be shown in any width."""

from dataclasses import replace

from hypothesis import strategies as st

from twofold.mmu import load_profile
from twofold.study import HostSummary, Mode, Outcome, Row, make_scenario
from twofold.units import parse_order

HOST = HostSummary(
    source="synthetic",
    exact=True,
    assumption="",
    notes=("a note",),
    digest="0" * 64,
    machine_bytes=1 << 35,
    free_bytes=1 << 34,
    free_blocks={0: 5, 9: 7},
    bounds={9: (1, 7), 18: (0, 0)},
)
MODES = (
    Mode(),
    Mode(page_sizes="4K,2M"),
    Mode(host_paging="pae"),
    Mode(host_paging="2-level"),
    Mode(host_paging="5-level", table_format="ept-5", guest_mode="pae"),
)
DESIGNS = (
    "small",
    "toolstack",
    "opportunistic",
    "middle",
    "a-design-of-a-package-whose-authors-like-long-names-1234567",
)
CPUS = ("zen3", "golden-cove", "my-own-cpu-with-a-name-that-goes-on-and-on-9000")


def scenario_of(modes=MODES[:1], designs=DESIGNS[:3], behaviours=("twofold",), cpus=CPUS[:1], states=1, **fields):
    """Return a scenario of these sides; designs and CPUs need not exist."""
    given = {"host": {"size": "1GiB"}, "modes": [mode.model_dump() for mode in modes], "behaviours": behaviours}
    scenario = make_scenario(given | {"repeat": states, "workloads": ["gups", "stream"]} | fields)
    profiles = tuple(replace(load_profile("zen3"), name=name) for name in cpus)
    return scenario.model_copy(update={"designs": tuple(designs), "cpus": profiles})


def outcome_of(scenario, built, priced):
    """Return the outcome of a scenario.

    Parameters
    ----------
    built : (seed, mode, behaviour, design) to (digest of tables, {order: leaves}, share)
    priced : (row without prices, digest of its tables) to its prices, or to a reason why it has none
    """
    rows = []
    for seed in scenario.seeds:
        for cpu in scenario.cpus:
            for mode in scenario.full_modes:
                for workload in scenario.workloads:
                    for pages in scenario.pages_of(mode):
                        for behaviour in scenario.behaviours:
                            for design in scenario.designs:
                                digest, leaves, share = built(seed, mode, behaviour, design)
                                row = Row(
                                    seed=seed,
                                    cpu=cpu.name,
                                    workload=workload,
                                    guest_pages=pages,
                                    design=design,
                                    behaviour=behaviour,
                                    mode=mode.name,
                                    host_paging=mode.host_paging,
                                    table_format=mode.table_format,
                                    guest_mode=mode.guest,
                                    paging=mode.paging,
                                    page_sizes=mode.sizes(),
                                    footprint=1 << 29,
                                    cell_digest="",
                                    tables_digest=digest,
                                    leaves=leaves,
                                    large_share=share,
                                    tables=len(digest),
                                    calls=len(design),
                                    extents_refused=0,
                                )
                                rows.append(replace(row, **priced(row)))
    return Outcome(scenario, HOST, 3 << 30, 1 << 29, tuple(rows), ("first", "second"), {})


def plain(scenario, shares, gains, same=(("toolstack", "opportunistic"),), impossible=()):
    """Return an outcome by design: its share in large leaves, and its gain by (workload, guest pages) or for all."""
    groups = {design: group[0] for group in same for design in group}

    def built(seed, mode, behaviour, design):
        share = shares[design]
        orders = [int(parse_order(size)) for size in mode.sizes().split(",")]
        leaves = dict.fromkeys(orders, 0) | {0: 100, orders[1]: round(share * 1000)}
        return f"{groups.get(design, design)} {behaviour}", leaves, share

    def priced(row):
        if row.guest_pages in impossible:
            return {"not_available": f"a {row.guest_pages} page is larger than the area of 512MiB"}
        gain = gains(row) if "small" in scenario.designs else None
        return {
            "answer": "0x1",
            "misses_per_1000": 498.1,
            "reads_per_walk": 4.88,
            "walk_cycles_per_access": 91.0,
            "cycles_per_access": 121.0 / (gain or 1),
            "speedup": gain,
        }

    return outcome_of(scenario, built, priced)


def _some(options, most=2):
    return st.lists(st.sampled_from(options), min_size=1, max_size=most, unique=True)


@st.composite
def outcomes(draw):
    """Any outcome: ties, ranges, sizes that are not possible, no `small`, names of any length."""
    scenario = scenario_of(
        modes=draw(_some(MODES)),
        designs=draw(_some(DESIGNS, most=4)),
        behaviours=draw(_some(("twofold", "xen-4.17"))),
        cpus=draw(_some(CPUS)),
        states=draw(st.integers(1, 3)),
        workloads=draw(_some(("gups", "stream", "chase"))),
    )
    figures = st.one_of(st.sampled_from([0.0, 0.00004, 0.5, 0.99997, 1.0, 498.1]), st.floats(0, 1e9, allow_nan=False))
    counts = st.integers(0, 2**40)
    known = {}

    def built(*key):
        if key not in known:
            orders = [int(parse_order(size)) for size in key[1].sizes().split(",")]
            digest = draw(st.sampled_from(["one", "other"]))
            first = next((found for other, found in known.items() if other[:2] == key[:2] and found[0] == digest), None)
            share = draw(st.one_of(st.sampled_from([0.0, 0.00004, 0.99997, 1.0]), st.floats(0, 1)))
            known[key] = first or (digest, {order: draw(counts) * (share > 0 or not order) for order in orders}, share)
        return known[key]

    def priced(row):
        if row.guest_pages == "1G" and draw(st.booleans()):
            return {"not_available": "a 1G page is larger than the area of 512MiB"}
        names = ("misses_per_1000", "reads_per_walk", "walk_cycles_per_access", "cycles_per_access")
        gain = draw(st.floats(0.01, 1e4)) if "small" in scenario.designs else None
        return {"answer": "0x1", "speedup": gain} | {name: draw(figures) for name in names}

    return outcome_of(scenario, built, priced)
