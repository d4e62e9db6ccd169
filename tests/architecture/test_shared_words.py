"""One place for each number: what the twins agree on stands in `formats`, and nobody takes a number from `spec`."""

import ast
import importlib
from collections.abc import Iterator

import numpy as np
import pytest
from source_tree import Module, imports, modules

FORMATS, SPEC, KERNELS = ([each for each in modules() if each.home == room] for room in ("formats", "spec", "kernels"))
WITH_TWIN = [each for each in KERNELS if not each.path.stem.startswith("_")]


def assigned(module: Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield (name, what it is made of) for each name that a module defines by itself, outside functions and classes."""
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Name) and part.id != "__all__":
                    yield part.id, node.value


def constants(module: Module) -> dict[str, int]:
    """Return the numbers that a module defines by itself; a NumPy scalar counts as the number that it holds."""
    loaded = vars(importlib.import_module(module.name))
    names = [name for name, _ in assigned(module)]
    return {name: int(loaded[name]) for name in names if isinstance(loaded[name], int | np.integer)}


def is_literal(value: ast.expr) -> bool:
    """Return whether an expression is made of literals alone, or of NumPy's types around them."""
    return {part.id for part in ast.walk(value) if isinstance(part, ast.Name)} <= {"np", "range"}


def numbers_from_spec(tree: ast.Module) -> list[int]:
    """Return the lines that take a name in capitals out of a module of `spec`."""
    from_spec = [
        (node, alias)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("twofold.spec.")
        for alias in node.names
    ]
    names = {alias.asname or alias.name for _, alias in from_spec}
    return [node.lineno for node, alias in from_spec if alias.name.isupper()] + [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.isupper()
        and isinstance(node.value, ast.Name)
        and node.value.id in names
    ]


@pytest.mark.parametrize("module", SPEC, ids=lambda module: module.place)
def test_the_spec_defines_functions_only(module):
    assert [name for name, _ in assigned(module)] == []


@pytest.mark.parametrize("module", WITH_TWIN, ids=lambda module: module.place)
def test_no_kernel_writes_down_a_number_that_the_twins_share(module):
    """A name of `formats` with the same value may only be that of `formats`, wrapped."""
    shared = {(name, value) for each in FORMATS for name, value in constants(each).items()}
    own = constants(module)
    literals = {name for name, value in assigned(module) if name in own and is_literal(value)}
    assert {name: own[name] for name in literals if (name, own[name]) in shared} == {}


def test_no_number_is_taken_from_the_spec():
    wrong = [f"{module.place}:{line}" for module in modules() for line in numbers_from_spec(module.tree)]
    assert not wrong, "\n".join(wrong)
    names = {each.name for module in modules() for each in imports(module) if each.room == "spec"}
    assert "random64" in names, "the test reads the imports that there are"


@pytest.mark.parametrize(
    "source", ["from twofold.spec.walk import READ", "from twofold.spec import traces as at\nat.LITERAL"]
)
def test_a_number_taken_from_the_spec_is_noticed(source):
    assert numbers_from_spec(ast.parse(source))


def test_a_repeated_number_is_noticed():
    assert is_literal(ast.parse("np.uint64(7)", mode="eval").body)
    assert not is_literal(ast.parse("np.uint64(at.EPT_RIGHTS)", mode="eval").body)
