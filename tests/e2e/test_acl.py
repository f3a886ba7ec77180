"""The rules that `acl --for mosquitto` prints, loaded into a real mosquitto, beside the embedded broker: who may publish
where, and who gets what, role by role and topic by topic."""

import subprocess

import paho.mqtt.client as mqtt
import pytest
from harness import Process, eventually, free_port, run
from test_access import Paho, add_user, password

USERS = {"bal1": "bal", "bal2": "bal", "alice": "user", "bob": "user", "root": "admin"}
# Whose rights are looked at.
WHO = ["bal1", "alice", "root"]
PUBLISHES = [
    "{own}/self/messages", "{own}/self/receipts", "{own}/self/presence", "{own}/self/presence/phone", "{own}/self/profile",
    "{own}/self/a/b/c", "{own}/others/messages", "{own}/my/answers", "{own}", "bob/self/messages", "bob/self/presence",
    "bob/others/messages", "bal2/others/receipts", "_bridge/status", "_bridge/commands", "x/y",
]  # fmt: skip
# What static rules, which know no roles and have no exceptions, cannot express: topics that only one of the two lets through.
ONLY_MOSQUITTO = {
    "bal1": {
        "bal1/self/profile": "a BAL reads profiles, as chat users may",
        "bal2/self/profile": "a BAL reads profiles, as chat users may",
        "alice/self/profile": "a BAL reads profiles, as chat users may",
        "bob/self/profile": "a BAL reads profiles, as chat users may",
    },
    "alice": {
        "bob/self/presence": "bob has nothing to do with alice: no contact",
        "bob/self/profile": "bob has nothing to do with alice: no contact",
    },
    "root": {},
}
# What the embedded broker takes as written to these peers.
ROUTED = {"alice": {"alice/others/messages", "bob/others/messages"}}
# An admin is somebody who logs in, like everybody there.
ADMIN_PUBLISHES = {"root/self/messages", "root/self/receipts", "root/self/presence", "root/self/presence/phone", "root/self/profile", "root/self/a/b/c"}
ONLY_EMBEDDED = {
    "bal1": {"bal1/my/answers": "the bridge may write a response topic below `others/` only"},
    "alice": {},
    "root": {"bal1/my/answers": "the bridge may write a response topic below `others/` only"},
}


class Side:
    """One of the two brokers with a bridge, and clients that log in."""

    def __init__(self, bridge, port: int):
        self.bridge, self.port = bridge, port
        self.clients = []

    def client(self, user: str) -> Paho:
        client = Paho(mqtt.MQTTv5, self, user, password(user), f"{user}:{len(self.clients)}")
        assert client.connected(), user
        self.clients.append(client)
        return client

    def close(self):
        for client in self.clients:
            client.close()


def embedded(make_bridge, tmp_path) -> Side:
    bridge = make_bridge(broker=f'users_file = "{tmp_path}/users"', routes='default_bal = "bal1"', apps=("alice", password("alice")))
    for name, role in USERS.items():
        add_user(bridge.config, name, role, password(name))
    bridge.start()
    return Side(bridge, bridge.port)


@pytest.fixture
def mosquitto(tmp_path):
    """A mosquitto with the printed rules, for everybody and for the bridge."""
    rules = run("acl", "--for", "mosquitto", "--bridge", "the-bridge", "--admin", "root")
    assert rules.returncode == 0, rules.stderr
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "acl").write_text(rules.stdout)
    (folder / "acl").chmod(0o600)
    for n, user in enumerate([*USERS, "the-bridge"]):
        subprocess.run(["mosquitto_passwd", "-b", *(["-c"] if n == 0 else []), folder / "users", user, password(user)], check=True)
    port = free_port()
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\npassword_file {folder}/users\nacl_file {folder}/acl\nuser root\n"
        "max_inflight_messages 1000\nmax_queued_messages 0\n"
    )
    process = Process(["-c", folder / "mosquitto.conf"], folder / "log", program="mosquitto")
    eventually(lambda: " running" in process.text(), "mosquitto runs")
    yield port
    process.close()


def behind(make_bridge, tmp_path, port: int) -> Side:
    secret = tmp_path / "password"
    secret.write_text(password("the-bridge"))
    secret.chmod(0o600)
    section = (
        f'broker = "external"\nurl = "mqtt://127.0.0.1:{port}"\nusername = "the-bridge"\npassword_file = "{secret}"'
    )
    bals = "[bals.bal1]\n[bals.bal2]\n"
    bridge = make_bridge(mqtt_section=section, routes='default_bal = "bal1"', extra=bals, apps=("alice", password("alice")))
    return Side(bridge.start(), port)


def published(side: Side) -> dict[str, set[str]]:
    """Where each may publish."""
    allowed = {}
    for who in WHO:
        client = side.client(who)
        topics = [topic.format(own=who) for topic in PUBLISHES]
        allowed[who] = {topic for topic in topics if client.publish(topic, "{}") == "taken"}
    return allowed


def seen(side: Side, answers: str) -> dict[str, set[str]]:
    """What each gets of what everybody says, with a subscription to everything."""
    readers = {who: side.client(who) for who in WHO}
    root = readers["root"]
    for client in readers.values():
        assert client.subscribe("#")
    said = set()
    for name in ["bal1", "bal2", "alice", "bob"]:
        speaker = side.client(name)
        # What a user says on topics that mean nothing, the embedded broker shows to nobody.
        for suffix in ["messages", "profile", *(["note"] if name.startswith("bal") else []), "presence"]:
            speaker.publish(f"{name}/self/{suffix}", "{}", retain=suffix in ("profile", "presence"))
            said.add(f"{name}/self/{suffix}")
        said.add(f"{name}/others/errors")
    properties = mqtt.Properties(mqtt.PacketTypes.PUBLISH)
    properties.ResponseTopic = answers
    side.client("bal1").client.publish("bal1/self/messages", '{"id":"a1","token":"phone","data":{}}', 1, properties=properties)
    side.client("bal2").client.publish("bal2/self/messages", '{"id":"b1","token":"phone","data":{}}', 1)
    said |= {answers, "bal2/others/receipts", "_bridge/status"}
    eventually(lambda: said <= {topic for topic, _ in root.messages}, f"all of it is said: {said - {t for t, _ in root.messages}}")
    # Whatever comes, comes before it.
    side.client("bal2").publish("bal2/self/presence", '{"state":"online","conn":"the last word"}')
    for who, reader in readers.items():
        eventually(lambda reader=reader: any("the last word" in payload for _, payload in reader.messages), f"{who} has all")
    return {who: {topic for topic, _ in reader.messages} & said for who, reader in readers.items()}


def test_a_mosquitto_with_the_printed_rules_lets_through_what_the_embedded_broker_does(make_bridge, tmp_path, mosquitto):
    here, there = embedded(make_bridge, tmp_path), behind(make_bridge, tmp_path, mosquitto)
    try:
        may_publish = published(here)
        with_the_rules = published(there)
        with_mosquitto, with_us = with_the_rules.pop("root"), may_publish.pop("root")
        assert with_mosquitto - with_us == ADMIN_PUBLISHES
        assert with_us - with_mosquitto == {"_bridge/commands"}, "the bridge takes commands only where it knows who logged in"
        assert {who: topics - ROUTED.get(who, set()) for who, topics in may_publish.items()} == with_the_rules
        assert ROUTED["alice"] <= may_publish["alice"]
        assert all(may_publish.values())
        with_us, with_mosquitto = seen(here, "bal1/my/answers"), seen(there, "bal1/others/answers")
        for who in WHO:
            assert with_us[who] - with_mosquitto[who] == set(ONLY_EMBEDDED[who]), who
            assert ("bal1/others/answers" in with_mosquitto[who]) == (who != "alice"), who
            with_mosquitto[who].discard("bal1/others/answers")
            assert with_mosquitto[who] - with_us[who] == set(ONLY_MOSQUITTO[who]), who
        for who in ["bal1", "alice"]:
            assert {f"{who}/others/errors", f"{who}/self/presence", "_bridge/status"} <= with_us[who], who
            assert ("bob/self/presence" in with_us[who]) == (who == "bal1"), who
            assert not {"bob/self/messages", "bob/others/errors", "bal2/others/receipts"} & with_us[who], who
    finally:
        here.close()
        there.close()
