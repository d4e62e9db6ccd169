"""What `twofold --help` loads: a list, so that a heavy import at the top of a module is noticed."""

import subprocess
import sys

import pytest

# Third-party packages that asking for help may load: the command line itself and the lazy facade.
ALLOWED = {
    "_distutils_hack",  # setuptools' own, loaded by Python at start where it is installed
    "annotated_doc",
    "lazy_loader",
    "markdown_it",
    "mdurl",
    "packaging",
    "platformdirs",
    "pygments",
    "rich",
    "shellingham",
    "typer",
    "typing_extensions",
}
HEAVY = {"llvmlite", "numba", "numpy", "polars", "pydantic", "unicorn"}

LOADED = """
import sys
started = set(sys.modules)  # what Python's own start-up files have loaded is not ours
sys.argv = ["twofold", *{arguments!r}]
try:
    from twofold.cli import main
    main() if sys.argv[1:] else None
except SystemExit as ended:
    assert not ended.code, ended.code
found = {{name.partition(".")[0] for name in set(sys.modules) - started}} - set(sys.stdlib_module_names)
print("loaded:", *sorted(found - {{"__main__", "__mp_main__", "twofold"}}))
"""


def loaded_by(arguments):
    """Return the third-party packages that a fresh process has loaded at its end."""
    code = LOADED.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["import", "--help"])
def test_asking_for_help_loads_only_what_is_listed(arguments):
    loaded = loaded_by(arguments)
    assert not loaded & HEAVY
    assert loaded <= ALLOWED, f"not on the list: {sorted(loaded - ALLOWED)}"


def test_help_on_a_command_loads_nothing_heavy():
    # Typer itself uses Pydantic, where it is installed, to read the options of a command.
    assert not loaded_by(["compare", "--help"]) & HEAVY - {"pydantic"}
