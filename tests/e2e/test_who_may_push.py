"""Who may push to a device: BALs, and nobody else, whichever broker says who they are."""

import base64
import hashlib
import hmac
import json
import time

import paho.mqtt.client as mqtt
import pytest
from harness import Bal, eventually, mine
from test_access import House, add_user, password
from test_external import Mosquitto

SECRET = "a secret of at least thirty-two bytes"
# One message for each way to name a device, and for what the push service is handed as it is.
RAW = [
    {"token": "phone"},
    {"topic": "everybody"},
    {"condition": "'everybody' in topics"},
    {"to": "/topics/everybody"},
    {"to": "dQw4w9WgXcQ:APA91bH"},
    {"to": "bob", "fcm": {"content_available": True}},
]
MESSAGES = [{"id": f"x{n}", "notification": {"title": "You have won"}, **raw} for n, raw in enumerate(RAW)]
WARNING = "no BAL of this name is configured"
OPEN = "everybody who may publish on the external broker may push"


def token(name: str, role: str, seconds: int = 600) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    claims = {"sub": name, "role": role, "exp": int(time.time()) + seconds}
    head = ".".join(part(json.dumps(one).encode()) for one in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{head}.{part(hmac.new(SECRET.encode(), head.encode(), hashlib.sha256).digest())}"


@pytest.fixture
def house(make_bridge, tmp_path, sim):
    """A bridge whose users are `bal1`, a BAL, and `alice`, who chats; and others by token."""
    (tmp_path / "jwt.secret").write_text(SECRET)
    broker = f'users_file = "{tmp_path}/users"\njwt_secret_file = "{tmp_path}/jwt.secret"\nlisten_ws = "127.0.0.1:0"'
    bridge = make_bridge(broker=broker, routes='default_bal = "bal1"\n"com.example.shop" = "shop"')
    for name, role in {"bal1": "bal", "alice": "user"}.items():
        add_user(bridge.config, name, role, password(name))
    sim.set_device("phone", topics=["everybody"])
    house = House(bridge.start(), 0)
    yield house
    for client in house.clients:
        client.close()


def documents(client, topic: str) -> list[dict]:
    return [json.loads(body) for at, body in list(client.messages) if at == topic]


def check_refused(client, name: str):
    """Publishes everything that only a BAL may, and waits for what is said to it."""
    assert client.subscribe(f"{name}/others/+")
    for message in MESSAGES:
        assert client.publish(f"{name}/self/messages", json.dumps(message)) == "taken"
    errors, receipts = f"{name}/others/errors", f"{name}/others/receipts"
    eventually(lambda: len(documents(client, errors) + documents(client, receipts)) >= 2 * len(MESSAGES), "each is answered")
    ids = [message["id"] for message in MESSAGES]
    assert [(error["ref"], error["code"]) for error in documents(client, errors)] == [(i, "FORBIDDEN") for i in ids]
    told = [(status["id"], status["status"], status["code"]) for status in documents(client, receipts)]
    assert told == [(i, "failed", "FORBIDDEN") for i in ids]


def check_only(sim, client, name: str, message_id: str):
    """A BAL's push arrives, and nothing else has left the bridge."""
    assert client.subscribe(f"{name}/others/+")
    message = {"id": message_id, "token": "phone", "data": {"mine": message_id}}
    assert client.publish(f"{name}/self/messages", json.dumps(message)) == "taken"
    eventually(
        lambda: [s["status"] for s in documents(client, f"{name}/others/receipts")] == ["accepted", "sent", "delivered"],
        "the BAL's push is delivered",
    )
    assert mine(sim.got("phone")) == [message_id]
    assert sim.stats()["messages"] == 1


@pytest.mark.parametrize("kind", ["paho 3.1.1", "paho 5"])
def test_a_user_with_a_password_pushes_to_nobody(sim, house, kind):
    check_refused(house.client(kind, "alice"), "alice")
    check_only(sim, house.client(kind, "bal1"), "bal1", "b1")
    assert WARNING not in house.bridge.logs(), "the operator has given her the role"


@pytest.mark.parametrize("kind", ["paho 3.1.1", "paho 5"])
def test_a_user_with_a_token_pushes_to_nobody_and_is_never_a_bal(sim, house, kind):
    check_refused(house.client(kind, "carol", token("carol", "user")), "carol")
    for name in ["bal1", "shop"]:
        # As either she would get what devices send, with their tokens.
        assert not house.client(kind, name, token(name, "user")).connected(), name
    check_only(sim, house.client(kind, "shop", token("shop", "bal")), "shop", "b1")


@pytest.mark.parametrize("delay", [0, 1])
def test_the_will_of_a_user_pushes_to_nobody(sim, house, delay):
    watcher = house.client("paho 5", "alice", client_id="alice:laptop")
    assert watcher.subscribe("alice/others/errors")
    phone = Bal("alice", house.port, client_id="alice:phone", filters=["alice/others/receipts"])
    phone.client.username_pw_set("alice", password("alice"))
    properties = mqtt.Properties(mqtt.PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = delay
    phone.client.will_set("alice/self/messages", json.dumps(MESSAGES[0]), 1, properties=properties)
    phone.connect().vanish()
    eventually(lambda: documents(watcher, "alice/others/errors"), "the will is answered")
    [error] = documents(watcher, "alice/others/errors")
    assert (error["ref"], error["code"]) == (MESSAGES[0]["id"], "FORBIDDEN")
    check_only(sim, house.client("paho 5", "bal1"), "bal1", "b1")


@pytest.fixture
def mosquitto(tmp_path):
    mosquitto = Mosquitto(tmp_path / "mosquitto")
    yield mosquitto
    mosquitto.close()


@pytest.fixture(params=["5", "3.1.1"], ids=["mqtt5", "mqtt311"])
def external(request, mosquitto, make_bridge):
    """Makes bridges that are clients of mosquitto."""
    section = f'broker = "external"\nurl = "mqtt://127.0.0.1:{mosquitto.port}"\nversion = "{request.param}"'
    return lambda **settings: make_bridge(mqtt_section=section, **settings)


@pytest.fixture
def join(mosquitto):
    """Lets a client in by its name."""
    clients = []

    def join(name: str) -> Bal:
        clients.append(Bal(name, mosquitto.port, mqtt.MQTTv5).connect())
        return clients[-1]

    yield join
    for client in clients:
        client.close()


def test_on_an_external_broker_who_is_not_named_pushes_to_nobody_and_the_log_says_how_it_could(sim, external, join):
    bridge = external(routes='"com.example.second" = "client2"', extra="[bals.client1]").start()
    sim.set_device("phone", topics=["everybody"])
    shop = join("shop")
    for message in MESSAGES:
        shop.publish(message)
    for message in MESSAGES:
        status = shop.wait_words(message["id"], ["failed"])
        assert status["code"] == "FORBIDDEN"
    assert [error["code"] for error in shop.wait_on("errors", len(MESSAGES))] == ["FORBIDDEN"] * len(MESSAGES)
    warnings = [line for line in bridge.logs().splitlines() if WARNING in line]
    assert len(warnings) == 1 and 'name="shop"' in warnings[0] and "[bals.shop]" in warnings[0], warnings
    for name in ["client1", "client2"]:
        bal = join(name)
        bal.push(f"of-{name}", "phone")
        bal.wait_words(f"of-{name}", ["accepted", "sent", "delivered"])
    assert mine(sim.got("phone")) == ["of-client1", "of-client2"]
    assert OPEN not in bridge.logs()

    # What the warning says helps.
    assert bridge.stop() == 0
    bridge.extra = "[bals.client1]\n[bals.shop]"
    bridge.configure('"com.example.second" = "client2"')
    bridge.start()
    shop.push("now", "phone")
    shop.wait_words("now", ["accepted", "sent", "delivered"])


def test_on_an_external_broker_where_nobody_is_named_everybody_pushes_and_each_start_warns(external, join):
    bridge = external(routes="")
    for start in [1, 2]:
        bridge.start()
        shop = join(f"shop{start}")
        shop.push("a1", "phone")
        shop.wait_words("a1", ["accepted", "sent", "delivered"])
        assert bridge.logs().count(OPEN) == start
        assert bridge.stop() == 0
    assert WARNING not in bridge.logs()


def test_anonymous_clients_on_loopback_push_under_any_name(bridge):
    shop = Bal("shop", bridge.port).connect()
    shop.push("a1", "phone")
    shop.wait_words("a1", ["accepted", "sent", "delivered"])
    shop.close()
    assert OPEN not in bridge.logs(), "it is not an external broker"
