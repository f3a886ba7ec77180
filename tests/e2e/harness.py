"""The parts of an end-to-end test: the real binary, real clients, real files; nothing sleeps, everything waits."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from pathlib import Path

import paho.mqtt.client as mqtt
import ways
from apps import Apps

BIN = os.environ.get("BRIDGE_BIN", str(Path(__file__).parents[2] / "target/release/fcm-mqtt-bridge"))
SECRET_KEY = "the-key-that-must-never-be-seen"
# Stands in a document that came with the flag DUP of MQTT.
DUP = "(DUP)"
FINAL = {"delivered", "failed", "expired"}
# The way of messages to devices where a test does not say; set by `--way`.
WAY = ways.CCS
# Longest wait for anything that is expected to happen.
PATIENCE = 30.0
# Seconds between two looks at what is waited for, at first and after a while.
LOOK, LOOK_SELDOM = 0.02, 0.2
# Seconds before a client on paho connects again. While it waits it cannot be ended either.
RECONNECT = 0.1


# Ports that no system hands out by itself: a server that is down for a moment would else lose its port to any connection.
PORTS = range(20_000, 32_000)
# Byte `n` of this file is the lock of port `n`: one descriptor for all, since `select` in the clients takes no number over 1023.
_locks = open(Path(tempfile.gettempdir()) / f"fcm-mqtt-bridge-test-ports-{os.getuid()}", "a")
# What this process was given: its own locks are none to itself.
_given: set[int] = set()


def free_port() -> int:
    """A port that is free now and that no other test is given. The bridge must come back on the same one after a kill, so
    it cannot choose itself."""
    for port in random.sample(PORTS, len(PORTS)):
        try:
            fcntl.lockf(_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.socket() as probe:
                # As a server does: the connections of one that ran here before may linger.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        if port not in _given:
            _given.add(port)
            return port
    raise AssertionError(f"all of {PORTS} are taken")


def eventually(condition, what: str, patience: float = PATIENCE):
    """Waits until `condition()` is true and returns its value; fails with `what` when it takes too long."""
    began, pause = time.monotonic(), threading.Event()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - began
        if waited > patience:
            raise AssertionError(f"did not happen within {patience} s: {what}")
        # To look may be to run a program: the longer it takes already, the seldomer.
        pause.wait(min(max(LOOK, waited / 20), LOOK_SELDOM))


def http(method: str, url: str, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    try:
        return json.loads(text)
    except ValueError:
        return text.decode()


def run(*args, **options) -> subprocess.CompletedProcess:
    """One command of the binary, to its end."""
    return subprocess.run([BIN, *map(str, args)], capture_output=True, text=True, timeout=60, **options)


class Process:
    """A running program with its log in a file."""

    def __init__(self, args, log: Path, env=None, stdout=None, program=BIN):
        self.log = log
        self.handle = open(log, "ab")
        self.child = subprocess.Popen(
            [program, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=stdout or self.handle,
            stderr=self.handle,
            env={**os.environ, **(env or {})},
        )

    def alive(self) -> bool:
        return self.child.poll() is None

    def kill9(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def terminate(self, patience: float = 20.0) -> int:
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(patience)

    def close(self):
        if self.alive():
            self.kill9()
        self.handle.close()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self) -> list[str]:
        """Whole lines only: the last one may still be being written."""
        return self.text().split("\n")[:-1]


class Sim:
    """The simulator and its control port. It speaks CCS, and FCM HTTP v1 as well where messages go that way; what tests
    ask of it is in the words of CCS."""

    def __init__(self, folder: Path, *extra, way: ways.Way | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.extra = extra
        self.way = way or WAY
        self.key = folder / "ccs.key"
        self.key.write_text(SECRET_KEY + "\n")
        self.ccs_port = self.control_port = self.fcm_port = self.token_port = 0
        self.fcm_url = self.credentials = None
        self.apps: list[Apps] = []
        self.runs = 0
        self.process = None
        self.start()

    def start(self):
        """Starts it, again on the ports it had. Devices and figures are new each time; its authority stays."""
        out = self.folder / "sim.out"
        args = ["sim", "--listen", f"127.0.0.1:{self.ccs_port}", "--control-listen", f"127.0.0.1:{self.control_port}"]
        args += ["--tls-dir", self.folder / "tls", "--api-key-file", self.key, *self.extra]
        if self.speaks_v1():
            args += ["--fcm-listen", f"127.0.0.1:{self.fcm_port}", "--fcm-token-listen", f"127.0.0.1:{self.token_port}"]
        last = "fcm-credentials" if self.speaks_v1() else "ca"
        with open(out, "wb") as stdout:
            self.process = Process(args, self.folder / "sim.log", stdout=stdout)

        def said():
            assert self.process.alive(), f"the simulator ended: {self.process.text()}"
            lines = dict(line.split(" ", 1) for line in out.read_text().splitlines())
            return lines if last in lines else None

        lines = eventually(said, "the simulator says its addresses")
        self.ca = lines["ca"]
        self.ccs_port = int(lines["ccs"].rsplit(":", 1)[1])
        self.control_port = int(lines["control"].rsplit(":", 1)[1])
        if self.speaks_v1():
            self.fcm_url, self.credentials = lines["fcm"], Path(lines["fcm-credentials"])
            self.fcm_port = urllib.parse.urlsplit(self.fcm_url).port
            self.token_port = urllib.parse.urlsplit(lines["fcm-token"]).port
        self.runs += 1
        return self

    def speaks_v1(self) -> bool:
        return self.way is ways.FCM_V1

    def stop(self):
        self.process.close()

    def call(self, method: str, path: str, body=None):
        if self.speaks_v1() and path in ("/drain", "/reset"):
            path, body = {"/drain": "/v1/goaway", "/reset": "/v1/reset"}[path], {}
        return http(method, f"http://127.0.0.1:{self.control_port}{path}", body)

    def _path(self, token: str) -> str:
        return "/devices/" + urllib.parse.quote(token, safe="")

    def set_device(self, token: str, **state):
        if self.speaks_v1() and "refuse" in state:
            plan = self.call("GET", "/v1/faults")
            plan["rules"] += ways.refusals(token, **state.pop("refuse"))
            self.call("PUT", "/v1/faults", plan)
        return self.call("PUT", self._path(token), state)

    def got(self, token: str) -> list[dict]:
        """What a device got, in order; nothing if the simulator never heard of it."""
        messages = []
        while True:
            after = messages[-1]["seq"] if messages else 0
            try:
                page = self.call("GET", f"{self._path(token)}?after={after}")["messages"]
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return []
                raise
            messages += map(ways.as_shown, page) if self.speaks_v1() else page
            if not page:
                return messages

    def upstream(self, token: str, data=None, **more):
        return self.call("POST", self._path(token) + "/upstream", {"data": data or {}, **more})

    def faults(self, **faults):
        if self.speaks_v1():
            self.call("PUT", "/v1/faults", ways.v1_faults(faults))
        return self.call("PUT", "/faults", faults)

    def stats(self) -> dict:
        stats = self.call("GET", "/stats")
        if not self.speaks_v1():
            return stats
        confirmed = sum(len(apps.confirmed) for apps in self.apps)
        return ways.v1_stats(stats, self.call("GET", "/v1/stats"), confirmed)

    def close(self):
        self.process.close()


class Bridge:
    """A bridge in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        sim: Sim,
        extra: str = "",
        limits: str = "",
        routes: str = 'default_bal = "client1"\n"com.example.second" = "client2"',
        mqtt_section: str = "",
        db: Path | None = None,
        broker: str = "anonymous = true",
        back_door: str | None = None,
        apps: tuple[str, str] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.ops = free_port()
        self.db = db or folder / "bridge.db"
        self.config = folder / "bridge.toml"
        self.process: Process | None = None
        self.runs = 0
        self.sim = sim
        self.extra, self.limits, self.mqtt_section, self.broker = extra, limits, mqtt_section, broker
        # The sections of the ways; without them, as the simulator is.
        self.back_door = back_door
        # The user as which the apps on the devices log in, where the broker asks.
        self.login = apps
        self.apps: Apps | None = None
        self.configure(routes)

    def configure(self, routes: str):
        self.config.write_text(
            f"""
{self.back_door or back_door(self.sim)}
[mqtt]
{self.mqtt_section}
[broker]
listen = "127.0.0.1:{self.port}"
{self.broker}
[store]
path = "{self.db}"
[ops]
listen = "127.0.0.1:{self.ops}"
[routes]
{routes}
[limits]
{self.limits}
{self.extra}
"""
        )

    def start(self, ready: bool = True, log: str = "info", env: dict | None = None):
        self.runs += 1
        path = self.folder / f"bridge-{self.runs}.log"
        self.process = Process(["run", "--config", self.config], path, env={"RUST_LOG": log, **(env or {})})
        if self.sim.speaks_v1() and not self.apps:
            self.apps = Apps(self.sim, self.broker_port(), self.login)
            self.sim.apps.append(self.apps)
        if ready:
            self.wait_ready()
        return self

    def kill9(self):
        self.process.kill9()

    def stop(self) -> int:
        return self.process.terminate()

    def hang_up(self):
        """Asks it to read its files again."""
        self.process.child.send_signal(signal.SIGHUP)

    def wait_ready(self, code: int = 200):
        def look():
            assert self.process.alive(), f"the bridge ended: {self.process.text()}"
            return self.readyz()[0] == code

        try:
            eventually(look, f"/readyz says {code}")
        except AssertionError as late:
            raise AssertionError(f"{late}; it says {self.readyz()}") from None

    def readyz(self) -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            return 0, {}

    def metrics(self) -> str:
        return http("GET", f"http://127.0.0.1:{self.ops}/metrics")

    def transports_up(self) -> dict[str, int]:
        """What `bridge_transport_up` says of each transport."""
        lines = re.findall(r'^bridge_transport_up\{transport="([^"]*)"\} (\d+)$', self.metrics(), re.MULTILINE)
        return {name: int(value) for name, value in lines}

    def refusals(self) -> dict[tuple[str, str], int]:
        """What `bridge_refusals_total` counts, by transport and code."""
        lines = re.findall(r'^bridge_refusals_total\{code="([^"]*)",transport="([^"]*)"\} (\d+)$', self.metrics(), re.MULTILINE)
        return {(transport, code): int(value) for code, transport, value in lines}

    def metric(self, name: str) -> int:
        for line in self.metrics().splitlines():
            if line.startswith(name + " "):
                return int(float(line.split()[-1]))
        raise AssertionError(f"no metric {name}")

    def traces(self, message_id: str) -> list[dict]:
        done = run("trace", message_id, "--store", self.db, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def trace(self, message_id: str) -> dict:
        [trace] = self.traces(message_id)
        return trace

    def counts(self) -> dict:
        done = run("outbox", "--store", self.db, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["counts"]

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("bridge-*.log")))

    def broker_port(self) -> int:
        """Where the clients connect."""
        external = re.search(r'url = "\w+://127.0.0.1:(\d+)"', self.mqtt_section)
        return int(external[1]) if external else self.port

    def close(self):
        if self.apps:
            self.apps.close()
        if self.process:
            self.process.close()


def ccs_section(sim: Sim) -> str:
    return f"""
[ccs]
host = "127.0.0.1"
port = {sim.ccs_port}
sender_id = "1234567890"
api_key_file = "{sim.key}"
ca_file = "{sim.ca}"
"""


def project(sim: Sim) -> str:
    """The settings of the Firebase project of a simulator."""
    return f'credentials_file = "{sim.credentials}"\nbase_url = "{sim.fcm_url}"\nca_file = "{sim.ca}"\n'


def back_door(sim: Sim) -> str:
    """CCS; and beside it the other way, if messages to devices go by it: those of devices come over CCS."""
    if not sim.speaks_v1():
        return ccs_section(sim)
    return f'{ccs_section(sim)}[transport]\ndefault = "fcm-v1"\n[fcm]\n{project(sim)}'


class Bal:
    """A backend application: paho, MQTT 5 or 3.1.1, persistent session by default; keeps all it receives."""

    def __init__(
        self,
        name: str,
        port: int,
        version=mqtt.MQTTv5,
        client_id: str | None = None,
        clean=False,
        filters=None,
        session_seconds=3600,
    ):
        self.name = name
        self.version = version
        self.clean = clean
        self.port = port
        self.session_seconds = session_seconds
        # After an orderly restart a kept session gets again what it had not acknowledged, as it was and with the flag DUP
        # alone (topics.md, "Once, or twice"); after anything else the document says it as well.
        self.dup_is_mark = False
        self.filters = filters or [f"{name}/others/+"]
        self.arrived = threading.Condition()
        self.messages: list[tuple[str, dict]] = []
        self.packets: list = []
        self.by_id: dict[str, list[dict]] = defaultdict(list)
        self.finished: set[str] = set()
        self.subscribed = threading.Event()
        self.connections = 0
        self.acked: dict[int, object] = {}
        options = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        client_id = name if client_id is None else client_id
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=version, **options)
        self.client.max_inflight_messages_set(1000)
        self.client.max_queued_messages_set(0)
        self.client.reconnect_delay_set(RECONNECT, RECONNECT)
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._message
        self.client.on_publish = self._published

    def connect(self):
        properties = None
        options = {}
        if self.version == mqtt.MQTTv5:
            properties = mqtt.Properties(mqtt.PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if self.clean else self.session_seconds
            options["clean_start"] = self.clean
        self.client.connect("127.0.0.1", self.port, keepalive=60, properties=properties, **options)
        self.client.loop_start()
        assert self.subscribed.wait(PATIENCE), f"{self.name} is not subscribed"
        return self

    def _connected(self, client, _userdata, _flags, reason, _properties):
        if not reason.is_failure:
            self.connections += 1
            client.subscribe([(topic, 1) for topic in self.filters])

    def _message(self, _client, _userdata, message):
        body = json.loads(message.payload)
        if message.dup and self.dup_is_mark:
            body[DUP] = True
        with self.arrived:
            self.messages.append((message.topic, body))
            self.packets.append(message)
            if "status" in body:
                self.by_id[body["id"]].append(body)
                if body["status"] in FINAL:
                    self.finished.add(body["id"])
            self.arrived.notify_all()

    def _published(self, _client, _userdata, mid, reason, _properties):
        with self.arrived:
            self.acked[mid] = reason
            self.arrived.notify_all()

    def publish(self, payload, topic: str | None = None, qos: int = 1, retain=False, properties=None) -> int:
        body = payload if isinstance(payload, (str, bytes)) else json.dumps(payload)
        return self.client.publish(topic or f"{self.name}/self/messages", body, qos, retain, properties).mid

    def push(self, message_id: str, token: str, **more) -> int:
        """A message to a device. The device sees the sender's id only because it stands in the data."""
        return self.publish({"id": message_id, "token": token, "data": {"mine": message_id}, **more})

    def wait(self, condition, what: str, patience: float = PATIENCE):
        """Waits until `condition()` holds over what has arrived."""
        with self.arrived:
            if not self.arrived.wait_for(condition, patience):
                raise AssertionError(f"{self.name}: not within {patience} s: {what}; last: {self.messages[-5:]}")

    def wait_acked(self, *mids: int):
        self.wait(lambda: all(mid in self.acked for mid in mids), f"PUBACK of {len(mids)}")

    def on(self, suffix: str) -> list[dict]:
        return [body for topic, body in list(self.messages) if topic == f"{self.name}/others/{suffix}"]

    def wait_on(self, suffix: str, count: int, patience: float = PATIENCE) -> list[dict]:
        self.wait(lambda: len(self.on(suffix)) >= count, f"{count} documents on {suffix}", patience)
        return self.on(suffix)

    def statuses(self, message_id: str) -> list[dict]:
        return self.by_id.get(message_id, [])

    def words(self, message_id: str) -> list[str]:
        return [body["status"] for body in self.statuses(message_id)]

    def wait_words(self, message_id: str, words: list[str], patience: float = PATIENCE) -> dict:
        """Waits until exactly these statuses were told; returns the last one."""
        self.wait(lambda: len(self.words(message_id)) >= len(words), f"{message_id}: {words}", patience)
        assert self.words(message_id) == words
        return self.statuses(message_id)[-1]

    def wait_final(self, ids, patience: float = PATIENCE):
        """Waits until every id has a final status."""
        wanted = set(ids)
        try:
            # The numbers first: this is asked at each arrival, and there may be tens of thousands.
            self.wait(lambda: len(self.finished) >= len(wanted) and wanted <= self.finished, "final statuses", patience)
        except AssertionError:
            missing = sorted(wanted - self.finished)
            some = {i: self.words(i) for i in missing[:5]}
            raise AssertionError(f"{len(missing)} without a final status after {patience} s, such as {some}") from None

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        break_off(self.client)


def break_off(client: mqtt.Client):
    """The connection of a client on paho breaks without a word, and it does not connect again."""
    def never():
        raise OSError("broken off")

    client.on_disconnect, client.reconnect = None, never
    sock = client.socket()
    if sock:
        # The thread of the client notices an end at once, and else looks once a second whether it shall stop. The other side
        # may have ended the connection already.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    client.loop_stop()
    if sock:
        sock.close()


def mine(messages: list[dict]) -> list[str]:
    """The senders' ids of what a device got."""
    return [message["data"]["mine"] for message in messages]


def finals(bal: Bal, message_id: str) -> list[str]:
    """The final statuses that were told of a message, without documents that say themselves that they are copies."""
    told = [body for body in bal.statuses(message_id) if body["status"] in FINAL]
    return [body["status"] for body in told if not is_copy(body)] or [body["status"] for body in told[:1]]


def is_copy(body: dict) -> bool:
    """Whether a document says of itself that it may have come before."""
    return body.get("redelivered") is True or DUP in body


def told_twice_unmarked(bal: Bal, ids) -> dict[str, list[str]]:
    """The statuses of each message of which one came more than once without saying so."""
    firsts = {i: [body["status"] for body in bal.statuses(i) if not is_copy(body)] for i in ids}
    return {i: bal.words(i) for i, words in firsts.items() if len(set(words)) < len(words)}


def check_settled(bal: Bal, sim: Sim, ids, tokens, broker_killed=False) -> dict:
    """Every id ended in exactly one final status, arrived, and twice only where a status said so; no status was told
    twice without a mark. Returns figures."""
    assert set(bal.by_id) >= set(ids)
    # Another broker that is killed delivers again, as if it was new, what it had delivered and not noted as such.
    unmarked = {} if broker_killed else told_twice_unmarked(bal, ids)
    assert not unmarked, f"{len(unmarked)} told twice without a mark: {dict(list(unmarked.items())[:5])}"
    wrong = {i: bal.words(i) for i in ids if len(set(finals(bal, i))) != 1}
    assert not wrong, f"{len(wrong)} without exactly one final status: {dict(list(wrong.items())[:5])}"
    copies: dict[str, int] = defaultdict(int)
    for token in tokens:
        for message_id in mine(sim.got(token)):
            copies[message_id] += 1
    delivered = [i for i in ids if "delivered" in bal.words(i)]
    missing = [i for i in delivered if not copies[i]]
    assert not missing, f"told delivered and never at the device: {missing[:5]}"
    twice = [i for i in ids if copies[i] > 1]
    marked = {i for i in ids if any(body.get("dup_possible") for body in bal.statuses(i))}
    assert set(twice) <= marked, f"twice at the device without dup_possible: {sorted(set(twice) - marked)[:5]}"
    return {
        "messages": len(ids),
        "delivered": len(delivered),
        "other_end": len(ids) - len(delivered),
        "twice_at_device": len(twice),
        "dup_possible": len(marked),
        "status_copies": sum(bool(body.get("redelivered")) for i in ids for body in bal.statuses(i)),
    }


def check_upstream(bal: Bal, expected: int, key=lambda body: int(body["ccs_id"])) -> dict:
    """All distinct, in order per device; a document comes again only with `redelivered`. Returns figures."""
    first: dict[str, dict[str, int]] = defaultdict(dict)
    copies = 0
    for body in bal.on("messages"):
        seen = first[body["token"]]
        if body["id"] in seen:
            copies += 1
            assert is_copy(body), f"came again without a mark: {body}"
        else:
            seen[body["id"]] = key(body)
    distinct = sum(len(set(seen.values())) for seen in first.values())
    assert distinct == sum(map(len, first.values())), "one message of a device under two ids"
    assert distinct == expected, f"{distinct} of {expected} distinct"
    disorder = {token: list(seen.values()) for token, seen in first.items() if list(seen.values()) != sorted(seen.values())}
    assert not disorder, f"out of order: {dict(list(disorder.items())[:2])}"
    return {"messages": expected, "devices": len(first), "copies_marked_redelivered": copies}
