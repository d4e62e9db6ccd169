"""The public names: `twofold.__all__` is complete, resolves and is documented."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import twofold

STUB = Path(twofold.__file__).with_suffix(".pyi")


@pytest.mark.parametrize("name", twofold.__all__)
def test_a_public_name_resolves_and_is_documented(name):
    thing = getattr(twofold, name)
    if callable(thing) or inspect.ismodule(thing):
        assert inspect.getdoc(thing), f"twofold.{name} has no docstring"


def test_public_names_are_listed_once():
    assert len(set(twofold.__all__)) == len(twofold.__all__)


def test_the_stub_names_what_the_facade_gives():
    """Type checkers read the stub, Python reads the facade: the same names in both."""
    imported = {
        alias.asname or alias.name
        for node in ast.parse(STUB.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(twofold.__all__) - {"__version__"} <= imported


def test_dir_lists_every_public_name():
    assert set(twofold.__all__) <= set(dir(twofold))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError):
        twofold.no_such_name  # noqa: B018 - looking it up is the test


def test_importing_twofold_loads_nothing_heavy():
    code = "import sys, twofold; print(*sorted({'numpy', 'numba', 'polars', 'unicorn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
