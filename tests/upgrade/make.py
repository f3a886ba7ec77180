"""Makes the files of `0.1.0` with the binary of that release: see README.md."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

import harness  # noqa: E402
import paho.mqtt.client as mqtt  # noqa: E402
import ways  # noqa: E402
from harness import Bal, Process, Sim, eventually, free_port  # noqa: E402

HERE = Path(__file__).parent / "0.1.0"
USERS = {"bal1": "bal", "careful": "bal", "alice": "user", "bob": "user", "carol": "user"}
# Longer than this takes: what is sent then is in flight at the kill.
LATENCY_MS = 600_000
# What the store calls parked behind another message; no time.
PARKED = 2**63 - 1


def answers(correlation: bytes):
    properties = mqtt.Properties(mqtt.PacketTypes.PUBLISH)
    properties.ResponseTopic, properties.CorrelationData = "bal1/my/answers", correlation
    return properties


class Maker:
    def __init__(self, folder: Path):
        self.folder = folder
        self.sim = Sim(folder / "sim", way=ways.FCM_V1)
        self.port, self.ops_port = free_port(), free_port()
        shutil.copy(self.sim.key, folder / "ccs.key")
        words = {
            "ccs_port": self.sim.ccs_port,
            "folder": folder,
            "ca": self.sim.ca,
            "credentials": self.sim.credentials,
            "fcm_url": self.sim.fcm_url,
            # Nobody is there.
            "shop_url": f"https://127.0.0.1:{free_port()}",
            "port": self.port,
            "ops_port": self.ops_port,
        }
        text = (HERE / "bridge.toml").read_text()
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        self.config = folder / "bridge.toml"
        self.config.write_text(text)
        for user, role in USERS.items():
            command = [harness.BIN, "user", "add", user, "--role", role, "--config", str(self.config)]
            subprocess.run(command, input=f"password of {user}\n", text=True, check=True, capture_output=True)
        self.bridge = Process(["run", "--config", self.config], folder / "bridge.log")

    def ready(self) -> bool:
        try:
            metrics = harness.http("GET", f"http://127.0.0.1:{self.ops_port}/metrics")
            return "bridge_ccs_up 1" in metrics
        except OSError:
            return False

    def client(self, client_id: str, filters: list[str], acks=True, **more) -> Bal:
        user = client_id.split(":")[0]
        bal = Bal(user, self.port, client_id=client_id, filters=filters, session_seconds=0xFFFFFFFE, **more)
        bal.client.username_pw_set(user, f"password of {user}")
        bal.client.manual_ack_set(not acks)
        return bal.connect()

    def rows(self, sql: str) -> list:
        with sqlite3.connect(f"file:{self.folder}/bridge.db?mode=ro", uri=True) as store:
            return store.execute(sql).fetchall()

    def wait_state(self, message_id: str, state: int):
        eventually(lambda: self.rows(f"SELECT state FROM deliveries WHERE id = '{message_id}'") == [(state,)], message_id)


def settled(maker: Maker):
    """What has its end and whose statuses were read, and one status that nobody has read."""
    sim, bal = maker.sim, maker.client("bal1", ["bal1/others/+", "bal1/my/#"])
    bal.push("done-1", "phone")
    bal.wait(lambda: "delivered" in bal.words("done-1"), "done-1")
    sim.call("PUT", sim._path("gone"), {"refuse": {"code": "DEVICE_UNREGISTERED"}})
    bal.push("failed-1", "gone")
    bal.wait(lambda: "failed" in bal.words("failed-1"), "failed-1")
    sim.call("PUT", sim._path("busy"), {"refuse": {"code": "DEVICE_MESSAGE_RATE_EXCEEDED", "times": 9}})
    bal.push("expired-1", "busy", ttl=1)
    bal.wait(lambda: "expired" in bal.words("expired-1"), "expired-1")
    maker.sim.call("POST", sim._path("phone") + "/upstream", {"data": {"n": "read"}, "message_id": "up-read"})
    bal.wait(lambda: len(bal.on("messages")) == 1, "a message of a device that was read")
    eventually(lambda: maker.rows("SELECT count(*) FROM outbox") == [(0,)], "all is confirmed")
    bal.close()


def make(maker: Maker):
    sim = maker.sim
    eventually(maker.ready, "the bridge is ready")
    settled(maker)

    # Kept sessions, under both forms of their key: one that is away, and one that is there and acknowledges nothing.
    maker.client("alice", ["alice/self/#"]).close()
    phone = maker.client("alice:phone", ["alice/self/#"], acks=False)
    maker.client("bal1:worker", ["$share/workers/bal1/none"], acks=False)
    old = maker.client("alice:old", ["alice/none"], version=mqtt.MQTTv311)
    for n in (1, 2):
        old.wait_acked(old.publish({"note": n}, "alice/self/notes"))
    old.wait_acked(old.publish({"name": "Alice"}, "alice/self/profile", retain=True))
    phone.wait(lambda: {"note": 2} in [body for _, body in phone.messages], "the notes")
    bob = maker.client("bob", ["bob/#"])
    bob.wait(lambda: any(body.get("state") == "online" for _, body in bob.messages), "bob is told to be online")
    maker.client("carol", ["carol/none"]).close()
    eventually(lambda: maker.rows("SELECT online FROM presence WHERE user = 'carol'") == [(0,)], "carol is told to be offline")
    eventually(lambda: maker.rows("SELECT 1 FROM marks WHERE alive_at > 0"), "the bridge notes that it lives")

    # Nobody reads what is told of these.
    bal = maker.client("bal1:sender", ["bal1/none"])
    bal.wait_acked(bal.publish({"state": "online", "conn": "c1"}, "bal1/self/presence", retain=True))
    bal.wait_acked(bal.publish({"id": "refused-1", "data": {}}), bal.publish("not JSON"))
    sim.set_device("away", state="offline")
    bal.push("sent-1", "away")
    maker.wait_state("sent-1", 3)
    bal.publish({"id": "v1-sent-1", "token": "v1-quiet", "category": "com.example.v1", "data": {"mine": "v1-sent-1"}})
    maker.wait_state("v1-sent-1", 3)
    bal.push("retry-1", "busy")
    eventually(lambda: maker.rows("SELECT attempt FROM deliveries WHERE id = 'retry-1' AND due_at > 0") == [(1,)], "retry-1")
    bal.push("retry-2", "busy")
    eventually(lambda: maker.rows(f"SELECT 1 FROM deliveries WHERE id = 'retry-2' AND due_at = {PARKED}"), "retry-2")
    sim.call("PUT", "/v1/faults", {"rules": [{"then": "unavailable", "prefix": "v1-busy", "retry_after": {"seconds": 600}}]})
    bal.publish({"id": "v1-retry-1", "token": "v1-busy", "category": "com.example.v1", "data": {"mine": "v1-retry-1"}})
    eventually(lambda: maker.rows("SELECT 1 FROM deliveries WHERE id = 'v1-retry-1' AND waited_ms > 0"), "v1-retry-1")

    # In the other direction: for a BAL that is away, for one that acknowledges by its own word, for nobody.
    careful = maker.client("careful", ["careful/others/messages"])
    for token, category in [("phone", "com.example.app"), ("phone-c", "com.example.careful"), ("phone-n", "com.example.nobody")]:
        for n in (1, 2):
            body = {"data": {"n": str(n)}, "category": category, "message_id": f"up-{n}"}
            sim.call("POST", sim._path(token) + "/upstream", body)
    careful.wait_on("messages", 2)
    eventually(lambda: maker.rows("SELECT count(*) FROM inbox") == [(7,)], "the messages of devices")

    # A reader that has got the first statuses of some, and acknowledges nothing.
    reader = maker.client("bal1", ["bal1/others/+", "bal1/my/#"], acks=False)
    bal.wait_acked(bal.publish({"id": "asked-1", "token": "phone", "data": {"mine": "asked-1"}}, properties=answers(b"c-1")))
    reader.wait(lambda: "delivered" in reader.words("asked-1") and "sent" in reader.words("sent-1"), "what the reader gets")

    # In flight, behind what is in flight, and behind an order key.
    sim.call("PUT", "/faults", {"latency_ms": LATENCY_MS})
    sim.call("PUT", "/v1/faults", {"latency_ms": LATENCY_MS})
    for message_id in ("flying-1", "flying-2"):
        bal.push(message_id, "phone")
    for message_id in ("ordered-1", "ordered-2"):
        bal.push(message_id, message_id, order="chat-7")
    for message_id in ("v1-flying-1", "v1-flying-2"):
        bal.publish({"id": message_id, "token": "v1-phone", "category": "com.example.v1", "data": {"mine": message_id}})
    # Never tried: nobody is there who would take them.
    for message_id in ("waiting-1", "waiting-2", "waiting-3"):
        bal.publish({"id": message_id, "token": "shopper", "category": "com.example.shop", "data": {"mine": message_id}})
    for message_id in ("flying-1", "flying-2", "ordered-1", "v1-flying-1"):
        maker.wait_state(message_id, 2)
    eventually(lambda: maker.rows("SELECT count(*) FROM deliveries") == [(18,)], "all messages")
    eventually(lambda: maker.rows("SELECT count(*) FROM deliveries WHERE state = 0 AND due_at IS NULL"), "messages that wait")
    # The engine writes what it has for sessions every now and then.
    queues = maker.folder / "broker"
    eventually(lambda: any(queues.rglob("queues/alice/*.json")) and any(queues.rglob("inflight/alice:phone/*.json")), "the engine's files")
    maker.bridge.kill9()


def ageless(log: Path):
    """A session that is away ends after a week. Without the time of its end it is away since the next start."""
    lines = []
    for line in log.read_text().splitlines():
        record = json.loads(line.split(" ", 1)[1])
        if "session" in record:
            record["session"]["disconnected_at"] = None
        text = json.dumps(record, separators=(",", ":"))
        lines.append(f"{zlib.crc32(text.encode()):08x} {text}\n")
    log.write_text("".join(lines))


def dump(store: Path) -> str:
    """The file as SQL text, with what marks it as a store of its schema."""
    with sqlite3.connect(store) as conn:
        lines = list(conn.iterdump())
        pragmas = [f"PRAGMA {name} = {conn.execute(f'PRAGMA {name}').fetchone()[0]};" for name in ("application_id", "user_version")]
    return "\n".join([*lines, *pragmas, ""])


def main():
    harness.BIN = os.environ["BRIDGE_BIN"]
    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(Path(folder))
        try:
            make(maker)
        except BaseException:
            print(maker.bridge.text())
            raise
        finally:
            maker.bridge.close()
            maker.sim.close()
        (HERE / "store.sql").write_text(dump(Path(folder) / "bridge.db"))
        shutil.copy(Path(folder) / "users", HERE / "users")
        shutil.rmtree(HERE / "broker", ignore_errors=True)
        shutil.copytree(Path(folder) / "broker", HERE / "broker", ignore=shutil.ignore_patterns(".lock"))
        ageless(HERE / "broker/sessions/sessions.log")
        for path in (HERE / "broker").rglob("*.json"):
            # The engine writes a line for each byte.
            path.write_text(json.dumps(json.loads(path.read_text())) + "\n")
    print(*sorted(path.relative_to(HERE) for path in HERE.rglob("*") if path.is_file()), sep="\n")


if __name__ == "__main__":
    main()
