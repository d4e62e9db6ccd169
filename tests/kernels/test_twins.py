"""Each kernel has a twin of the same name and parameters in `spec`, and nothing in `spec` lacks one."""

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
HELPERS = ("inline", "bare", "folded")


def functions(package, module: str, decorator: str | None = None) -> dict[str, list[str]]:
    """Return {name: parameter names} of a module's functions, of those with this decorator if one is given."""
    path = Path(package.__file__).with_name(f"{module}.py")
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names = {part.id for part in node.decorator_list if isinstance(part, ast.Name)}
            if decorator is None or decorator in names:
                found[node.name] = [argument.arg for argument in node.args.args]
    return found


def compiled_functions(module: str) -> dict[str, list[str]]:
    """Return the kernels of a module and their helpers."""
    found = functions(kernels, module, "kernel")
    for decorator in HELPERS:
        found |= functions(kernels, module, decorator)
    return found


def test_both_packages_have_the_same_modules():
    assert sources(spec) == MODULES
    for package in (spec, kernels):
        assert [name for name in MODULES if name not in package.__all__] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_kernel_has_a_twin_with_the_same_parameters(module):
    twins = functions(spec, module)
    compiled = functions(kernels, module, "kernel")
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


@pytest.mark.parametrize("module", CORE)
def test_every_function_beside_the_kernels_is_compiled(module):
    assert functions(kernels, module) == compiled_functions(module)


@pytest.mark.parametrize("module", MODULES)
def test_every_kernel_names_its_twin(module):
    loaded = importlib.import_module(f"twofold.kernels.{module}")
    for name in functions(kernels, module, "kernel"):
        assert f"Twin: spec.{module}.{name}" in getattr(loaded, name).__doc__
