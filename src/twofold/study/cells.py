"""Cells: the rows of a comparison before they are known, each with all that its row depends on.

A cell holds everything that its row depends on, the CPU's whole profile and the digest of the host's free memory
included; so the same cell gives the same row on any machine, with the same version of Twofold and of its designs. Read
first: `Cell`; then `compare.run_cell`, which makes the row.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from twofold.domain import SmallDesign
from twofold.errors import SizeError
from twofold.freemaps import FreeMap
from twofold.guest import default_footprint
from twofold.study.hosts import HostStates, free_digest
from twofold.study.modes import Frozen, Mode
from twofold.study.refusal import refusal
from twofold.study.row import VERSION, Key, variant_name
from twofold.study.scenario import Cpu, GuestScenario, Scenario, check_scenario
from twofold.study.sites import Site, guest_memory
from twofold.units import FRAME_BYTES, FRAME_SHIFT, parse_bytes


class Base(NamedTuple):
    """What a speed-up is measured against, in the same mode and cell."""

    behaviour: str
    design: str


class Cell(Frozen):
    """One row to be. Frozen, and whole: `model_dump_json` takes it to another machine.

    Parameters
    ----------
    seed : of the host state and of the machine
    mode : with every choice made
    cpu : the whole profile
    guest : with its memory and its workload's area as numbers
    workload_seed : of the programs and their addresses
    base : what its speed-up is measured against; None where nothing is
    free_map : SHA-256 of the host's free memory
    """

    seed: int
    cpu: Cpu
    mode: Mode
    workload: str
    guest_pages: str
    behaviour: str
    design: str
    guest: GuestScenario
    accesses: int
    warmup: int
    executed: int
    workload_seed: int
    base: Base | None
    free_map: str
    machine_bytes: int

    @property
    def key(self) -> Key:
        """What the row will be about, on whichever host state."""
        variant = variant_name(self.design, self.behaviour, self.mode.name)
        return Key(self.cpu.name, self.workload, self.guest_pages, variant)

    @property
    def name(self) -> str:
        """What people call it."""
        return (
            f"{self.workload} in {self.guest_pages} guest pages, {self.key.variant}, {self.cpu.name}, seed {self.seed}"
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all of it: the same on every machine, another when anything differs that the row depends on."""
        text = json.dumps([VERSION, self.model_dump(mode="json")], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def site(self) -> Site:
        """How its guest comes to be."""
        return Site(self.guest, self.mode, self.behaviour, self.design, self.seed)

    @property
    def footprint(self) -> int:
        """The workload's area [bytes]."""
        return parse_bytes(self.guest.footprint or 0)

    @property
    def base_cell(self) -> "Cell | None":
        """The cell that its speed-up is measured against; None where nothing is."""
        if self.base is None:
            return None
        return self.model_copy(update={"behaviour": self.base.behaviour, "design": self.base.design})


def cells_of(scenario: Scenario, free: FreeMap | None = None) -> tuple[Cell, ...]:
    """Return every cell of a comparison, in the order of its rows.

    free : the host's free memory, where the caller has it already; None: as the scenario says
    """
    check_scenario(scenario)
    states = HostStates(scenario.host, scenario.seed, free)
    return tuple(cell for seed in scenario.seeds for cell in cells_of_seed(scenario, seed, states))


def cells_of_seed(scenario: Scenario, seed: int, states: HostStates) -> Iterator[Cell]:
    """Yield the cells of one host state: by CPU, mode, workload, guest pages, behaviour and design."""
    first, state = states.get(scenario.seed), states.get(seed)
    common: dict[str, Any] = {
        "seed": seed,
        "guest": whole_guest(scenario, first),
        "accesses": scenario.accesses,
        "warmup": scenario.warmup_accesses,
        "executed": scenario.executed,
        "workload_seed": scenario.seed,
        "base": _base(scenario),
        "free_map": free_digest(state),
        "machine_bytes": state.machine_frames * FRAME_BYTES,
    }
    for cpu, mode in product(scenario.cpus, scenario.full_modes):
        whole = mode.model_copy(update={"guest_mode": mode.guest, "page_sizes": mode.sizes()})
        sides = (scenario.workloads, scenario.pages_of(mode), scenario.behaviours, scenario.designs)
        for workload, pages, behaviour, design in product(*sides):
            own = common | {"workload": workload, "guest_pages": pages, "behaviour": behaviour, "design": design}
            yield Cell(cpu=cpu, mode=whole, **own)


def whole_guest(scenario: Scenario, free: FreeMap) -> GuestScenario:
    """Return a scenario's guest with every number in it; all modes have one area, so that they compare."""
    memory, asked = guest_memory(scenario, free), scenario.guest.footprint
    frames = memory >> FRAME_SHIFT
    try:
        own = min(default_footprint(frames, mode.guest) for mode in scenario.modes) if asked is None else 0
    except SizeError as error:
        given = error.text if scenario.guest.memory is None else scenario.guest.memory
        raise refusal("scenario", ("guest", "memory"), str(SizeError(given, error.problem))) from None
    area = own if asked is None else parse_bytes(asked)
    numbers = {"memory": str(memory), "footprint": str(area), "page_sizes": None}
    return scenario.guest.model_copy(update=numbers)


def _base(scenario: Scenario) -> Base | None:
    """Return what speed-ups are measured against: `small` under the first behaviour, so that behaviours compare too."""
    small = SmallDesign.name
    return Base(scenario.behaviours[0], small) if small in scenario.designs else None
