"""What is added by name from outside: it replaces nothing, and what is broken is named."""

import sys

import pytest

from twofold import registry
from twofold.domain.designs import SmallDesign, design_names, get_design
from twofold.errors import PlugInError, PlugInWarning, UnknownNameError

BROKEN = {
    "an import that is missing": "import nobody_has_this",
    "a syntax error": "class Design(:",
    "an exit": "raise SystemExit(0)",
    "an exception of its own": "class Own(BaseException): pass\nraise Own('two\\nlines')",
    "no such class": "",
    "no class": "Design = 7",
    "a class that cannot be made": "class Design:\n    def __init__(self): raise SystemExit(1)",
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with a design of a name."""

    def add(name, code, package="house"):
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[twofold.designs]\n{name} = {package}_design:Design\n")
        (folder / f"{package}_design.py").write_text(code)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, f"{package}_design", raising=False)

    return add


def test_a_built_in_name_stays_and_what_would_replace_it_is_named(install):
    install("small", "raise SystemExit")
    with pytest.warns(PlugInWarning, match="house_design:Design is registered as 'small' of twofold.designs") as caught:
        assert isinstance(get_design("small"), SmallDesign)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with pytest.warns(PlugInWarning, match="is left out"):
        assert design_names().count("small") == 1


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_one_is_named_when_it_is_asked_for_and_hinders_nobody_else(install, what):
    install("house", BROKEN[what])
    assert "house" in design_names()
    assert isinstance(get_design("small"), SmallDesign)
    with pytest.raises(UnknownNameError, match="house"):
        get_design("hose")
    with pytest.raises(PlugInError, match=r"^design 'house' .*cannot be used: .*; repair or uninstall it$") as caught:
        get_design("house")
    assert "\n" not in str(caught.value)


def test_two_packages_with_one_name_are_both_named(install):
    install("house", "", "one")
    install("house", "", "two")
    with pytest.raises(PlugInError, match="is registered by one_design:Design and two_design:Design"):
        get_design("house")


def test_an_interrupt_is_no_fault_of_a_plug_in():
    (entry, *_) = registry._registered("twofold.designs", tuple(sys.path))

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.use("design", entry, interrupted)
