"""A chat client, and a scene: alice writes on two devices to bob, whose phone sleeps.

    python3 chat.py HOST PORT ALICES_PASSWORD_FILE BOBS_PASSWORD_FILE [TOKEN_OF_BOBS_PHONE]

Needs paho-mqtt 2 and chat users `alice` and `bob`. Copy `ChatClient`; the topics and documents are in topics.md, "Chat".
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from pathlib import Path

try:
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion
except ImportError:
    sys.exit("paho-mqtt 2 is missing: pip install paho-mqtt")

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# Reason codes of MQTT 5. After these it would be in vain to try again.
WRONG_LOGIN, TAKEN_OVER = (0x86, 0x87), 0x8E
printing = threading.Lock()
last_id = 0


def new_id() -> str:
    """42 bits of Unix milliseconds and 38 bits that are random, then counted up within a millisecond."""
    global last_id
    fresh = time.time_ns() // 1_000_000 << 38 | secrets.randbits(38)
    last_id = fresh if fresh >> 38 > last_id >> 38 else last_id + 1
    return "".join(ALPHABET[last_id >> 5 * place & 31] for place in reversed(range(16)))


def tell(text: str):
    """A whole line, whichever thread says it."""
    with printing:
        print(text, flush=True)


class ChatClient:
    """One device of a user. Its session is clean: what it missed it asks for, and what it knows it drops by the `sid`."""

    def __init__(self, host: str, port: int, user: str, dev: str, password: str, messages: dict[str, dict] | None = None):
        self.user, self.dev = user, dev
        # An app keeps these on its disk.
        self.messages = messages or {}  # by sid
        self.ticks: dict[str, str] = {}  # of own messages, by id
        self.replies: dict[str, dict] = {}  # by the id of the request
        self.token_is_registered = False
        self.fault: str | None = None  # why nothing more will come
        self.changed = threading.Condition()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, f"{user}:{dev}", protocol=mqtt.MQTTv5)
        self.client.username_pw_set(user, password)
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = self.on_message
        try:
            self.client.connect(host, port)
        except OSError as fault:
            raise SystemExit(f"no broker at {host}:{port}: {fault}") from None
        self.client.loop_start()

    def on_connect(self, client, _userdata, _flags, reason, _properties):
        if reason.is_failure:
            self.say(f"is refused: {reason}")
            if reason.value in WRONG_LOGIN:
                self.gives_up(f"the broker does not let {self.user} in, the password is wrong: {reason}")
            return
        self.say(f"is connected: {reason}")
        # The embedded broker does this by itself; elsewhere it is needed.
        client.subscribe([(f"{self.user}/others/+", 1), (f"{self.user}/others/replies/{self.dev}", 1)])
        self.sync()

    def on_disconnect(self, _client, _userdata, _flags, reason, _properties):
        if reason.value == TAKEN_OVER:
            self.gives_up("another client has connected as this device; they would throw each other out for ever")
        elif reason.is_failure:
            self.say(f"has lost its connection, and tries again: {reason}")

    def gives_up(self, fault: str):
        """Does not connect again."""
        self.client.disconnect()
        with self.changed:
            self.fault = fault
            self.changed.notify_all()

    def say(self, text: str):
        tell(f"{self.user}:{self.dev:6} {text}")

    def publish(self, suffix: str, document: dict, qos=1, retain=False) -> dict:
        self.client.publish(f"{self.user}/self/{suffix}", json.dumps(document), qos, retain)
        return document

    def request(self, op: str, **fields) -> str:
        return self.publish(f"requests/{self.dev}", {"id": new_id(), "op": op, **fields})["id"]

    def sync(self):
        """What has happened since the last item that this device has."""
        self.request("sync", **({"since": max(self.messages)} if self.messages else {}))

    def send(self, to: str, body: str) -> str:
        """Yields the id. Keep the message until its copy comes back: published again with this id it is no second one."""
        message = self.publish("messages", {"id": new_id(), "to": to, "type": "text", "body": body, "dev": self.dev})
        self.ticks.setdefault(message["id"], "waiting")
        return message["id"]

    def typing(self, to: str):
        """Again every five to ten seconds, while there is typing."""
        self.publish("chatstate", {"to": to, "state": "composing"}, qos=0)

    def read(self, peer: str, sid: str):
        """All of the conversation up to here."""
        self.publish("read", {"with": peer, "sid": sid, "dev": self.dev})

    def looks(self, active: bool):
        """Whether somebody looks at this device: in the background phones are pushed."""
        self.publish(f"presence/{self.dev}", {"state": "online", "active": active}, retain=True)

    def register(self, token: str):
        """The token that the app got from the push service."""
        self.publish(f"devices/{self.dev}", {"token": token, "platform": "android", "format": "full"})

    def on_message(self, _client, _userdata, packet):
        suffix, document = packet.topic.split("/", 2)[2], json.loads(packet.payload)
        self.say(f"< {suffix:16} {packet.payload.decode()}")
        with self.changed:
            if suffix == "messages":
                self.take(document)
            elif suffix == "receipts":
                self.ticks[document.get("id", "")] = document["status"]
            elif suffix == "errors":
                # An app tells whoever wrote it; a scene ends.
                self.fault = f"{document['code']}: {document['detail']}"
            elif suffix == "devices" and document["dev"] == self.dev:
                self.token_is_registered = document["event"] in ("registered", "replaced", "moved")
            elif suffix == f"replies/{self.dev}":
                self.replies[document["ref"]] = document
                news = [item for item in document.get("items", []) if self.take(item)]
                # What comes live is confirmed by its acknowledgement, this by a word for each conversation.
                newest = {item["from"]: item["sid"] for item in news if "n" in item and item["from"] != self.user}
                for sid in newest.values():
                    self.publish("receipts", {"sid": sid, "status": "received", "up_to": True, "dev": self.dev})
                if document.get("next") and not document.get("complete"):
                    self.request("sync", since=document["next"])
            self.changed.notify_all()

    def take(self, item: dict) -> bool:
        """A message or an invitation, live or asked for. Whether it is new."""
        is_new = "sid" in item and item["sid"] not in self.messages
        if is_new:
            self.messages[item["sid"]] = item
            self.amend(self.messages.get(item.get("ref"), {}), item)
        return is_new

    def amend(self, message: dict, item: dict):
        """An edit changes the content that it names; of what is retracted nothing is left but its place."""
        content = ("body", "data", "files", "mentions")
        if item.get("type") == "edit":
            message.update({name: item[name] for name in content if name in item}, edited=item["ts"])
        elif item.get("type") == "retract":
            for name in content:
                message.pop(name, None)
            message.update(type="tombstone", why="retracted")

    def wait(self, condition, what: str):
        with self.changed:
            self.changed.wait_for(lambda: self.fault or condition(), 30)
            if self.fault or not condition():
                raise SystemExit(f"{self.user}:{self.dev} waited for {what} in vain: {self.fault or 'nothing came in 30 s'}")

    def find(self, **fields) -> dict | None:
        return next((one for one in self.messages.values() if fields.items() <= one.items()), None)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


# What a writer is told of a message that was taken, in this order.
TOLD = ["sent", "delivered", "read"]


def scene(host: str, port: int, passwords: dict[str, str], token: str | None):
    def device(user: str, dev: str) -> ChatClient:
        return ChatClient(host, port, user, dev, passwords[user])

    # bob's phone writes once, so that alice hears of ticks; it registers its token, and falls asleep.
    phone = device("bob", "phone")
    hello = phone.send("alice", "Are you there?")
    phone.wait(lambda: phone.ticks[hello] != "waiting", "the tick `sent`")
    if token:
        phone.register(token)
        phone.wait(lambda: phone.token_is_registered, "the registration")
    phone.wait(lambda: phone.find(id=hello), "its own message")
    phone.close()

    # alice writes on one device; the other one has the copy, and both have the ticks.
    writer, laptop = device("alice", "phone"), device("alice", "laptop")
    laptop.wait(lambda: laptop.replies, "what it missed")
    message = writer.send("bob", "I am here")
    for one in (writer, laptop):
        one.wait(lambda one=one: one.find(id=message) and one.ticks.get(message) in TOLD, "the copy, and `sent`")

    # bob wakes up, on the same phone: it asks for what it missed.
    phone = ChatClient(host, port, "bob", "phone", passwords["bob"], phone.messages)
    phone.wait(lambda: phone.find(id=message), "the message of alice")
    phone.looks(True)
    writer.typing("bob")
    sid = phone.find(id=message)["sid"]
    phone.publish("receipts", {"sid": sid, "status": "received", "dev": "phone"})
    writer.wait(lambda: writer.ticks[message] in TOLD[1:], "the tick `delivered`")
    phone.read("alice", sid)
    for one in (writer, laptop):
        one.wait(lambda one=one: one.ticks[message] == "read", "the tick `read`")
    tell(f"{len(phone.messages)} messages on bob's phone, each once")
    for one in (writer, laptop, phone):
        one.close()


def arguments(usage: str, least: int, most: int) -> list[str]:
    """What stands behind the program, HOST and PORT first. Whoever gives something else is told the usage."""
    words = sys.argv[1:]
    fits = least <= len(words) <= most and all(words) and words[1].isdecimal() and 0 < int(words[1]) < 65536
    if not fits:
        print(usage.strip(), file=sys.stderr)
        raise SystemExit(64)
    return words


def secret_in(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, ValueError) as fault:
        raise SystemExit(f"cannot read {file}: {fault}") from None


if __name__ == "__main__":
    host, port, alices, bobs, *token = arguments(__doc__, 4, 5)
    scene(host, int(port), {"alice": secret_in(alices), "bob": secret_in(bobs)}, token[0] if token else None)
