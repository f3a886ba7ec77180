"""A bridge with chat users, their devices, and phones at the simulator; the same over the embedded broker and over a mosquitto
with the rules that `acl` prints."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from chat_clients import EMBEDDED, MOSQUITTO, Device, Inbox, Page, holds, new_id
from harness import PATIENCE, Bridge, Process, Sim, eventually, free_port, http, run
from test_access import add_user, password
from test_who_may_push import token

ROLES = {name: "user" for name in ("alice", "bob", "carol", "dave", "eve")} | {"bal1": "bal", "bal2": "bal", "root": "admin"}
THE_BRIDGE = "the-bridge"
# Longest life of a login by token, in seconds: longer than any time that a test lets pass.
LOGIN_SECONDS = 400 * 86_400
DAY = 86_400
MINUTE = 60
# For how long a device that somebody looks at may leave a message unconfirmed, in seconds.
ANSWER_SECONDS = 15

# A test that holds on both brokers.
on_both_brokers = pytest.mark.parametrize("chat", [EMBEDDED, MOSQUITTO], indirect=True)


class Mosquitto:
    """A mosquitto with the printed rules, for TCP and WebSocket."""

    def __init__(self, folder: Path, users: Path, direct=False):
        folder.mkdir()
        folder.chmod(0o777)  # it gives up root
        rules = run("acl", "--for", "mosquitto", "--bridge", THE_BRIDGE, "--admin", "root", *["--direct"] * direct)
        assert rules.returncode == 0, rules.stderr
        (folder / "acl").write_text(rules.stdout)
        (folder / "acl").chmod(0o600)
        self.port, self.ws_port, self.log = free_port(), free_port(), folder / "log"
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nlistener {self.ws_port} 127.0.0.1\nprotocol websockets\n"
            f"password_file {users}\nacl_file {folder}/acl\nuser root\npersistence true\npersistence_location {folder}/\n"
            "max_inflight_messages 1000\nmax_queued_messages 0\n"
        )
        self.process = Process(["-c", self.config], self.log, program="mosquitto")
        eventually(lambda: " running" in self.process.text(), "mosquitto runs")

    def close(self):
        self.process.close()


class Silence:
    """Stands where the harness has apps that confirm every push: of chat each test says what a phone does."""

    confirmed: set[str] = set()

    def close(self):
        pass


class Chat:
    """A bridge with users, a simulator with phones, and the devices of a test."""

    def __init__(self, kind: str, sim: Sim, bridge: Bridge, broker: Mosquitto | None, ws_port: int, clock: Path):
        self.kind, self.sim, self.bridge, self.broker = kind, sim, bridge, broker
        self.port, self.ws_port = broker.port if broker else bridge.port, ws_port
        self.roles = dict(ROLES)
        self.clients: list[Inbox] = []
        self.clock, self.ahead = clock, 0
        self.marks = 0
        self.introduced: set[str] = set()
        bridge.apps = Silence()

    def start(self, **options) -> Chat:
        """Starts the bridge, at the time that the test has come to."""
        clock = {"LD_PRELOAD": str(self.clock), "CLOCK_AHEAD": str(self.ahead)} if self.ahead else {}
        self.bridge.start(env=clock, **options)
        if self.kind == MOSQUITTO and self.bridge.runs == 1:
            # There a user exists once it wrote something.
            for user in [name for name, role in ROLES.items() if role == "user"]:
                with self.visit(user):
                    pass
        return self

    def secret(self, user: str) -> str:
        """By token where the broker takes any: hashing of passwords takes longer than most tests."""
        if self.kind == MOSQUITTO:
            return password(user)
        return token(user, self.roles[user], LOGIN_SECONDS)

    def device(self, user: str, dev: str = "phone", page=False, **options):
        """A device that is connected; until somebody looks at it, nobody does."""
        return self.keep(Page(self, user, dev) if page else Device(self, user, dev, **options)).connect()

    def background(self, user: str, dev: str = "phone") -> Device:
        """The push handler of a phone."""
        return self.keep(Device(self, user, dev, background=True)).connect()

    def keep(self, client):
        self.clients.append(client)
        return client

    @property
    def bal(self) -> Device:
        """The backend application `bal1`."""
        bals = [one for one in self.clients if one.user == "bal1"]
        return bals[0] if bals else self.device("bal1", "main", kept=True)

    @contextmanager
    def visit(self, user: str, dev: str = "setup"):
        """A device for a moment, that leaves nothing behind."""
        device = Device(self, user, dev).connect()
        yield device
        device.close()

    def write(self, user: str, to: str, body="hello", **fields) -> str:
        """A message from a device that comes and goes. Yields its sid."""
        self.introduce(to)
        with self.visit(user) as device:
            message = device.send(to, body, **fields)
            device.wait(lambda: "sent" in device.statuses(message), "sent")
            return device.stamped(message)["sid"]

    def introduce(self, user: str):
        """A broker of others says nothing of its users: there one exists who has written."""
        if self.kind == MOSQUITTO and self.roles[user] == "user" and user not in self.introduced:
            self.introduced.add(user)
            with self.visit(user) as device:
                device.ask("settings")

    def befriend(self, one: str, other: str):
        """Each has written to the other, so they are contacts. What `one` wrote is read."""
        self.write(one, other)
        self.write(other, one)

    def register(self, user: str, dev: str, registration: str, **fields) -> dict:
        """A phone that registered and sleeps."""
        with self.visit(user, dev) as device:
            return device.register(registration, **fields)

    def contacts(self, user: str) -> dict[str, dict]:
        with self.visit(user) as device:
            return {item["user"]: item for item in device.told("contacts")["items"]}

    def mark(self, *devices: Inbox):
        """Whatever the bridge had for these devices has come when this returns: what a BAL sends comes behind it."""
        self.marks += 1
        text = f"mark {self.marks}"
        for user in dict.fromkeys(device.user for device in devices):
            self.bal.send(user, text, push="never")
        for device in devices:
            device.got(text)

    def records(self, registration: str) -> list[dict]:
        """What a phone got, as the simulator keeps it."""
        path, records = self.sim._path(registration), []
        while True:
            after = records[-1]["seq"] if records else 0
            try:
                page = http("GET", f"http://127.0.0.1:{self.sim.control_port}{path}?after={after}")["messages"]
            except OSError as error:
                if getattr(error, "code", None) == 404:
                    return []
                raise
            records += page
            if not page:
                return records

    def pushes(self, registration: str, **fields) -> list[dict]:
        """The data of what a phone got, but for marks."""
        data = [record["data"] for record in self.records(registration)]
        return [one for one in data if "mark" not in one and holds(one, fields)]

    def wait_push(self, registration: str, patience: float = PATIENCE, **fields) -> dict:
        told = lambda: f"a push {fields} at {registration}; got {self.pushes(registration)}"  # noqa: E731
        try:
            return eventually(lambda: self.pushes(registration, **fields), "", patience)[0]
        except AssertionError:
            raise AssertionError(f"not within {patience} s: {told()}") from None

    def pushed(self, *registrations: str) -> list[list[dict]]:
        """All pushes to these phones, up to now: behind them comes one of a BAL, which nothing a user does takes back."""
        self.marks += 1
        mark = f"mark {self.marks}"
        for registration in registrations:
            self.bal.publish("messages", {"id": new_id(), "token": registration, "data": {"mark": mark}, "receipt": False})
        for registration in registrations:
            came = lambda r=registration: any(one["data"].get("mark") == mark for one in self.records(r))  # noqa: E731
            eventually(came, f"the mark at {registration}")
        return [self.pushes(registration) for registration in registrations]

    def pushed_sids(self, registration: str) -> list[str]:
        """The messages for which a phone was pushed, up to now."""
        return [push["sid"] for push in self.pushed(registration)[0] if push["type"] == "message"]

    def later(self, seconds: int):
        """Stops the bridge, and starts it so much later."""
        assert self.bridge.stop() == 0
        self.ahead += seconds
        if self.sim.speaks_v1():
            http("PUT", f"http://127.0.0.1:{self.sim.control_port}/v1/faults", {"clock_skew_s": self.ahead})
        self.start()

    def restart(self, kill=True):
        if kill:
            self.bridge.kill9()
        else:
            assert self.bridge.stop() == 0
        self.start()

    def close(self):
        for client in self.clients:
            client.close()


def make_users(path: Path):
    """The users file of all tests, each with its password."""
    config = path.with_suffix(".toml")
    config.write_text(f'[broker]\nusers_file = "{path}"\n')
    for name, role in ROLES.items():
        add_user(config, name, role, password(name))


def make_mosquitto_users(path: Path):
    path.write_text("".join(f"{name}:{password(name)}\n" for name in [*ROLES, THE_BRIDGE]))
    path.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-U", path], check=True)


def make_clock(path: Path):
    source = Path(__file__).parent / "clock.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", path, source, "-ldl"], check=True)


def shared(tmp_path_factory, name: str, make) -> Path:
    """A file that all tests of a session share, whichever process comes first."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder
    path, own = folder / name, folder / f"{name}-{os.getpid()}"
    if not path.exists():
        make(own)
        os.replace(own, path)
    return path
