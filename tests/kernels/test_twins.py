"""Each kernel has a twin of the same name and parameters in `spec`, and nothing in `spec` lacks one.

The kernels of the block simulator have none by function (docs/decisions/0007-mmu-fast-path.md): a list says what holds
each of them instead, and all that they are made of is found from there.
"""

import ast
import importlib
from pathlib import Path

import pytest

from twofold import kernels, spec


def sources(package) -> list[str]:
    """Return the names of a package's public modules."""
    return sorted(path.stem for path in Path(package.__file__).parent.glob("[a-z]*.py"))


MODULES = sources(kernels)
CORE = ["audit", "frames", "heap", "lookup", "p2m", "resize", "walk"]
# Questions about an entry, which kernels ask in `_entries` or in place.
SPEC_ONLY = {"p2m": {"top_level", "slot_of", "holds_table"}, "resize": {"same_but_marks"}}
KERNELS = ("kernel", "allocating")
HELPERS = ("inner", "folded", "part")

WHOLE_RUNS = "tests/mmu/test_mmu_blocks.py::test_the_fast_path_counts_and_keeps_what_the_general_path_does"
SHIPPED_CPUS = (
    "tests/mmu/test_mmu_blocks.py::test_the_fast_path_is_the_readable_model_on_every_shipped_cpu_that_it_takes"
)
# Kernels without a twin: the tests that hold each to the general path, which has one, and why there is no other way.
HELD_IN_WHOLE_RUNS = {
    "blocks.block.run": (
        (WHOLE_RUNS, SHIPPED_CPUS),
        "another algorithm than spec.mmu.run, stage by stage; what the two have in common is what they count and leave",
    ),
    "blocks.state.take_rows": (
        (WHOLE_RUNS, "tests/mmu/test_mmu_blocks.py::test_stale_entries_are_used_on_by_long_traces_too"),
        "rows exist nowhere else; a run begins with what the one before it left, so a tag that is lost changes counts",
    ),
    "blocks.state.give_rows": (
        (WHOLE_RUNS, SHIPPED_CPUS),
        "rows exist nowhere else; the arrays that it fills are compared with those of the general path, all of them",
    ),
}
BLOCKS = sorted((Path(kernels.__file__).parent / "blocks").glob("[a-z]*.py"))


def functions(package, module: str, decorators: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return {name: parameter names} of a module's functions, of those with one of these decorators if any is given."""
    return functions_of_file(Path(package.__file__).with_name(f"{module}.py"), decorators)


def functions_of_file(path: Path, decorators: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return {name: parameter names} as `functions` does, of a file."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and (not decorators or decorators_of(node) & set(decorators)):
            found[node.name] = [argument.arg for argument in node.args.args]
    return found


def decorators_of(node: ast.FunctionDef) -> set[str]:
    """Return the names of a function's decorators."""
    return {part.id for part in node.decorator_list if isinstance(part, ast.Name)}


def compiled_functions(module: str) -> dict[str, list[str]]:
    """Return the kernels of a module and their helpers."""
    return functions(kernels, module, KERNELS + HELPERS)


def test_both_packages_have_the_same_modules():
    assert sources(spec) == MODULES
    for package in (spec, kernels):
        assert [name for name in MODULES if name not in package.__all__] == []


@pytest.mark.medium
@pytest.mark.parametrize("module", MODULES)
def test_every_kernel_has_a_twin_with_the_same_parameters(module):
    twins = functions(spec, module)
    compiled = functions(kernels, module, KERNELS)
    assert compiled
    assert {name: twins.get(name) for name in compiled} == compiled


@pytest.mark.parametrize("module", CORE)
def test_every_step_of_the_spec_is_a_kernel_or_a_helper_of_kernels(module):
    fast = compiled_functions(module)
    public = {name: names for name, names in functions(spec, module).items() if not name.startswith("_")}
    lacking = set(public) - set(fast)
    assert lacking == SPEC_ONLY.get(module, set())
    assert {name: fast[name] for name in public if name in fast} == {
        name: names for name, names in public.items() if name in fast
    }


@pytest.mark.medium
@pytest.mark.parametrize("module", CORE)
def test_every_function_beside_the_kernels_is_compiled(module):
    assert functions(kernels, module) == compiled_functions(module)


@pytest.mark.parametrize("module", MODULES)
def test_every_kernel_names_its_twin(module):
    loaded = importlib.import_module(f"twofold.kernels.{module}")
    for name in functions(kernels, module, KERNELS):
        assert f"Twin: spec.{module}.{name}" in getattr(loaded, name).__doc__


# -- the block simulator --------------------------------------------------------------------------------------------


def test_every_kernel_has_a_twin_or_is_held_in_whole_runs():
    """Modules of the package's top have twins, as the tests above ask; all other kernels stand in the list."""
    root = Path(kernels.__file__).parent
    others = {
        f"{'.'.join(path.relative_to(root).with_suffix('').parts)}.{name}"
        for path in sorted(root.rglob("*.py"))
        if path.parent != root or path.stem not in MODULES
        for name in functions_of_file(path, KERNELS)
    }
    assert others == HELD_IN_WHOLE_RUNS.keys()


@pytest.mark.parametrize("held", HELD_IN_WHOLE_RUNS)
def test_what_holds_a_kernel_exists_and_says_why(held):
    tests, reason = HELD_IN_WHOLE_RUNS[held]
    assert len(reason.split()) > 8
    for test in tests:
        path, _, name = test.partition("::")
        assert name in functions_of_file(Path(__file__).parents[2] / path), f"{test} is gone"


def names_used(node: ast.AST) -> set[str]:
    """Return all names that a piece of source reads."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}


def bindings(path: Path):
    """Yield (name, the names that it is made of) for what a module of the block simulator defines."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, names_used(node)
        elif isinstance(node, ast.Assign):
            for target in ast.walk(node.targets[0]):
                if isinstance(target, ast.Name):
                    yield target.id, names_used(node.value)


def test_every_step_of_the_block_simulator_is_part_of_a_kernel_that_is_held():
    """A helper that no held kernel comes to would be compiled for nobody, and compared with nothing."""
    uses = {}
    for path in BLOCKS:
        for name, used in bindings(path):
            uses[name] = uses.get(name, set()) | used
    reached, waiting = set(), {held.rpartition(".")[2] for held in HELD_IN_WHOLE_RUNS}
    while waiting:
        reached |= waiting
        waiting = {name for each in waiting for name in uses.get(each, ())} - reached
    assert {name for path in BLOCKS for name in functions_of_file(path)} <= reached


def is_compiled(node: ast.FunctionDef) -> bool:
    """Return whether a function is compiled, or makes one that is: all that stands in the block simulator."""
    if node.name.startswith("make_"):
        (made,) = (part for part in node.body if isinstance(part, ast.FunctionDef))
        return is_compiled(made)
    return bool(decorators_of(node) & {*KERNELS, *HELPERS, "intrinsic"})


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
def test_every_function_of_the_block_simulator_is_compiled(path):
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in nodes if not is_compiled(node)] == []
