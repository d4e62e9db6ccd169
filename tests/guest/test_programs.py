"""The workload programs: run as they are, they touch what the generators say; built again, they are equal."""

import hashlib
import io
import json
import runpy
import struct
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from unicorn import (
    UC_ARCH_X86,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_MEM_WRITE,
    UC_MODE_64,
    UC_PROT_EXEC,
    UC_PROT_READ,
    Uc,
)
from unicorn.x86_const import UC_X86_REG_RDI

from twofold.trace import (
    AREA_BASE,
    PARAMETERS_BYTES,
    PHASE_DONE,
    PHASE_MEASURED,
    PHASE_OFFSET,
    RESULT_OFFSET,
    WORKLOADS,
)

NAMES = sorted(WORKLOADS)
PROGRAMS = resources.files("twofold") / "data" / "programs"
TOOL = Path(__file__).parents[2] / "tools" / "build_programs.py"
PARAMETERS_GVA = 0x10000
PAGE = 4096
TIMEOUT_US = 60_000_000  # ends a program that does not halt


class Recorder:
    """One run of a program on a bare processor: no paging, no stack, nothing mapped but what it may touch."""

    def __init__(self, workload, base, footprint, steps, seed):
        self.base, self.footprint = base, footprint
        self.phases, self.accesses, self.elsewhere = [], [], []
        self.cpu = Uc(UC_ARCH_X86, UC_MODE_64)
        entry = self.load(workload.program())
        self.cpu.mem_map(PARAMETERS_GVA, PAGE)
        self.cpu.mem_write(PARAMETERS_GVA, workload.parameters(seed, base, footprint, steps))
        self.cpu.mem_map(base, footprint)
        self.cpu.reg_write(UC_X86_REG_RDI, PARAMETERS_GVA)
        self.cpu.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self.record)
        self.cpu.emu_start(entry, 0, timeout=TIMEOUT_US)

    def load(self, program):
        """Map the program's one segment; return its entry point."""
        elf = ELFFile(io.BytesIO(program))
        (segment,) = elf.iter_segments()
        self.image = range(segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"])
        self.cpu.mem_map(segment["p_vaddr"], 4 * PAGE, UC_PROT_READ | UC_PROT_EXEC)
        self.cpu.mem_write(segment["p_vaddr"], segment.data())
        return elf["e_entry"]

    def record(self, _cpu, access, gva, bytes_, value, _user):
        """Keep the accesses of the measured part, and each phase that the program enters."""
        is_write = access == UC_MEM_WRITE
        if self.base <= gva < self.base + self.footprint:
            assert bytes_ == 8
            if self.phases == [PHASE_MEASURED]:
                self.accesses.append((gva, is_write))
        elif is_write and gva == PARAMETERS_GVA + PHASE_OFFSET:
            self.phases.append(value)
        elif gva not in self.image and not PARAMETERS_GVA <= gva < PARAMETERS_GVA + PARAMETERS_BYTES:
            self.elsewhere.append(gva)

    @property
    def result(self):
        """The answer that stands in the parameter block."""
        return struct.unpack("<Q", self.cpu.mem_read(PARAMETERS_GVA + RESULT_OFFSET, 8))[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("footprint", "steps", "seed"),
    [
        (1 << 20, 1000, 0x1234_5678_9ABC_DEF0),
        (64 << 10, 3000, 2**64 - 1),
        (1 << 17, 0, 1),
        pytest.param(1 << 20, 5000, 0, marks=pytest.mark.medium),
        pytest.param(1 << 22, 1000, 0x1234_5678_9ABC_DEF0, marks=pytest.mark.medium),
        (1 << 20, 0, 1),
    ],
)
def test_the_program_touches_what_its_generator_says_and_returns_its_answer(name, footprint, steps, seed):
    workload = WORKLOADS[name]
    run = Recorder(workload, AREA_BASE, footprint, steps, seed)
    gvas = workload.addresses(seed, AREA_BASE, footprint, steps)
    assert run.accesses == [*zip(gvas.tolist(), workload.kinds * steps, strict=True)]
    assert run.result == workload.answer(seed, AREA_BASE, footprint, steps)
    assert run.phases == [PHASE_MEASURED, PHASE_DONE]
    assert run.elsewhere == [], "neither a stack nor data of its own but constants"


@pytest.mark.medium
def test_a_program_that_comes_to_its_end_starts_again():
    """A sort of 2048 words takes 11 passes; the other two end sooner in the test above, or repeat the same work."""
    workload, steps = WORKLOADS["sort"], 11 * 2048 + 100
    run = Recorder(workload, AREA_BASE, 64 << 10, steps, 4)
    assert [gva for gva, _ in run.accesses] == workload.addresses(4, AREA_BASE, 64 << 10, steps).tolist()
    assert run.result == workload.answer(4, AREA_BASE, 64 << 10, steps)


@pytest.mark.medium
def test_the_area_may_lie_where_a_32_bit_guest_can_reach_it():
    for workload in WORKLOADS.values():
        run = Recorder(workload, 0x4000_0000, 1 << 20, 500, 9)
        assert [gva for gva, _ in run.accesses] == workload.addresses(9, 0x4000_0000, 1 << 20, 500).tolist()
        assert run.result == workload.answer(9, 0x4000_0000, 1 << 20, 500)


@pytest.mark.parametrize("name", NAMES)
def test_the_program_is_a_small_static_image_at_4_mib(name):
    program = WORKLOADS[name].program()
    elf = ELFFile(io.BytesIO(program))
    (segment,) = elf.iter_segments()
    assert (elf["e_machine"], elf["e_type"], elf.elfclass) == ("EM_X86_64", "ET_EXEC", 64)
    assert segment["p_type"] == "PT_LOAD"
    assert elf["e_entry"] == segment["p_vaddr"] == 0x400000
    assert segment["p_memsz"] == segment["p_filesz"] <= 16 << 10
    assert segment["p_flags"] == 5, "readable and executable, never writable"
    assert len(program) <= 16 << 10


def manifest():
    """Return what the programs in the repository were built from and with."""
    return json.loads((PROGRAMS / "manifest.json").read_text(encoding="utf-8"))


def hashes(*suffixes):
    """Return the hash of every file beside the manifest that ends so, by name."""
    files = [entry for entry in PROGRAMS.iterdir() if entry.name.endswith(suffixes)]
    return {entry.name: hashlib.sha256(entry.read_bytes()).hexdigest() for entry in files}


def test_the_programs_were_built_from_the_sources_beside_them():
    assert hashes(".c", ".h", ".ld") == manifest()["sources"]
    assert hashes(".elf") == manifest()["programs"]
    assert {f"{name}{kind}" for name in WORKLOADS for kind in (".elf", ".i386.elf")} == {*manifest()["programs"]}


def test_the_table_of_ranks_in_the_programs_is_the_generators():
    header = runpy.run_path(str(TOOL.with_name("zipf_header.py")))["header"]
    assert (PROGRAMS / "zipf.h").read_text(encoding="utf-8") == header()


def test_the_programs_were_built_with_the_flags_of_the_tool():
    kinds = runpy.run_path(str(TOOL))["KINDS"]
    assert {kind: [*flags] for kind, flags in kinds.items()} == manifest()["flags"]


@pytest.mark.medium
def test_building_again_gives_the_same_bytes(tmp_path):
    tool = runpy.run_path(str(TOOL))
    for name, key in (("gcc", "compiler"), ("ld", "linker")):
        if (found := tool["version_of"](name)) != manifest()[key]:
            pytest.skip(f"needs {name} as it was: {manifest()[key]}; found {found}")
    subprocess.run([sys.executable, TOOL, "--output", tmp_path], check=True)
    for name in (*manifest()["programs"], "manifest.json"):
        assert (tmp_path / name).read_bytes() == (PROGRAMS / name).read_bytes(), name
