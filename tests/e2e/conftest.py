"""Fixtures: a simulator, a bridge with the embedded broker, a BAL."""

import pytest
from harness import Bal, Bridge, Sim


def pytest_configure(config):
    config.addinivalue_line("markers", "campaign: the long fault run, only with ./tests/run --campaign")


@pytest.fixture
def sim(tmp_path):
    sim = Sim(tmp_path / "sim")
    yield sim
    sim.close()


@pytest.fixture
def make_bridge(tmp_path, sim):
    """Makes bridges with settings of their own, and ends them."""
    made = []

    def make(**settings) -> Bridge:
        made.append(Bridge(tmp_path / f"bridge{len(made) or ''}", sim, **settings))
        return made[-1]

    yield make
    for bridge in made:
        bridge.close()


@pytest.fixture
def bridge(make_bridge):
    return make_bridge().start()


@pytest.fixture
def bal(bridge):
    bal = Bal("client1", bridge.port).connect()
    yield bal
    bal.close()
