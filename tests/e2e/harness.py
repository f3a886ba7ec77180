"""The parts of an end-to-end test: the real binary, real clients, real files; nothing sleeps, everything waits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from pathlib import Path

import paho.mqtt.client as mqtt

BIN = os.environ.get("BRIDGE_BIN", str(Path(__file__).parents[2] / "target/release/fcm-mqtt-bridge"))
SECRET_KEY = "the-key-that-must-never-be-seen"
# Longest wait for anything that is expected to happen.
PATIENCE = 30.0


def free_port() -> int:
    """A port that is free now. The bridge must come back on the same one after a kill, so it cannot choose itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition, what: str, patience: float = PATIENCE):
    """Waits until `condition()` is true and returns its value; fails with `what` when it takes too long."""
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {patience} s: {what}")
        pause.wait(0.02)


def http(method: str, url: str, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    try:
        return json.loads(text)
    except ValueError:
        return text.decode()


class Process:
    """A running binary with its log in a file."""

    def __init__(self, args, log: Path, env=None, stdout=None):
        self.log = log
        self.handle = open(log, "ab")
        self.child = subprocess.Popen(
            [BIN, *map(str, args)], stdout=stdout or self.handle, stderr=self.handle, env={**os.environ, **(env or {})}
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


class Sim:
    """The CCS simulator and its control port."""

    def __init__(self, folder: Path, *extra):
        folder.mkdir(parents=True, exist_ok=True)
        self.tls = folder / "tls"
        self.out = folder / "sim.out"
        self.key = folder / "ccs.key"
        self.key.write_text(SECRET_KEY + "\n")
        with open(self.out, "wb") as stdout:
            args = ["sim", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--tls-dir", self.tls]
            self.process = Process([*args, "--api-key-file", self.key, *extra], folder / "sim.log", stdout=stdout)
        self.ccs_port = int(self._said("ccs").rsplit(":", 1)[1])
        self.control = "http://" + self._said("control")

    def _said(self, word: str) -> str:
        def look():
            assert self.process.alive(), f"the simulator ended: {self.process.text()}"
            for line in self.out.read_text().splitlines():
                if line.startswith(word + " "):
                    return line.split(" ", 1)[1]
            return None

        return eventually(look, f"the simulator says its {word} address")

    def call(self, method: str, path: str, body=None):
        return http(method, self.control + path, body)

    def device(self, token: str) -> dict:
        return self.call("GET", "/devices/" + urllib.parse.quote(token, safe=""))

    def set_device(self, token: str, **state):
        return self.call("PUT", "/devices/" + urllib.parse.quote(token, safe=""), state)

    def got(self, token: str) -> list[dict]:
        """What a device got, in order; nothing if the simulator never heard of it."""
        try:
            return self.device(token)["messages"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise

    def upstream(self, token: str, data=None, category="com.example.chat", **more):
        path = f"/devices/{urllib.parse.quote(token, safe='')}/upstream"
        return self.call("POST", path, {"category": category, "data": data or {}, **more})

    def faults(self, **faults):
        return self.call("PUT", "/faults", faults)

    def stats(self) -> dict:
        return self.call("GET", "/stats")

    def close(self):
        self.process.close()


class Bridge:
    """A bridge in a folder of its own."""

    def __init__(self, folder: Path, sim: Sim, extra: str = "", ccs: str = "", limits: str = "", broker_url: str | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.ops = free_port()
        self.db = folder / "bridge.db"
        self.config = folder / "bridge.toml"
        mqtt_section = f'[mqtt]\nbroker = "external"\nurl = "{broker_url}"\n' if broker_url else ""
        self.config.write_text(
            f"""
[ccs]
host = "127.0.0.1"
port = {sim.ccs_port}
sender_id = "1234567890"
api_key_file = "{sim.key}"
ca_file = "{sim.tls / 'ca.pem'}"
{ccs}
{mqtt_section}
[broker]
listen = "127.0.0.1:{self.port}"
[store]
path = "{self.db}"
[ops]
listen = "127.0.0.1:{self.ops}"
[routes]
default_bal = "client1"
"com.example.second" = "client2"
[limits]
{limits}
{extra}
"""
        )
        self.process = None
        self.runs = 0

    def start(self, ready: bool = True, log: str = "info"):
        self.runs += 1
        path = self.folder / f"bridge-{self.runs}.log"
        self.process = Process(["run", "--config", self.config], path, env={"RUST_LOG": log})
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self):
        def look():
            assert self.process.alive(), f"the bridge ended: {self.process.text()}"
            return self.readyz()[0] == 200

        eventually(look, "the bridge is ready")

    def readyz(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            return 0, {}

    def metric(self, name: str) -> int:
        text = http("GET", f"http://127.0.0.1:{self.ops}/metrics")
        for line in text.splitlines():
            if line.startswith(name + " "):
                return int(float(line.split()[-1]))
        raise AssertionError(f"no metric {name}")

    def command(self, *args) -> subprocess.CompletedProcess:
        return subprocess.run([BIN, *map(str, args)], capture_output=True, text=True, timeout=60)

    def trace(self, message_id: str) -> dict:
        done = self.command("trace", message_id, "--store", self.db, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("bridge-*.log")))

    def close(self):
        if self.process:
            self.process.close()


class Bal:
    """A backend application: paho, MQTT 5 or 3.1.1, persistent session by default; keeps all it receives."""

    def __init__(self, name: str, port: int, version=mqtt.MQTTv5, client_id: str | None = None, clean=False, qos=1,
                 filters=None):
        self.name = name
        self.version = version
        self.clean = clean
        self.qos = qos
        self.port = port
        self.filters = filters or [f"{name}/others/+"]
        self.arrived = threading.Condition()
        self.messages: list[tuple[str, dict]] = []
        self.subscribed = threading.Event()
        self.acked: set[int] = set()
        options = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id or name, protocol=version, **options)
        self.client.max_inflight_messages_set(1000)
        self.client.max_queued_messages_set(0)
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._message
        self.client.on_publish = self._published

    def connect(self):
        properties = None
        options = {}
        if self.version == mqtt.MQTTv5:
            properties = mqtt.Properties(mqtt.PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if self.clean else 3600
            options["clean_start"] = self.clean
        self.client.connect("127.0.0.1", self.port, keepalive=60, properties=properties, **options)
        self.client.loop_start()
        assert self.subscribed.wait(PATIENCE), f"{self.name} is not subscribed"
        return self

    def _connected(self, client, _userdata, _flags, reason, _properties):
        if not reason.is_failure:
            client.subscribe([(topic, self.qos) for topic in self.filters])

    def _message(self, _client, _userdata, message):
        with self.arrived:
            self.messages.append((message.topic, json.loads(message.payload)))
            self.arrived.notify_all()

    def _published(self, _client, _userdata, mid, _reason, _properties):
        with self.arrived:
            self.acked.add(mid)
            self.arrived.notify_all()

    def publish(self, payload, topic: str | None = None, qos: int = 1, retain=False, properties=None) -> int:
        body = payload if isinstance(payload, (str, bytes)) else json.dumps(payload)
        return self.client.publish(topic or f"{self.name}/self/messages", body, qos, retain, properties).mid

    def wait(self, condition, what: str, patience: float = PATIENCE):
        """Waits until `condition()` holds over what has arrived."""
        with self.arrived:
            if not self.arrived.wait_for(condition, patience):
                raise AssertionError(f"{self.name}: did not happen within {patience} s: {what}; last: {self.messages[-5:]}")

    def wait_acked(self, mid: int):
        self.wait(lambda: mid in self.acked, f"PUBACK of {mid}")

    def on(self, suffix: str) -> list[dict]:
        return [body for topic, body in list(self.messages) if topic == f"{self.name}/others/{suffix}"]

    def statuses(self, message_id: str) -> list[dict]:
        return [body for body in self.on("receipts") if body["id"] == message_id]

    def words(self, message_id: str) -> list[str]:
        return [body["status"] for body in self.statuses(message_id)]

    def by_id(self) -> dict[str, list[str]]:
        words = defaultdict(list)
        for body in self.on("receipts"):
            words[body["id"]].append(body["status"])
        return words

    def wait_words(self, message_id: str, words: list[str], patience: float = PATIENCE):
        self.wait(lambda: self.words(message_id) == words, f"{message_id} is told {words}, was {self.words(message_id)}", patience)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()
