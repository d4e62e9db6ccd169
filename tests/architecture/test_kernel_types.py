"""What Numba makes of the kernels: no number is a float, and no entry loses its sign bit to int64.

Numba types `u64 + i64` as float64 and `u64 + 1` as int64 without a word. So every kernel that some work has compiled is
typed again here, and the types of all its variables are read, intermediate ones too.
"""

import dataclasses
import importlib
import pkgutil
import re

import numpy as np
import pytest
from numba.core import bytecode, compiler, typed_passes, types, untyped_passes
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from source_tree import REPOSITORY, imports, modules

from twofold import kernels
from twofold.domain import Machine, build
from twofold.errors import NotPresentError
from twofold.formats.p2m_types import P2MType
from twofold.formats.table_formats import GUEST_SHAPES, NPT_PAE
from twofold.formats.walk_state import MAX_STEPS, READ, STEP_COLUMNS, WRITE
from twofold.freemaps import FreeMap
from twofold.guest import Guest
from twofold.mmu import Mmu, load_profile
from twofold.mmu.blocks import LEAST_ACCESSES
from twofold.study import curve, simulate
from twofold.trace import AREA_BASE, WORKLOADS, open_reader

ENTRIES = {"entry", "word", "leaf", "flags"}  # what kernels call a 64-bit entry, or bits that go into one
MAY_BE_FLOAT = ("_ratio", "_share", "_seconds")  # ends of the names of variables that are meant to be floats


PACKAGE = "twofold.kernels."


def kernel_modules():
    """Return every module of kernels and of the packages in it, private ones too."""
    return [importlib.import_module(each.name) for each in pkgutil.walk_packages(kernels.__path__, PACKAGE)]


def all_dispatchers():
    """Return every kernel and helper by its module and name."""
    return {
        f"{module.__name__.removeprefix(PACKAGE)}.{name}": thing
        for module in kernel_modules()
        for name, thing in vars(module).items()
        if isinstance(thing, Dispatcher) and thing.py_func.__module__ == module.__name__
    }


def is_part(dispatcher) -> bool:
    """Return whether a step of a kernel is written into its callers, and typed there."""
    return dispatcher.targetoptions.get("inline") == "always"


@pytest.fixture
def dispatchers():
    """Every kernel and helper by name, after some work has given each the types that it is called with."""
    work()
    return all_dispatchers()


def typed(dispatchers):
    """{kernel: its variables as (name, type)}; typing a caller gives the helpers that it calls their types too."""
    found, versions = {}, dict.fromkeys(dispatchers, 0)
    while grown := [name for name, each in dispatchers.items() if len(each.signatures) > versions[name]]:
        for name in grown:
            versions[name] = len(dispatchers[name].signatures)
            found[name] = list(variables(dispatchers[name]))
    return found


def exercise_mmu(memory, root: int) -> None:
    """Load the roots of PAE tables, and use rows of tags by themselves: nothing else here does."""
    profile = load_profile("zen3")
    loaded = dataclasses.replace(profile.pae_root, value="load")
    shapes = GUEST_SHAPES["pae"], NPT_PAE.shape
    Mmu(dataclasses.replace(profile, pae_root=loaded), memory, 1, root, shapes=shapes)
    rows, uses = np.zeros((1, 64), np.uint32), np.zeros(1, np.uint32)
    for touch in (kernels.lru_simd.touch_rows, kernels.lru_simd.touch_rows_scalar):
        for ways in (4, 16, 64):
            touch(rows[:, :ways].copy(), ways, uses, uses)


def exercise_blocks(guest: Guest) -> None:
    """Run a trace that is long enough for the block simulator, which compiles all of it."""
    pages = np.uint64(guest.area_base) + (
        np.arange(LEAST_ACCESSES, dtype=np.uint64) << np.uint64(12) & np.uint64(0xFFFF)
    )
    assert simulate(pages, guest, cpu="skylake").accesses == LEAST_ACCESSES
    assert kernels.blocks.run.signatures, "it went the general way"


def work():
    """Build, look up, split, audit and tear down a domain; run the MMU and the workload workloads."""
    with Machine(free=FreeMap.empty_machine("64MiB")) as machine:
        domain = machine.create_domain("16MiB")
        build(domain, "opportunistic")
        p2m = domain.p2m
        p2m.split(512, 0)
        p2m.translate(np.arange(10))
        p2m.translate(np.arange(1 << 16) % 4096)
        p2m.get_entry(512)
        p2m.leaf_array()
        assert p2m.audit().clean
        machine.heap.free(machine.heap.alloc(0), 0)
        machine.heap.blocks()
        machine.frame_table.holds(*domain.pool.runs, domain.domid, 2)
        mmu = Mmu(load_profile("zen3"), machine.arena.tables, 1, int(p2m.root))
        with pytest.raises(NotPresentError):
            mmu.run(np.zeros(1, np.uint64))
        mmu.invalidate_page(0)
        exercise_mmu(machine.arena.tables, int(p2m.root))
        guest = Guest(domain, footprint="64KiB", accessed_dirty="clear")
        exercise_walks(guest)
        exercise_blocks(guest)
        exercise(p2m)
        for workload in WORKLOADS.values():
            workload.addresses(0, AREA_BASE, 1 << 16, 1, 0)
        curve([0])
        curve([0], sets=64)
        curve([0], sets=2, ways=20)
        domain.destroy()
    for sample in ("lackey.txt", "instructions.champsim"):
        list(open_reader(REPOSITORY / "tests" / "golden" / "traces" / sample).blocks())
    with Machine("64MiB", paging="2-level") as machine:  # entries of 32 bits
        domain = machine.create_domain("16MiB")
        build(domain, "small")
        guest = Guest(domain, mode="2-level", footprint="64KiB", accessed_dirty="clear")
        exercise_walks(guest)
        exercise(domain.p2m)


def exercise_walks(guest):
    """Look at an address, store to it, and access what nobody has mapped: in the guest's tables, and in the P2M."""
    steps = np.zeros((MAX_STEPS, STEP_COLUMNS), np.uint64)
    guest.walk(guest.area_base)
    assert guest.access(guest.area_base, WRITE, steps)[2]
    assert guest.access(0, READ, steps).is_guests
    mfn = guest.domain.p2m.get_entry(guest.tables.root).mfn
    guest.domain.p2m.unmap(guest.tables.root, 1)
    assert guest.access(guest.area_base, READ, steps).in_walk
    guest.domain.p2m.set_entry(guest.tables.root, mfn, 0)


def exercise(p2m):
    """Do everything that a P2M can do once, and one thing while somebody listens."""
    told = []
    p2m.on_change(told.append, before=True)
    p2m.set_entry(0, 0, 0)
    p2m.off_change(told.append)
    assert told
    p2m.set_entries([0, 1], [0, 1])
    p2m.remove_entries([1])
    p2m.unmap(0, 1)
    p2m.runs(0, 100)
    p2m.translate([0])
    p2m.translate(np.zeros(5000, np.uint64))
    p2m.leaf_array()
    p2m.split(1024, 0)
    p2m.merge(1024, p2m.geometry.leaf_orders[1])
    p2m.merge_all()
    p2m.split_all(order=0)
    p2m.change_type(0, 10, P2MType.RAM_RO)
    p2m.fault(1024 << 12, "write")
    p2m.clear_frames(0, 10)
    p2m.audit()


def variables(dispatcher):
    """Yield (name, type) for every variable of every version of a kernel, and for what it returns."""
    for signature in dispatcher.signatures:
        state = typed_state(dispatcher.py_func, signature)
        yield from state.typemap.items()
        yield "return", state.return_type


def typed_state(function, signature):
    """Return what Numba's own passes know of a function after typing it for these arguments."""
    target = cpu_target.target_context
    library = target.codegen().create_library(function.__name__)
    flags = compiler.Flags()
    state = compiler.Compiler(cpu_target.typing_context, target, library, signature, None, flags, {}).state
    state.func_id = bytecode.FunctionIdentity.from_function(function)
    untyped_passes.ExtractByteCode().run_pass(state)
    passes = compiler.DefaultPassBuilder.define_untyped_pipeline(state)
    passes.add_pass(typed_passes.NopythonTypeInference, "types only")
    passes.finalize()
    passes.run(state)
    return state


def parts_of(type_):
    """Yield the types that a type is made of: items of an array, members of a tuple."""
    if isinstance(type_, types.Array):
        yield type_.dtype
    elif isinstance(type_, types.BaseTuple):
        for member in type_:
            yield from parts_of(member)
    else:
        yield type_


def own_name(variable):
    """Return a variable's name in the source: Numba numbers its versions, `entry.2`, in a part `part_v7_entry_2`."""
    name = variable.removeprefix("arg.").partition(".")[0]
    in_part = re.fullmatch(r".*_v\d+_(\D.*?)(_\d+)?", name)
    return in_part[1] if in_part else name


def parts_typed(found):
    """Return the names of the parts whose variables are among those of their callers."""
    variables_ = (variable for types_ in found.values() for variable, _ in types_)
    return {part for variable in variables_ for part in re.findall(r"([a-z]\w*?)_v\d+_", variable)}


@pytest.mark.slow
def test_kernels_compute_in_whole_numbers_and_entries_are_unsigned(dispatchers):
    found = typed(dispatchers)
    parts = {name for name, each in dispatchers.items() if is_part(each)}
    assert dispatchers.keys() - found.keys() == parts, "the work does not reach these"
    assert {name.rpartition(".")[2] for name in parts} <= parts_typed(found), "nor these"
    wrong = [
        f"{name}: {variable} is {type_}"
        for name, types_ in found.items()
        for variable, type_ in types_
        if is_wrong(own_name(variable), type_)
    ]
    assert not wrong, "\n".join(wrong)


def is_wrong(variable, type_):
    """Return whether a variable is a float that is not named so, or an entry that is not a 64-bit word."""
    if variable in ENTRIES:
        return type_ != types.uint64
    has_float = any(isinstance(part, types.Float | types.Complex) for part in parts_of(type_))
    return has_float and not variable.endswith(MAY_BE_FLOAT)


def test_every_kernel_has_one_version_a_call(dispatchers):
    """A wrapper that passes an int here and a `np.uint64` there compiles a kernel twice."""
    twice = {
        name: dispatcher.signatures
        for name, dispatcher in dispatchers.items()
        if isinstance(dispatcher._cache, FunctionCache)  # a helper of kernels may have one for each kind of caller
        and len({tuple(map(types.unliteral, signature)) for signature in dispatcher.signatures})
        > len(entry_widths(dispatcher))
    }
    assert not twice, twice


def is_table(array) -> bool:
    """Return whether an array holds tables, or the regions that stand for the upper ones: in 32 bits where they fit."""
    return array.ndim == 2 or array.dtype == types.uint32


def entry_widths(dispatcher) -> set[str]:
    """Return the kinds of tables that a kernel was compiled for: entries of 64 bits or of 32, in each dimension."""
    return {str([array for array in arrays_of(signature) if is_table(array)]) for signature in dispatcher.signatures}


def arrays_of(types_):
    """Yield the arrays among some types, those that stand in an operand of several too."""
    for each in types_:
        if isinstance(each, types.Array):
            yield each
        elif isinstance(each, types.BaseTuple):
            yield from arrays_of(each)


def test_a_float_in_a_kernel_is_noticed():
    @kernels._jit.kernel
    def total_of(steps):
        total = np.uint64(0)
        for step in range(steps):
            total += step
        return total

    total_of(3)
    assert types.float64 in [type_ for name, type_ in variables(total_of) if own_name(name) == "total"]


def test_an_entry_that_lost_its_sign_bit_in_a_part_is_noticed():
    @kernels._jit.part
    def next_entry(memory, slot):
        entry = np.int64(memory[slot])
        return entry + 1

    @kernels._jit.kernel
    def last_of(memory):
        return next_entry(memory, len(memory) - 1)

    last_of(np.zeros(3, np.uint64))
    found = list(variables(last_of))
    assert "next_entry" in " ".join(parts_typed({"last_of": found}))
    assert [name for name, type_ in found if is_wrong(own_name(name), type_)]


def test_what_python_cannot_call_is_imported_by_kernels_only():
    """It would crash: `inner` leaves out the wrapper through which Python calls."""
    options = {name: each.targetoptions for name, each in all_dispatchers().items()}
    without_wrapper = {f"{PACKAGE}{name}" for name, each in options.items() if each.get("no_cpython_wrapper")}
    assert without_wrapper
    wrong = [
        f"{module.place}:{each.line}: {each.name}"
        for module in modules()
        if module.home != "kernels"
        for each in imports(module)
        if f"{each.target}.{each.name}" in without_wrapper
    ]
    assert not wrong, "\n".join(wrong)
