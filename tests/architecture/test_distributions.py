"""What is given to others is whole: the source distribution has documents, examples and tests, the wheel its data."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "benchmarks", "changelog.d", "docs", "examples", "src", "tests", "tools")
FILES = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "DESIGN.md", "GLOSSARY.md", "LICENSE", "README.md", "SPECIFICATION.md"),
    *("MANIFEST.in", "Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"),
    *(".gitattributes", ".gitignore"),
)
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache", ".hypothesis", ".benchmarks")
DATA = "twofold/data"


def paths_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository without what tools have made, so that building leaves nothing in it."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=MADE)
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    return copy


def made(tree, folder, kind):
    """Build a distribution of a kind, without a network; return its path."""
    before = paths_below(tree)
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True)
    assert before <= paths_below(tree)
    return folder / done.stdout.splitlines()[-1]


def test_the_source_distribution_has_all_that_the_repository_has(tree, tmp_path):
    wanted = paths_below(tree)
    with tarfile.open(made(tree, tmp_path, "sdist")) as archive:
        found = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert wanted - found == set()
    made_for_it = {path for path in found - wanted if path.startswith("src/twofold.egg-info/")}
    assert found - wanted - made_for_it == {"PKG-INFO", "setup.cfg"}
    for path in ("docs/tour.md", "docs/decisions/0001-twins.md", "examples/compare.toml", "tests/conftest.py"):
        assert path in found


def test_the_wheel_has_its_data_and_both_licences(tree, tmp_path):
    with zipfile.ZipFile(made(tree, tmp_path, "wheel")) as archive:
        found = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in found if name.endswith(".dist-info/METADATA"))
    wanted = {f"{DATA}/{path}" for path in paths_below(tree / "src" / DATA)}
    assert f"{DATA}/plotly/plotly-cartesian.min.js" in wanted
    assert wanted - found == set()
    assert not {name for name in found if name.startswith(("tests/", "docs/", "examples/"))}
    assert metadata.count("License-File: ") == 2
