"""The bridge at a real mosquitto that is killed and restarted under it."""

import contextlib
import json
import re
import socket
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from harness import FINAL, Bal, Bridge, Process, Sim, check_settled, check_upstream, eventually, free_port, is_copy

DEVICES = [f"phone{n}" for n in range(10)]
TOLD = ["accepted", "sent", "delivered"]
# How often the broker is killed, and how much it may lose each time of what it has acknowledged.
KILLS = 2
LOST_BY_MOSQUITTO = 1


class Mosquitto:
    """A broker of the test's own, which keeps its queues on disk."""

    def __init__(self, folder: Path):
        folder.mkdir()
        folder.chmod(0o777)  # it gives up root
        self.port = free_port()
        self.log = folder / "mosquitto.log"
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n"
            "max_inflight_messages 1000\nmax_queued_messages 0\nuser root\n"
        )
        self.process = None
        self.start()

    def start(self):
        self.process = Process(["-c", self.config], self.log, program="mosquitto")
        eventually(lambda: self.process.text().count(" running") == self.process.text().count(" starting") > 0, "mosquitto runs")

    def restart(self):
        self.process.kill9()
        self.start()

    def close(self):
        self.process.close()


@pytest.fixture
def mosquitto(tmp_path):
    mosquitto = Mosquitto(tmp_path / "mosquitto")
    yield mosquitto
    mosquitto.close()


@pytest.fixture(params=["5", "3.1.1"], ids=["mqtt5", "mqtt311"])
def version(request):
    return request.param


@pytest.fixture
def bridge(make_bridge, mosquitto, version) -> Bridge:
    section = f'broker = "external"\nurl = "mqtt://127.0.0.1:{mosquitto.port}"\nversion = "{version}"'
    return make_bridge(mqtt_section=section).start()


@pytest.fixture
def bal(bridge, mosquitto, version):
    bal = Bal("client1", mosquitto.port, mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311).connect()
    yield bal
    bal.close()


def states(reader: Bal) -> list[str]:
    return [body["state"] for topic, body in list(reader.messages) if topic == "_bridge/status"]


def test_the_main_job_works_over_an_external_broker(sim: Sim, bridge: Bridge, bal: Bal):
    bal.push("a1", "phone")
    bal.wait_words("a1", TOLD)
    sim.upstream("phone", {"k": "v"})
    assert bal.wait_on("messages", 1)[0]["data"] == {"k": "v"}
    embedded = re.findall(r"^bridge_(?:broker|logins|\w+_denied|deliveries)\w*", bridge.metrics(), re.MULTILINE)
    assert not embedded, "nothing is counted of an embedded broker, for there is none"


def test_a_broker_that_is_away_is_named_with_the_key_of_the_configuration(sim: Sim, make_bridge):
    port = free_port()
    bridge = make_bridge(mqtt_section=f'broker = "external"\nurl = "mqtt://127.0.0.1:{port}"').start(ready=False)
    eventually(lambda: f"mqtt://127.0.0.1:{port} (mqtt.url)" in bridge.logs(), "host, port and key in the log")


def test_the_will_says_offline_when_the_bridge_is_killed(bridge, mosquitto):
    reader = Bal("ops", mosquitto.port, clean=True, filters=["_bridge/status"]).connect()
    reader.wait(lambda: states(reader)[-1:] == ["online"], "online")
    bridge.kill9()
    reader.wait(lambda: states(reader)[-1] == "offline", "offline, said by the will")
    bridge.start()
    reader.wait(lambda: states(reader)[-1] == "online", "online again")
    assert bridge.stop() == 0
    reader.wait(lambda: states(reader)[-1] == "offline", "offline, said by the bridge")
    assert reader.messages[-1][1]["broker"] == "external"
    reader.close()


def insist(bal: Bal, ids: list[str], patience: float = 60.0):
    """What a careful BAL does: mosquitto loses what it acknowledged just before a kill, so without a final status the
    message is published again, under its id. That is no second message; it makes the bridge tell the last status again,
    marked."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            return bal.wait_final(ids, patience=3)
        except AssertionError:
            for message_id in ids:
                if not FINAL & set(bal.words(message_id)):
                    bal.push(message_id, DEVICES[int(message_id[-1])])
    bal.wait_final(ids, patience=0)


def test_a_broker_that_is_killed_in_mid_flow_loses_nothing(sim, bridge, mosquitto, bal):
    sim.faults(latency_ms=30)
    ids: list[str] = []
    for turn in range(KILLS):
        mine = [f"r{turn}-{n:04}" for n in range(200)]
        ids += mine
        before = sim.stats()["delivered"]
        for n, message_id in enumerate(mine):
            bal.push(message_id, DEVICES[n % 10])
        sim.call("POST", "/upstream", {"devices": 10, "per_device": 20, "prefix": "phone"})
        eventually(lambda: sim.stats()["delivered"] >= before + 50, "the flow is on")
        mosquitto.restart()
        bridge.wait_ready()
    insist(bal, ids)
    check_settled(bal, sim, ids, DEVICES, broker_killed=True)
    assert sim.stats()["duplicates"] == 0, "the push service was never cut off"
    # The topic keeps its order: behind the last message nothing is still to come.
    sim.upstream("last")
    bal.wait(lambda: any(body["token"] == "last" for body in bal.on("messages")), "the last message of a device")
    distinct = {body["id"] for body in bal.on("messages") if body["token"] != "last"}
    # What mosquitto has acknowledged and not written yet dies with it; its word is all that the bridge has.
    assert 400 - LOST_BY_MOSQUITTO * KILLS <= len(distinct) <= 400
    eventually(lambda: bridge.metric("bridge_spool_rows") == 0, "mosquitto has acknowledged every one")
    reader = Bal("ops", mosquitto.port, clean=True, filters=["_bridge/status"]).connect()
    reader.wait(lambda: states(reader)[-1:] == ["online"], "the retained status is there again")
    reader.close()


def test_kills_of_the_bridge_lose_nothing_behind_a_broker(sim, bridge, bal):
    sim.faults(latency_ms=30)
    ids: list[str] = []
    for turn in range(2):
        mine = [f"r{turn}-{n:04}" for n in range(200)]
        ids += mine
        before = sim.stats()["delivered"]
        for n, message_id in enumerate(mine):
            bal.push(message_id, DEVICES[n % 10])
        sim.call("POST", "/upstream", {"devices": 10, "per_device": 20, "prefix": "phone"})
        eventually(lambda: sim.stats()["delivered"] >= before + 50, "the flow is on")
        bridge.kill9()
        bridge.start()
    bal.wait_final(ids, patience=60)
    bal.wait(lambda: len({body["id"] for body in bal.on("messages")}) >= 400, "all messages of devices")
    check_settled(bal, sim, ids, DEVICES)
    check_upstream(bal, 400)
    assert bal.connections == 1


def test_messages_wait_in_the_bridge_while_presence_says_offline(sim, bridge, bal):
    bal.wait_acked(bal.publish({"state": "offline", "conn": "c1"}, "client1/self/presence", retain=True))
    # The bridge has read the presence once it has answered what was published behind it.
    bal.publish({"id": "fence", "token": "phone"})
    eventually(lambda: bridge.metric("bridge_downstream_rejected_total") == 1, "the bridge has read up to the fence")
    sim.upstream("phone", count=30)
    eventually(lambda: sim.stats()["upstream"]["acked"] == 30, "CCS has its acknowledgements")
    eventually(lambda: bridge.metric("bridge_spool_rows") == 30, "30 wait in the bridge")
    assert bal.on("messages") == []
    bal.publish({"state": "online", "conn": "c2"}, "client1/self/presence", retain=True)
    bal.wait_on("messages", 30)
    assert [body["ccs_id"] for body in bal.on("messages")] == [str(n) for n in range(1, 31)]


class Cable:
    """Carries connections to a broker. What clients say may be kept back in it, and it may be cut."""

    def __init__(self, broker_port: int):
        self.broker_port = broker_port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.open = threading.Event()
        self.open.set()
        self.always = threading.Event()
        self.always.set()
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection(("127.0.0.1", self.broker_port))
                self.ends += [near, far]
                for one in (near, far, self.open), (far, near, self.always):
                    threading.Thread(target=self._carry, args=one, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, is_open: threading.Event):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                is_open.wait()
                sink.sendall(data)
        end(source, sink)

    def keep_back(self):
        self.open.clear()

    def cut(self):
        ends, self.ends = self.ends, []
        end(*ends)
        self.open.set()

    def close(self):
        end(self.server)
        self.cut()


def end(*sockets: socket.socket):
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cable(mosquitto):
    cable = Cable(mosquitto.port)
    yield cable
    cable.close()


def bal_without_a_session(mosquitto, conn: str) -> Bal:
    bal, topic = Bal("client1", mosquitto.port, mqtt.MQTTv311, clean=True), "client1/self/presence"
    bal.client.will_set(topic, json.dumps({"state": "offline", "conn": conn}), 1, retain=True)
    bal.connect()
    bal.wait_acked(bal.publish({"state": "online", "conn": conn}, topic, retain=True))
    return bal


def test_what_was_on_its_way_when_the_connection_broke_waits_for_a_bal_that_has_gone(sim, make_bridge, mosquitto, cable):
    # A broker of MQTT 3.1.1 does not say that nobody is there.
    section = f'broker = "external"\nurl = "mqtt://127.0.0.1:{cable.port}"\nversion = "3.1.1"'
    bridge = make_bridge(mqtt_section=section).start()
    other, ids = Bal("client2", mosquitto.port, mqtt.MQTTv311).connect(), [f"a{n}" for n in range(60)]
    other.push("first", DEVICES[0])
    other.wait_words("first", TOLD)
    bal = bal_without_a_session(mosquitto, "c1")
    sim.upstream("phone")
    bal.wait_on("messages", 1)
    eventually(lambda: bridge.metric("bridge_spool_rows") == 0, "the broker has it")
    # More statuses of another BAL than may be unconfirmed at one time: what comes behind them waits for the broker.
    cable.keep_back()
    for message_id in ids:
        other.push(message_id, DEVICES[int(message_id[-1])])
    eventually(lambda: sim.stats()["delivered"] == 61, "all are delivered")
    sim.upstream("phone")
    eventually(lambda: bridge.metric("bridge_spool_rows") == 1, "the message is on disk")
    watcher = Bal("ops", mosquitto.port, mqtt.MQTTv311, clean=True, filters=["client1/self/presence"]).connect()
    bal.vanish()
    watcher.wait(lambda: watcher.messages and watcher.messages[-1][1]["state"] == "offline", "offline, said by the will")
    cable.cut()
    other.wait_final(ids)
    assert bridge.metric("bridge_spool_rows") == 1, "it is held"
    bal = bal_without_a_session(mosquitto, "c2")
    assert not is_copy(bal.wait_on("messages", 1)[0])
    for one in (bal, other, watcher):
        one.close()


def test_the_presence_of_a_chat_user_is_made_of_what_the_devices_say(bridge, mosquitto, version):
    protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
    aggregate = "alice/self/presence"
    bob = Bal("bob", mosquitto.port, protocol, clean=True, filters=[aggregate]).connect()

    def states():
        return [body["state"] for _, body in bob.messages]

    def device(name: str) -> Bal:
        topic, conn = f"{aggregate}/{name}", f"conn-of-{name}"
        device = Bal("alice", mosquitto.port, protocol, client_id=f"alice:{name}", clean=True)
        device.client.will_set(topic, json.dumps({"state": "offline", "conn": conn}), 1, retain=True)
        device.connect()
        device.wait_acked(device.publish({"state": "online", "conn": conn, "active": False}, topic, retain=True))
        return device

    phone = device("phone")
    bob.wait(lambda: states() == ["online"], "online")
    laptop = device("laptop")
    phone.vanish()
    laptop.wait_acked(laptop.publish({"state": "offline", "conn": "old"}, f"{aggregate}/laptop", retain=True))
    forged = {"v": 1, "state": "offline", "ts": 1}
    laptop.wait_acked(laptop.publish(forged, aggregate, retain=True))
    bob.wait(lambda: states() == ["online", "offline", "online"], "the bridge's word over that of the client")
    laptop.vanish()
    bob.wait(lambda: states()[3:] == ["offline"], "offline")
    assert bob.messages[-1][1]["last_seen"] <= bob.messages[-1][1]["ts"]
    assert not any("active" in body for _, body in bob.messages)
    # The bridge does not take its own document for the word of a device, also not after a restart.
    assert bridge.stop() == 0
    bridge.start()
    bob.wait(lambda: len(states()) == 5, "said once more, for it may be lost")
    assert states()[4] == "offline"
    bob.close()


def test_a_retained_outbox_message_is_not_taken_again_after_a_restart(sim, bridge, mosquitto, bal):
    bal.publish({"token": "phone", "data": {"mine": "kept"}}, retain=True)
    eventually(lambda: len(sim.got("phone")) == 1, "the message is sent")
    assert bridge.stop() == 0
    bridge.start()
    mosquitto.restart()
    bridge.wait_ready()
    bal.push("fence", "phone")
    bal.wait(lambda: "delivered" in bal.words("fence"), "the fence")
    assert [m["data"]["mine"] for m in sim.got("phone")] == ["kept", "fence"]
