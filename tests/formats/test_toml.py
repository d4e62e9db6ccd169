"""TOML that a stranger wrote is refused in one line, soon."""

import time

import pytest

from twofold.errors import TwofoldError
from twofold.mmu.profile import load_profile
from twofold.study import load_scenario, make_scenario

HOSTILE = {
    "dotted keys": ".".join("a" * 3000) + " = 1",
    "seventeen tables": ".".join("a" * 17) + " = 1",
    "a table header": f"[{'.'.join('a' * 3000)}]",
    "array tables": "\n".join(f"[[{'.'.join('a' * depth)}]]" for depth in range(1, 60)),
    "arrays": "a = " + "[" * 3000 + "]" * 3000,
    "inline tables": "a = " + "{a = " * 3000 + "1" + "}" * 3000,
    "some arrays": "a = " + "[" * 40 + "]" * 40,
    "a long number": "a = " + "9" * 5000,
    "a large number": "name = " + "9" * 4000,
    "a negative one": "accesses = -" + "9" * 4000,
    "a float": "accesses = 1e99999",
    "a long name": '"' + "a" * 60_000 + '" = 1',
    "many names": "\n".join(f"a{number} = 1" for number in range(6000)),
    "no text": "\0",
    "a half": 'a = """',
    "large": "# " + "x" * (20 << 20),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize(
    "read", [load_profile, lambda path: make_scenario(load_scenario(path))], ids=["cpu", "scenario"]
)
def test_hostile_toml_is_one_line_soon(tmp_path, read, what):
    path = tmp_path / "a.toml"
    path.write_text(HOSTILE[what])
    start = time.process_time()
    with pytest.raises(TwofoldError) as caught:
        read(path)
    assert time.process_time() - start < 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
