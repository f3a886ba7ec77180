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
def bridge(tmp_path, sim):
    bridge = Bridge(tmp_path / "bridge", sim)
    bridge.start()
    yield bridge
    bridge.close()


@pytest.fixture
def bal(bridge):
    bal = Bal("client1", bridge.port).connect()
    yield bal
    bal.close()
