"""The devices of chat users, on paho and on mqtt.js, and what arrives at them. Both speak to a test in the same words."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt
from harness import PATIENCE, RECONNECT, break_off
from test_access import MqttJs

if TYPE_CHECKING:
    from chat import Chat

# The brokers that a chat is over.
EMBEDDED, MOSQUITTO = "embedded", "mosquitto"
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id() -> str:
    """As in examples/chat.py, but for the counting: two of one millisecond differ by chance."""
    number = time.time_ns() // 1_000_000 << 38 | random.getrandbits(38)
    return "".join(CROCKFORD[number >> 5 * place & 31] for place in reversed(range(16)))


def is_sid(value) -> bool:
    return isinstance(value, str) and len(value) == 16 and set(value) <= set(CROCKFORD)


def hash_of(registration: str) -> str:
    return hashlib.sha256(registration.encode()).hexdigest()[:8]


def holds(document, fields: dict) -> bool:
    """Whether a document has these values."""
    return isinstance(document, dict) and all(name in document and document[name] == value for name, value in fields.items())


class Inbox:
    """What arrived at a device, and what it says. Both client libraries give the same words."""

    chat: Chat
    user: str
    dev: str
    # The push handler of a phone: it only publishes.
    background = False

    @property
    def arrived(self) -> threading.Condition:
        raise NotImplementedError

    def documents(self) -> list[tuple[str, object]]:
        """All that arrived, in order: topic and document."""
        raise NotImplementedError

    def publish_to(self, topic: str, document, retain=False, qos=1) -> str:
        """Publishes, and waits until the broker says `taken` or `denied`."""
        raise NotImplementedError

    def wait(self, condition, what: str, patience: float = PATIENCE):
        with self.arrived:
            if not self.arrived.wait_for(condition, patience):
                last = self.documents()[-6:]
                raise AssertionError(f"{self.user}:{self.dev}: not within {patience} s: {what}; last: {last}")

    def at(self, topic: str) -> list:
        return [document for name, document in self.documents() if name == topic]

    def on(self, suffix: str, **fields) -> list[dict]:
        """The documents of one topic of the inbox, of those that have these values."""
        return [body for body in self.at(f"{self.user}/others/{suffix}") if holds(body, fields)]

    def wait_for(self, suffix: str, patience: float = PATIENCE, **fields) -> dict:
        """Waits for a document of the inbox with these values."""
        self.wait(lambda: self.on(suffix, **fields), f"{fields} on others/{suffix}", patience)
        return self.on(suffix, **fields)[0]

    def wait_at(self, topic: str, patience: float = PATIENCE, **fields) -> dict:
        """Waits until the last document of a topic, whoever's it is, has these values."""
        self.wait(lambda: holds((self.at(topic) or [None])[-1], fields), f"{fields} at {topic}", patience)
        return self.at(topic)[-1]

    def publish(self, suffix: str, document, retain=False, qos=1) -> str:
        """Publishes into the outbox. On a broker of others the device names itself."""
        names_itself = suffix in ("messages", "receipts", "read", "invitations", "calls") and self.is_user()
        if self.chat.kind == MOSQUITTO and names_itself and isinstance(document, dict):
            document = {"dev": self.dev, **document}
        return self.publish_to(f"{self.user}/self/{suffix}", document, retain, qos)

    def send(self, to: str, body: str | None = "hi", **fields) -> str:
        """A message. Yields its id."""
        fields = {"id": new_id(), "to": to, **({"body": body} if body is not None else {}), **fields}
        assert self.publish("messages", fields) == "taken"
        return fields["id"]

    def stamped(self, message: str) -> dict:
        """The copy of an own message that the bridge has stamped."""
        return self.wait_for("messages", id=message)

    def sent(self, to: str, body: str | None = "hi", **fields) -> str:
        """A message whose stamped copy came. Yields its sid."""
        return self.stamped(self.send(to, body, **fields))["sid"]

    def got(self, body: str) -> dict:
        """Waits for the message of somebody else with this text."""
        return self.wait_for("messages", body=body)

    def bodies(self, sender: str | None = None) -> list[str]:
        """The texts of the messages of others, in order."""
        return [m.get("body") for m in self.on("messages") if m["from"] == sender or not sender and m["from"] != self.user]

    def statuses(self, message: str) -> list[str]:
        """What was told of an own message: one that is known by its id or by its sid."""
        told = self.on("receipts")
        return [status["status"] for status in told if message in (status.get("id"), status.get("sid"))]

    def wait_statuses(self, message: str, words: list[str], patience: float = PATIENCE):
        self.wait(lambda: len(self.statuses(message)) >= len(words), f"{words} of {message}", patience)
        assert self.statuses(message) == words

    def confirm(self, sid: str, status="received", **more):
        assert self.publish("receipts", {"sid": sid, "status": status, **more}) == "taken"

    def read(self, peer: str, sid: str):
        assert self.publish("read", {"with": peer, "sid": sid}) == "taken"

    def error(self, code: str, **fields) -> dict:
        return self.wait_for("errors", code=code, **fields)

    def ask(self, op: str, **fields) -> dict:
        """A request, and its answer."""
        request = new_id()
        assert self.publish(f"requests/{self.dev}", {"id": request, "op": op, **fields}) == "taken"
        return self.wait_for(f"replies/{self.dev}", ref=request)

    def told(self, op: str, **fields) -> dict:
        """A request that is executed."""
        answer = self.ask(op, **fields)
        assert answer["ok"] is True, answer
        return answer

    def ask_until(self, condition, what: str, op: str, **fields) -> dict:
        """Asks again, no more often than a user may, until the answer is as it should be."""
        deadline = time.monotonic() + PATIENCE
        while not condition(answer := self.told(op, **fields)):
            assert time.monotonic() < deadline, f"{what}: {answer}"
            threading.Event().wait(0.25)
        return answer

    def say_presence(self, conn="here", **fields):
        """What this device says of itself. It holds when this returns."""
        assert self.publish(f"presence/{self.dev}", {"state": "online", "conn": conn, **fields}, retain=True) == "taken"
        if self.chat.kind == MOSQUITTO:
            self.told("settings")

    def look(self):
        """Somebody looks at this device."""
        self.say_presence(self.conn, active=True)

    def look_away(self):
        self.say_presence(self.conn, active=False)

    def register(self, registration: str, dev: str | None = None, **fields) -> dict:
        """Registers a token of the push service. Yields the event."""
        dev = dev or self.dev
        self.chat.sim.set_device(registration, receipts=False)
        document = {"token": registration, "platform": "android", **fields}
        before = len(self.on("devices", dev=dev))
        assert self.publish(f"devices/{dev}", document) == "taken"
        self.wait(lambda: len(self.on("devices", dev=dev)) > before, f"the event of the registration of {dev}")
        return self.on("devices", dev=dev)[before]

    def unregister(self, dev: str | None = None):
        assert self.publish(f"devices/{dev or self.dev}", b"") == "taken"
        self.wait_for("devices", dev=dev or self.dev, event="unregistered")

    def watch(self, *filters: str):
        """Subscribes to topics of others."""
        for topic_filter in filters:
            assert self.subscribe(topic_filter), topic_filter
        return self

    def is_user(self) -> bool:
        return self.chat.roles[self.user] == "user"

    def own_filters(self) -> list[str]:
        """What a device subscribes to where the broker does not do it."""
        if not self.is_user():
            return [f"{self.user}/others/+"]
        if self.chat.kind == EMBEDDED or self.background:
            return []
        return [f"{self.user}/others/+", f"{self.user}/others/replies/{self.dev}"]


class Device(Inbox):
    """A device on paho. `kept`: the broker keeps its session. `silent`: it confirms nothing of what it gets."""

    def __init__(self, chat: Chat, user: str, dev: str, kept=False, silent=False, port=None, version=mqtt.MQTTv5, background=False):
        self.chat, self.user, self.dev, self.background = chat, user, dev, background
        self.kept, self.silent, self.version = kept, silent, version
        self.port = port or chat.port
        self.conn = new_id()
        self.changed = threading.Condition()
        self.came: list[tuple[str, object]] = []
        # The packets, as paho gives them.
        self.packets: list = []
        self.answers: dict[tuple, object] = {}
        self.state = None
        # Of 3.1.1 the end of a connection is the word for a refusal.
        self.comes_back = version == mqtt.MQTTv5
        self.connections = 0
        options = {} if version == mqtt.MQTTv5 else {"clean_session": not kept}
        client_id = user if dev == "default" else f"{user}:{dev}" + (":bg" if background else "")
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=version, manual_ack=silent, **options
        )
        self.client.username_pw_set(user, chat.secret(user))
        self.client.max_inflight_messages_set(1000)
        self.client.max_queued_messages_set(0)
        self.client.reconnect_delay_set(RECONNECT, RECONNECT)
        self.client.on_connect = self._connected
        self.client.on_disconnect = lambda _c, _u, _f, reason, _p: self._note(("state",), "closed")
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self._note(("sub", mid), codes)
        self.client.on_publish = lambda _c, _u, mid, reason, _p: self._note(("pub", mid), reason)
        self.client.on_message = self._message

    @property
    def arrived(self):
        return self.changed

    def documents(self):
        return list(self.came)

    def speaks_of_itself(self) -> bool:
        """On a broker of others a device says itself that it is there."""
        return self.chat.kind == MOSQUITTO and self.is_user() and not self.background

    def connect(self) -> Device:
        properties, options = None, {}
        if self.version == mqtt.MQTTv5:
            properties = mqtt.Properties(mqtt.PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if self.kept else 0
            options["clean_start"] = not self.kept
        if self.speaks_of_itself():
            will = json.dumps({"state": "offline", "conn": self.conn})
            self.client.will_set(f"{self.user}/self/presence/{self.dev}", will, 1, retain=True)
        self.client.connect("127.0.0.1", self.port, keepalive=60, properties=properties, **options)
        self.client.loop_start()
        self.wait(lambda: self.state is not None, "CONNACK")
        if self.connected() and self.speaks_of_itself():
            self.say_presence(self.conn)
        return self

    def connected(self) -> bool:
        return self.state not in (None, "closed") and not self.state.is_failure

    def _connected(self, client, _userdata, _flags, reason, _properties):
        self.connections += not reason.is_failure
        filters = self.own_filters()
        if reason.is_failure or not filters:
            return self._note(("state",), reason)
        mid = client.subscribe([(name, 1) for name in filters])[1]
        with self.changed:
            # Known as connected when the SUBACK is there.
            self.answers["waits", mid] = reason

    def _note(self, key: tuple, value):
        with self.changed:
            if key == ("state",):
                self.state = value
            else:
                self.answers[key] = value
                if key[0] == "sub" and ("waits", key[1]) in self.answers:
                    self.state = self.answers["waits", key[1]]
            self.changed.notify_all()

    def _message(self, client, _userdata, message):
        try:
            document = json.loads(message.payload)
        except ValueError:
            document = message.payload.decode(errors="replace")
        with self.changed:
            self.came.append((message.topic, document))
            self.packets.append(message)
            self.changed.notify_all()
        confirms = self.speaks_of_itself() and not self.silent and message.topic == f"{self.user}/others/messages"
        if confirms and isinstance(document, dict) and document.get("from") not in (None, self.user):
            # What came past the bridge has the id of its writer alone.
            which = {"sid": document["sid"]} if "sid" in document else {"id": document["id"], "with": document["from"]}
            receipt = {**which, "status": "received", "dev": self.dev}
            client.publish(f"{self.user}/self/receipts", json.dumps(receipt), 1)

    def acknowledge(self):
        """A silent device confirms all that it has got."""
        if self.chat.kind == MOSQUITTO:
            theirs = [m["sid"] for m in self.on("messages") if m["from"] != self.user]
            assert self.publish("receipts", {"sids": theirs, "status": "received"}) == "taken"
            return
        for packet in self.packets:
            self.client.ack(packet.mid, packet.qos)

    def begin(self, topic: str, document, retain=False, qos=1) -> int:
        """Publishes, and waits for nothing. Yields the number of the packet."""
        payload = document if isinstance(document, (str, bytes)) else json.dumps(document, ensure_ascii=False)
        return self.client.publish(topic, payload, qos, retain).mid

    def end(self, mid: int) -> str:
        # A device that comes back by itself sends it again.
        over = lambda: self.state == "closed" and not self.comes_back  # noqa: E731
        self.wait(lambda: ("pub", mid) in self.answers or over(), "the PUBACK")
        reason = self.answers.get(("pub", mid))
        return "denied" if reason is None or reason.is_failure else "taken"

    def publish_to(self, topic, document, retain=False, qos=1) -> str:
        return self.end(self.begin(topic, document, retain, qos))

    def subscribe(self, topic_filter: str) -> bool:
        _, mid = self.client.subscribe(topic_filter, 1)
        self.wait(lambda: ("sub", mid) in self.answers or self.state == "closed", f"the SUBACK of {topic_filter}")
        codes = self.answers.get(("sub", mid))
        return codes is not None and not any(code.is_failure for code in codes)

    def close(self):
        """A goodbye; where the device speaks of itself it takes its word back."""
        if self.connected() and self.speaks_of_itself():
            self.publish(f"presence/{self.dev}", {"state": "offline", "conn": self.conn}, retain=True)
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """The connection breaks without a word, and nobody connects again."""
        self.comes_back = False
        break_off(self.client)
        self.state = "closed"


class Page(Inbox):
    """A device on mqtt.js over WebSocket, as web pages are."""

    def __init__(self, chat: Chat, user: str, dev: str):
        self.chat, self.user, self.dev, self.conn = chat, user, dev, new_id()
        self.js = MqttJs("5", chat, user, chat.secret(user), f"{user}:{dev}")

    @property
    def arrived(self):
        return self.js.changed

    def documents(self):
        return [(topic, json.loads(body)) for topic, body in list(self.js.messages) if body]

    def connect(self) -> Page:
        assert self.js.connected(), self.js.lines
        self.watch(*self.own_filters())
        if self.chat.kind == MOSQUITTO:
            self.say_presence(self.conn)
        return self

    def publish_to(self, topic, document, retain=False, qos=1) -> str:
        payload = document if isinstance(document, str) else json.dumps(document)
        answers = lambda: [line for line in self.js.lines if line.get("published") == topic]  # noqa: E731
        before = len(answers())
        self.js.tell(publish=[topic, payload, retain])
        self.wait(lambda: len(answers()) > before or self.js.closed(), f"the answer for {topic}")
        return answers()[before]["answer"] if len(answers()) > before else "denied"

    def subscribe(self, topic_filter: str) -> bool:
        return self.js.subscribe(topic_filter)

    def close(self):
        self.js.close()
