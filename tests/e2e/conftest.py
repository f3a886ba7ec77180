"""Fixtures: a simulator, a bridge with the embedded broker, a BAL."""

import harness
import pytest
from harness import Bal, Bridge, Sim
from ways import CCS, WAYS


def pytest_addoption(parser):
    parser.addoption("--way", choices=list(WAYS), default=CCS.name, help="by which way messages go to devices")


def pytest_configure(config):
    config.addinivalue_line("markers", "campaign: the long fault run, only with ./tests/run --campaign")
    config.addinivalue_line("markers", "compose: docker-compose.yml in an engine, only with ./tests/run --compose")
    config.addinivalue_line("markers", "ccs_only(reason): about something that only CCS has")
    harness.WAY = WAYS[config.getoption("--way")]


def pytest_collection_modifyitems(items):
    for item in items:
        marker = item.get_closest_marker("ccs_only")
        if marker and harness.WAY is not CCS:
            item.add_marker(pytest.mark.skip(reason=marker.args[0]))


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
