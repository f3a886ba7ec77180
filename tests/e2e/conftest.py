"""Fixtures: a simulator, a bridge with the embedded broker, a BAL; a bridge with chat users."""

import shutil

import chat as chats
import harness
import pytest
from harness import Bal, Bridge, Sim, free_port
from test_access import password
from test_who_may_push import SECRET
from ways import CCS, WAYS


def pytest_addoption(parser):
    parser.addoption("--way", choices=list(WAYS), default=CCS.name, help="by which way messages go to devices")


def pytest_configure(config):
    config.addinivalue_line("markers", "campaign: the long fault run, only with ./tests/run --campaign")
    config.addinivalue_line("markers", "compose: docker-compose.yml in an engine, only with ./tests/run --compose")
    config.addinivalue_line("markers", "ccs_only(reason): about something that only CCS has")
    config.addinivalue_line("markers", "behaviour(numbers): which of the behaviours of chat the test shows")
    config.addinivalue_line("markers", "long(seconds): about so long the test takes where nothing else runs, 15 or more")
    harness.WAY = WAYS[config.getoption("--way")]


def pytest_collection_modifyitems(items):
    for item in items:
        marker = item.get_closest_marker("ccs_only")
        if marker and harness.WAY is not CCS:
            item.add_marker(pytest.mark.skip(reason=marker.args[0]))
    # What takes long begins first: else the other workers have nothing to do at the end.
    items.sort(key=lambda item: -long.args[0] if (long := item.get_closest_marker("long")) else 0)


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


@pytest.fixture(scope="session")
def chat_files(tmp_path_factory):
    """What takes long to make and is the same for all tests: the users of both brokers, and the clock."""
    makers = {"users": chats.make_users, "mosquitto.users": chats.make_mosquitto_users, "clock.so": chats.make_clock}
    return {name: chats.shared(tmp_path_factory, name, make) for name, make in makers.items()}


@pytest.fixture
def make_chat(tmp_path, sim, make_bridge, chat_files):
    """Makes bridges with chat users; `settings` are those of `[chat]`."""
    made, brokers = [], []

    def make(kind=chats.EMBEDDED, settings="", extra="", grace=1, broker_more="", start=True, version="5", **more):
        users, secret = tmp_path / "users", tmp_path / "jwt.secret"
        shutil.copy(chat_files["users"], users)
        secret.write_text(SECRET)
        secret.chmod(0o600)
        broker, ws_port = None, free_port()
        section = f'users_file = "{users}"\njwt_secret_file = "{secret}"\nlisten_ws = "127.0.0.1:{ws_port}"'
        options = {"broker": f"{section}\npresence_grace_seconds = {grace}\n{broker_more}"}
        if kind == chats.MOSQUITTO:
            shutil.copy(chat_files["mosquitto.users"], tmp_path / "mosquitto.users")
            broker = chats.Mosquitto(tmp_path / "mosquitto", tmp_path / "mosquitto.users", "direct = true" in settings)
            brokers.append(broker)
            ws_port = broker.ws_port
            own = tmp_path / "bridge.password"
            own.write_text(password(chats.THE_BRIDGE))
            own.chmod(0o600)
            options = {
                "broker": "anonymous = true",
                "mqtt_section": f'broker = "external"\nurl = "mqtt://127.0.0.1:{broker.port}"\nversion = "{version}"\n'
                f'username = "{chats.THE_BRIDGE}"\npassword_file = "{own}"',
            }
            extra += "\n[bals.bal1]\n[bals.bal2]"
        extra += f"\n[chat]\n{settings}" if settings else ""
        options = {"routes": 'default_bal = "bal1"', "extra": extra, **options, **more}
        made.append(chats.Chat(kind, sim, make_bridge(**options), broker, ws_port, chat_files["clock.so"]))
        return made[-1].start() if start else made[-1]

    yield make
    for one in [*made, *brokers]:
        one.close()


@pytest.fixture
def chat(request, make_chat):
    """Chat over the embedded broker, or over the one that the test names."""
    return make_chat(getattr(request, "param", chats.EMBEDDED))
