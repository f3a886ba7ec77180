"""Who may connect, write and read: each rule for each role, with paho over both MQTT versions and mqtt.js over WebSocket."""

import json
import subprocess
import threading

import paho.mqtt.client as mqtt
import pytest
from harness import BIN, PATIENCE, Process, eventually, free_port, run
from test_clients import HERE, NODE_PATH

USERS = {"bal1": "bal", "bal2": "bal", "alice": "user", "eve": "user", "root": "admin"}
KINDS = ["paho 3.1.1", "paho 5", "mqtt.js ws 3.1.1", "mqtt.js ws 5"]


def password(user: str) -> str:
    return f"secret of {user}"


class Paho:
    """One connection of paho."""

    def __init__(self, version, house, user, secret, client_id):
        self.version = version
        self.changed = threading.Condition()
        self.answers: dict[tuple, object] = {}
        self.messages: list[tuple[str, str]] = []
        self.state = None
        options = {} if version == mqtt.MQTTv5 else {"clean_session": True}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=version, **options)
        if user:
            self.client.username_pw_set(user, secret)
        self.client.on_connect = lambda _c, _u, _f, reason, _p: self.note("state", reason)
        self.client.on_disconnect = lambda _c, _u, _f, reason, _p: self.note("state", "closed")
        self.client.on_message = lambda _c, _u, m: self.note(None, (m.topic, m.payload.decode()))
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self.note(("sub", mid), codes)
        self.client.on_publish = lambda _c, _u, mid, reason, _p: self.note(("pub", mid), reason)
        self.client.connect("127.0.0.1", house.port, 60)
        self.client.loop_start()
        self.wait(lambda: self.state is not None, "CONNACK")

    def note(self, key, value):
        with self.changed:
            if key is None:
                self.messages.append(value)
            elif key == "state":
                self.state = value
            else:
                self.answers[key] = value
            self.changed.notify_all()

    def wait(self, condition, what):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), what

    def connected(self) -> bool:
        return self.state != "closed" and not self.state.is_failure

    def subscribe(self, topic_filter: str) -> bool:
        _, mid = self.client.subscribe(topic_filter, 1)
        self.wait(lambda: ("sub", mid) in self.answers, f"SUBACK of {topic_filter}")
        return not any(code.is_failure for code in self.answers["sub", mid])

    def publish(self, topic: str, payload: str, retain=False) -> str:
        mid = self.client.publish(topic, payload, 1, retain).mid
        self.wait(lambda: ("pub", mid) in self.answers or self.state == "closed", f"the answer for {topic}")
        reason = self.answers.get(("pub", mid))
        return "denied" if reason is None or reason.is_failure else "taken"

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class MqttJs:
    """One connection of mqtt.js over WebSocket."""

    def __init__(self, version, house, user, secret, client_id):
        self.messages: list[tuple[str, str]] = []
        self.lines: list[dict] = []
        self.changed = threading.Condition()
        args = ["node", HERE / "client.mjs", f"ws://127.0.0.1:{house.ws_port}/mqtt", version, user, secret]
        # Without one mqtt.js makes its own.
        args += [client_id] if client_id else []
        self.child = subprocess.Popen(
            [str(a) for a in args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"NODE_PATH": NODE_PATH, "PATH": __import__("os").environ["PATH"]},
        )
        threading.Thread(target=self.read, daemon=True).start()
        self.wait(lambda: self.find("connected", True) or self.closed(), "an answer to CONNECT")

    def read(self):
        for line in self.child.stdout:
            said = json.loads(line)
            with self.changed:
                if "topic" in said:
                    self.messages.append((said["topic"], said["body"]))
                else:
                    self.lines.append(said)
                self.changed.notify_all()

    def find(self, key, value):
        return next((line for line in self.lines if line.get(key) == value), None)

    def closed(self):
        return any("error" in line or "closed" in line for line in self.lines)

    def wait(self, condition, what):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), f"{what}: {self.lines}"

    def connected(self) -> bool:
        return not self.closed()

    def tell(self, **command):
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()

    def subscribe(self, topic_filter: str) -> bool:
        self.tell(subscribe=topic_filter)
        self.wait(lambda: self.find("subscribed", topic_filter), f"SUBACK of {topic_filter}")
        return self.find("subscribed", topic_filter)["granted"]

    def publish(self, topic: str, payload: str, retain=False) -> str:
        self.tell(publish=[topic, payload, retain])
        self.wait(lambda: self.find("published", topic) or self.closed(), f"the answer for {topic}")
        answer = self.find("published", topic)
        return answer["answer"] if answer else "denied"

    def close(self):
        self.child.kill()
        self.child.wait()


class House:
    """A bridge with users."""

    def __init__(self, bridge, ws_port: int):
        self.bridge = bridge
        self.port = bridge.port
        self.ws_port = ws_port
        self.clients = []

    def client(self, kind: str, user: str, secret: str | None = None, client_id: str | None = None):
        secret = password(user) if secret is None else secret
        client_id = f"{user}:one" if client_id is None else client_id
        if kind.startswith("paho"):
            version = mqtt.MQTTv5 if kind.endswith(" 5") else mqtt.MQTTv311
            client = Paho(version, self, user, secret, client_id)
        else:
            client = MqttJs("5" if kind.endswith(" 5") else "4", self, user, secret, client_id)
        self.clients.append(client)
        return client

    def metric(self, name: str) -> int:
        return self.bridge.metric(name)


def add_user(config, name: str, role: str, secret: str):
    done = run("user", "add", name, "--role", role, "--config", config, input=secret + "\n")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def house(make_bridge, tmp_path):
    ws_port = free_port()
    users = f'users_file = "{tmp_path}/users"\nlisten_ws = "127.0.0.1:{ws_port}"'
    bridge = make_bridge(broker=users, routes='default_bal = "bal1"', apps=("alice", password("alice")))
    for name, role in USERS.items():
        add_user(bridge.config, name, role, password(name))
    house = House(bridge.start(), ws_port)
    yield house
    for client in house.clients:
        client.close()


PUBLISH = {
    "bal1": (["bal1/self/messages", "bal1/self/presence"], ["bal1/others/messages", "bal2/self/messages", "bal1/my/x", "_bridge/commands", "x"]),
    # What it publishes into the inbox of a peer is taken as written to that peer.
    "alice": (
        ["alice/self/profile", "alice/self/state/phone", "eve/others/messages", "bal1/others/messages"],
        ["alice/others/receipts", "bal1/others/receipts", "eve/self/messages", "_bridge/status"],
    ),
    "root": (["_bridge/commands"], ["root/self/messages", "alice/self/messages", "_bridge/status"]),
}
SUBSCRIBE = {
    "bal1": (
        ["bal1/others/#", "bal1/others/messages", "$share/g/bal1/others/messages", "+/self/presence", "_bridge/status", "bal1/my/answers"],
        ["bal1/self/messages", "bal2/others/messages", "$share/g/bal2/others/messages", "alice/others/+", "_bridge/stats"],
    ),
    "alice": (
        ["alice/self/#", "alice/others/#", "eve/self/presence", "eve/self/profile", "_bridge/status", "#"],
        ["alice/self/messages", "eve/self/messages", "eve/others/messages", "bal1/others/+", "$share/x/#", "_bridge/stats", "g-1/others/messages"],
    ),
    "root": (["#", "alice/others/messages", "_bridge/stats", "$share/g/#"], []),
}


TO_ONESELF = '{"to":"alice","body":"a note"}'


def copies(client) -> int:
    """Copies of messages that came to a device of alice."""
    return sum(topic == "alice/others/messages" for topic, _ in client.messages)


def is_told(client, errors: str, topic: str) -> bool:
    """Whether an error document says that nothing may be published on a topic."""
    documents = [json.loads(body) for where, body in client.messages if where == errors]
    return any((document["code"], document.get("topic")) == ("FORBIDDEN", topic) for document in documents)


@pytest.mark.parametrize("kind", KINDS)
def test_each_role_may_do_what_the_contract_says_and_nothing_else(house, kind):
    for user, (allowed, denied) in PUBLISH.items():
        client = house.client(kind, user)
        assert client.connected(), user
        for topic in allowed:
            assert client.publish(topic, '{"v":1}') == "taken", f"{user} -> {topic}"
        errors = f"{user}/others/errors"
        has_inbox = user != "root"
        if has_inbox:
            assert client.subscribe(errors)
        for topic in denied:
            if not client.connected():
                # MQTT 3.1.1 has no word for it, and nor has the bridge: the connection is closed.
                assert "3.1.1" in kind and not has_inbox
                client.close()
                client = house.client(kind, user)
            answer = client.publish(topic, '{"v":1}')
            if "3.1.1" in kind and has_inbox:
                # MQTT 3.1.1 has no word for it: a document has.
                assert answer == "taken", f"{user} -> {topic}"
                client.wait(lambda t=topic: is_told(client, errors, t), f"{user} is told of {topic}")
            else:
                assert answer == "denied", f"{user} -> {topic}"
        client.close()
    for user, (allowed, denied) in SUBSCRIBE.items():
        client = house.client(kind, user)
        for topic_filter in allowed:
            assert client.subscribe(topic_filter), f"{user} <- {topic_filter}"
        for topic_filter in denied:
            assert not client.subscribe(topic_filter), f"{user} <- {topic_filter}"
        client.close()
    assert house.metric("bridge_publishes_denied_total") == sum(len(denied) for _, denied in PUBLISH.values())
    assert house.metric("bridge_subscriptions_denied_total") == sum(len(denied) for _, denied in SUBSCRIBE.values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_eavesdropper_gets_only_what_the_contract_allows(sim, house, kind):
    eve = house.client(kind, "eve")
    granted = {f: eve.subscribe(f) for f in ["#", "+/self/messages", "+/others/#", "$share/x/#", "alice/others/+", "bal1/others/+"]}
    assert not granted["$share/x/#"] and not granted["alice/others/+"] and not granted["bal1/others/+"]
    bal, alice = house.client(kind, "bal1"), house.client(kind, "alice")
    assert bal.subscribe("bal1/others/+")
    assert bal.publish("bal1/self/messages", '{"id":"a1","token":"phone","data":{"k":"v"}}') == "taken"
    sim.upstream("phone", {"k": "v"})
    for topic in ["alice/self/messages", "alice/self/devices/one", "alice/self/state/one", "alice/self/read"]:
        assert alice.publish(topic, '{"to":"bal1","body":"private"}') == "taken"
    assert alice.publish("alice/self/profile", '{"name":"Alice"}', True) == "taken"
    eventually(lambda: any(t == "bal1/others/messages" for t, _ in bal.messages), "the BAL has its message")
    eventually(lambda: any(t == "alice/others/messages" for t, _ in alice.messages), "all devices of alice have the copy")
    # The last thing anybody says: what eve was not sent before it she will not get.
    assert eve.publish("eve/self/messages", '{"id":"end"}') == "taken"
    eventually(lambda: any(t == "eve/others/errors" for t, _ in eve.messages), "eve is told of her own message")
    seen = {topic for topic, _ in eve.messages}
    own = {topic for topic in seen if topic.startswith("eve/")}
    assert seen - own <= {"bal1/self/presence", "_bridge/status"}, seen
    assert house.metric("bridge_deliveries_filtered_total") > 0


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_not_who_they_say_does_not_come_in(house, kind):
    assert house.client(kind, "alice").connected()
    for user, secret, client_id in [
        ("alice", "wrong", "alice"),
        ("nobody", "secret of nobody", "nobody"),
        ("eve", password("eve"), "x" * 257),
        ("eve", "", "eve"),
    ]:
        assert not house.client(kind, user, secret, client_id).connected(), (user, client_id)
    logs = house.bridge.logs()
    assert "secret of" not in logs
    assert house.metric("bridge_logins_failed_total") == 3
    assert house.metric('bridge_broker_refusals_total{reason="credentials"}') == 3
    assert house.metric('bridge_broker_refusals_total{reason="client_id_length"}') == 1
    for words in ['user="nobody"', 'client="alice"', 'reason="credentials"', 'reason="client_id_length"', "longer than 256 bytes"]:
        assert words in logs, words


@pytest.mark.parametrize("kind", KINDS)
def test_clients_come_with_the_ids_that_their_library_makes(house, kind):
    alice, again, eve = (house.client(kind, user, client_id="") for user in ["alice", "alice", "eve"])
    assert all(client.connected() for client in [alice, again, eve])
    assert alice.publish("alice/self/messages", TO_ONESELF) == "taken"
    eventually(lambda: copies(again) == 1 == copies(alice), "both devices of alice have it")
    assert not eve.messages and eve.connected()


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_takes_over_the_session_of_another_user_by_its_client_id(house, kind):
    alice = house.client(kind, "alice", client_id="alice:phone")
    eve = house.client(kind, "eve", client_id="alice:phone")
    assert eve.connected() and alice.connected()
    assert eve.publish("eve/self/state/phone", "{}") == "taken"
    assert alice.publish("alice/self/messages", TO_ONESELF) == "taken"
    eventually(lambda: copies(alice) == 1, "alice is still there")
    again = house.client(kind, "alice", client_id="alice:phone")
    assert again.connected()
    eventually(lambda: not alice.connected(), "her own connection takes over")
    assert eve.connected()
    assert 'reason="taken_over"' in house.bridge.logs()


def test_a_removed_user_is_sent_away_and_the_others_stay(house):
    alice, eve = house.client("paho 5", "alice"), house.client("paho 5", "eve")
    done = run("user", "remove", "eve", "--config", house.bridge.config)
    assert done.returncode == 0, done.stderr
    house.bridge.process.child.send_signal(1)
    eventually(lambda: not eve.connected(), "eve is sent away")
    assert alice.connected() and alice.publish("alice/self/state/one", "{}") == "taken"
    assert not house.client("paho 5", "eve", client_id="eve").connected()
    add_user(house.bridge.config, "eve", "user", "new password")
    house.bridge.process.child.send_signal(1)
    eventually(lambda: house.client("paho 5", "eve", "new password").connected(), "eve is back")
    assert run("user", "list", "--config", house.bridge.config).stdout.count("\n") == len(USERS)


def test_the_presence_of_a_user_is_known_without_any_word_of_theirs(house):
    bal = house.client("paho 5", "bal1")
    assert bal.subscribe("+/self/presence")

    def states():
        return [json.loads(body)["state"] for topic, body in bal.messages if topic == "alice/self/presence"]

    phone = house.client("paho 3.1.1", "alice", client_id="alice:phone")
    eventually(lambda: states() == ["online"], "alice comes")
    laptop = house.client("mqtt.js ws 5", "alice", client_id="alice:laptop")
    phone.close()
    assert laptop.publish("alice/self/state/laptop", "{}") == "taken"
    assert states() == ["online"], "one device is enough"
    laptop.close()
    eventually(lambda: states() == ["online", "offline"], "alice is gone")
    assert json.loads(bal.messages[-1][1])["last_seen"] > 0
    late = house.client("paho 5", "bal2")
    assert late.subscribe("alice/self/presence")
    eventually(lambda: [t for t, _ in late.messages] == ["alice/self/presence"], "it is retained")
