"""Both packages offer what `formats.engine` says that an engine offers.

mypy reads this file beside the package: it holds the assignments below. The modules are taken one by one because mypy
does not look into the modules of a package that it compares with a protocol.
"""

import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from twofold import kernels, spec
from twofold.formats import engine as offered

AUDITS: tuple[offered.AuditEngine, ...] = (spec.audit, kernels.audit)
FRAMES: tuple[offered.FramesEngine, ...] = (spec.frames, kernels.frames)
HEAPS: tuple[offered.HeapEngine, ...] = (spec.heap, kernels.heap)
LOOKUPS: tuple[offered.LookupEngine, ...] = (spec.lookup, kernels.lookup)
MMUS: tuple[offered.MmuEngine, ...] = (spec.mmu, kernels.mmu)
P2MS: tuple[offered.P2MEngine, ...] = (spec.p2m, kernels.p2m)
REQUESTS: tuple[offered.RequestsEngine, ...] = (spec.requests, kernels.requests)
RESIZES: tuple[offered.ResizeEngine, ...] = (spec.resize, kernels.resize)
SWEEPS: tuple[offered.SweepEngine, ...] = (spec.sweep, kernels.sweep)
TRACES: tuple[offered.TracesEngine, ...] = (spec.traces, kernels.traces)
WALKS: tuple[offered.WalkEngine, ...] = (spec.walk, kernels.walk)
WORKLOADS: tuple[offered.WorkloadsEngine, ...] = (spec.workloads, kernels.workloads)
ENGINES: tuple[offered.Engine, ...] = (spec, kernels)


def members(protocol: type) -> dict[str, property]:
    """Return the properties of a protocol."""
    return {name: each for name, each in vars(protocol).items() if isinstance(each, property)}


MODULES = {name: get_type_hints(each.fget)["return"] for name, each in members(offered.Engine).items()}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("engine", [spec, kernels], ids=["spec", "kernels"])
def test_an_engine_offers_every_function(engine: offered.Engine, module: str) -> None:
    found = getattr(engine, module)
    wanted = members(MODULES[module])
    assert wanted
    assert [name for name in wanted if not callable(getattr(found, name, None))] == []


@pytest.mark.parametrize("module", MODULES)
def test_mypy_holds_every_module_to_its_protocol(module: str) -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert f"offered.{MODULES[module].__name__}, ...] = (spec.{module}, kernels.{module})" in source


def test_mypy_reads_this_file() -> None:
    here = Path(__file__)
    settings = tomllib.loads((here.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert str(here.relative_to(here.parents[2])) in settings["tool"]["mypy"]["files"]
