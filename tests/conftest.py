"""What all tests share: the two engines, Hypothesis profiles, and small machines that are closed afterwards."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from twofold import kernels, spec
from twofold.domain import Machine
from twofold.formats.engine import Engine

# "fast" is for every change, "thorough" for `make check-all`. A first call of a kernel compiles it, so no example has a
# deadline.
settings.register_profile(
    "fast", max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=40)
settings.register_profile("long", settings.get_profile("fast"), max_examples=80, stateful_step_count=50)
settings.load_profile("fast")


@pytest.fixture(scope="session", params=[spec, kernels], ids=["spec", "kernels"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """The package that does the work: the readable twin, then the fast one."""
    return request.param


@pytest.fixture
def make_machine(engine: Engine) -> Iterator[Callable[..., Machine]]:
    """A maker of machines on the engine under test; all are closed at the end."""
    machines: list[Machine] = []

    def make(*args: Any, **kwargs: Any) -> Machine:
        machines.append(Machine(*args, engine=engine, **kwargs))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()
