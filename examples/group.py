"""A scene of groups and calls: alice on two devices, bob, carol who keeps nothing, and a choir of fifty where everybody sleeps.

    python3 group.py HOST PORT SECRET_FILE [URL_OF_THE_SIMULATOR]

SECRET_FILE is the `broker.jwt_secret_file` of the bridge: the users are new ones of this run, and log in by tokens that are made here,
as an application's own server makes them. `fcm-mqtt-bridge demo` prints this line with everything filled in. With the
address of the simulator's control port it also looks at what the phones got. Needs paho-mqtt 2 and chat.py beside it; the topics
and documents are in topics.md, "Chat".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

from chat import ChatClient, arguments, new_id, secret_in, tell

# Names of this run.
RUN = secrets.token_hex(3)
ALICE, BOB, CAROL = (f"{name}-{RUN}" for name in ("alice", "bob", "carol"))
CHOIR = [f"singer{number}-{RUN}" for number in range(1, 50)]


def token(user: str, secret: str) -> str:
    """A JSON Web Token by which a user may log in for an hour. PyJWT and others do the same in a line."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    claims = {"sub": user, "role": "user", "exp": int(time.time()) + 3600}
    signed = ".".join(part(json.dumps(one).encode()) for one in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


class Device(ChatClient):
    """Knows besides: who has read what in a group, where calls stand, and how often each message came live."""

    def __init__(self, bridge: Bridge, user: str, dev: str):
        self.readers: dict[str, set[str]] = defaultdict(set)  # of own messages, by sid
        self.rings: dict[str, str] = {}  # what was said last of each call
        self.came: Counter[str] = Counter()  # by sid, without what says itself that it may have come before
        super().__init__(bridge.host, bridge.port, user, dev, token(user, bridge.secret))
        self.wait(lambda: self.replies, "what it missed")

    def say(self, text: str):
        """The scene says what is to be seen."""

    def on_message(self, client, userdata, packet):
        super().on_message(client, userdata, packet)
        suffix, document = packet.topic.split("/", 2)[2], json.loads(packet.payload)
        with self.changed:
            if suffix == "messages":
                self.came[document["sid"]] += not (packet.dup or document.get("redelivered"))
            elif suffix == "receipts" and document["status"] == "read" and "by" in document:
                self.readers[document["sid"]].add(document["by"])
            elif suffix == "calls" and document["type"] in ("offer", "taken", "end", "reject"):
                self.rings[document["call"]] = document["type"]
            self.changed.notify_all()

    def ask(self, op: str, **fields) -> dict:
        """A request, and its answer."""
        request = self.request(op, **fields)
        self.wait(lambda: request in self.replies, f"the answer to {op}")
        answer = self.replies[request]
        if not answer["ok"]:
            raise SystemExit(f"{self.user}:{self.dev} was refused {op}: {answer}")
        return answer

    def writes(self, to: str, body: str, **fields) -> str:
        """Sends, and waits for the stamped copy. Yields the sid."""
        message = {"id": new_id(), "to": to, "body": body, "dev": self.dev, **fields}
        self.publish("messages", message)
        self.wait(lambda: self.find(id=message["id"]), "its own message")
        return self.find(id=message["id"])["sid"]

    def signals(self, to: str, call: str, kind: str, **fields):
        """One document of a call. What two clients say to each other to set it up goes into `data`."""
        self.publish("calls", {"id": new_id(), "call": call, "to": to, "type": kind, "dev": self.dev, **fields})

    def unread(self) -> dict[str, int]:
        return {item["with"]: item["unread"] for item in self.ask("conversations")["items"]}

    def has(self, sid: str):
        self.wait(lambda: sid in self.messages, f"the message {sid}")


class Bridge:
    """Where it is, and the phones at the simulator, if there is one."""

    def __init__(self, host: str, port: int, secret: str, simulator: str | None):
        self.host, self.port, self.secret, self.simulator = host, port, secret, simulator
        try:
            if simulator:
                urllib.request.urlopen(f"{simulator}/healthz").close()
        except (OSError, ValueError) as fault:
            raise SystemExit(f"no simulator at {simulator}: {fault}") from None

    def device(self, user: str, dev: str) -> Device:
        return Device(self, user, dev)

    def sleeper(self, user: str, writes_to: str):
        """A phone that says hello to somebody, so that it may be put into a group, registers, and falls asleep."""
        phone = self.device(user, "phone")
        phone.writes(writes_to, "hello")
        phone.register(f"phone-of-{user}")
        phone.wait(lambda: phone.token_is_registered, "the registration")
        phone.close()

    def pushed(self, user: str, sid: str) -> int | None:
        """How often the phone was pushed for a message; the first time may be a moment ahead."""
        if self.simulator is None:
            return None
        path = urllib.parse.quote(f"phone-of-{user}", safe="")
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{self.simulator}/devices/{path}") as answer:
                    got = [one["data"] for one in json.load(answer)["messages"]]
            except urllib.error.HTTPError:
                got = []  # a phone of which it has not heard yet
            count = [push.get("sid") for push in got if push.get("type") == "message"].count(sid)
            if count:
                return count
            time.sleep(0.1)
        return 0


def check(holds: bool, what: str):
    if not holds:
        raise SystemExit(f"not so: {what}")


def agree(expected: dict[str, int], *devices: Device):
    """What is unread, by conversation: the same in the list of each device."""
    shown = None
    for device in devices:
        for _ in range(60):
            shown = device.unread()
            if shown == expected:
                break
            # Ten requests a second are answered.
            time.sleep(0.2)
        check(shown == expected, f"{device.user}:{device.dev} has {expected} unread, and not {shown}")
    tell(f"  unread on {', '.join(f'{device.user}:{device.dev}' for device in devices)}: {expected}")


def three(bridge: Bridge, alices: list[Device], bob: Device) -> str:
    """A group of three, of whom carol sleeps, and then wakes without any memory."""
    phone, laptop = alices
    tell(f"\n{ALICE} makes a group with {BOB} and {CAROL}, whose phone sleeps.")
    bob.writes(ALICE, "hello")
    bridge.sleeper(CAROL, writes_to=ALICE)
    agree({BOB: 1, CAROL: 1}, *alices)
    group = phone.ask("group.create", members=[BOB, CAROL], name="Team")["group"]
    first = bob.writes(group, "first")
    for device in alices:
        device.has(first)
    agree({BOB: 1, CAROL: 1, group: 1}, *alices)
    agree({ALICE: 0, group: 0}, bob)
    second = laptop.writes(group, "second, for you", mentions=[CAROL])
    for device in (phone, bob):
        device.has(second)
    tell("Whoever writes has read: the other device of alice knows.")
    agree({BOB: 1, CAROL: 1, group: 0}, *alices)
    agree({ALICE: 0, group: 1}, bob)
    for sid in (first, second):
        check(bridge.pushed(CAROL, sid) in (1, None), f"{CAROL} was pushed once for {sid}")

    tell(f"{CAROL} has forgotten everything, and rebuilds it: `conversations` is the first screen, `sync` what was written.")
    carol = bridge.device(CAROL, "phone")
    [screen] = [item for item in carol.ask("conversations")["items"] if item["with"] == group]
    said = [item.get("body", item.get("event")) for item in carol.messages.values() if item.get("group") == group]
    tell(f"  {screen['name']}: {screen['unread']} unread, {screen['mentions']} of them for her: {said}")
    check(said == ["created", "first", "second, for you"], "carol has all of the group")
    check((screen["unread"], screen["mentions"], screen["last"]["sid"]) == (2, 1, second), f"her list: {screen}")
    carol.read(group, second)
    bob.read(group, second)
    for device in alices:
        # bob has alice as a contact, and so has carol: both tell that they have read.
        device.wait(lambda d=device: d.readers[second] == {BOB, CAROL}, "who has read it")
    tell(f"  read by {' and '.join(sorted(laptop.readers[second]))}, as both devices of alice were told")
    agree({ALICE: 0, group: 0}, carol)
    agree({ALICE: 0, group: 0}, bob)
    carol.close()
    return group


def calls(bridge: Bridge, alices: list[Device], bob: Device, group: str):
    """One is answered on one device and stops on the other, one is missed."""
    caller, tablet = alices[0], bridge.device(BOB, "tablet")
    call = new_id()
    tell(f"\n{ALICE} calls {BOB}, who has two devices.")
    caller.signals(BOB, call, "offer", ttl=30)
    for device in (bob, tablet):
        device.wait(lambda d=device: d.rings.get(call) == "offer", "the call")
    tell("  both ring")
    bob.signals(ALICE, call, "answer")
    tablet.wait(lambda: tablet.rings[call] == "taken", "that it was answered elsewhere")
    tell("  one answers, the other one stops")
    caller.signals(BOB, call, "end")
    missed = new_id()
    for device in (*alices, bob, tablet):
        device.wait(lambda d=device: d.find(call=call, outcome="answered"), "how the call ended")
    caller.signals(BOB, missed, "offer", ttl=1)
    for device in (*alices, bob, tablet):
        device.wait(lambda d=device: d.find(call=missed, outcome="missed"), "that nobody answered")
        check(device.rings[missed] == "end", "it rings no longer")
    tell("A second one is missed: it is in the list.")
    agree({ALICE: 1, group: 0}, bob, tablet)
    tablet.read(ALICE, tablet.find(call=missed, outcome="missed")["sid"])
    agree({ALICE: 0, group: 0}, bob, tablet)
    tablet.close()


def choir(bridge: Bridge, alices: list[Device]):
    """Fifty in a group, and nobody but its owner is there: one message, 49 pushes."""
    tell(f"\n{ALICE} makes a choir of 50. All the others sleep.")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda singer: bridge.sleeper(singer, writes_to=ALICE), CHOIR))
    group = alices[0].ask("group.create", members=CHOIR, name="Choir")["group"]
    sid = alices[0].writes(group, "rehearsal at eight")
    alices[1].has(sid)
    pushed = [bridge.pushed(singer, sid) for singer in CHOIR]
    check(set(pushed) in ({1}, {None}), f"each phone was pushed once: {pushed}")

    def wakes(singer: str):
        phone = bridge.device(singer, "phone")
        check(sid in phone.messages and phone.unread()[group] == 1, f"{singer} has it when the phone wakes")
        [why] = [item for item in phone.ask("explain", sid=sid)["items"] if item["dev"] == "phone"]
        check((why["verdict"], why["rule"]) == ("push", 4), f"{singer} was pushed because nobody looked: {why}")
        phone.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(wakes, CHOIR))
    tell(f"  {len(CHOIR)} phones were pushed once each, and have it when they wake")


def scene(bridge: Bridge):
    alices, bob = [bridge.device(ALICE, "phone"), bridge.device(ALICE, "laptop")], bridge.device(BOB, "web")
    group = three(bridge, alices, bob)
    calls(bridge, alices, bob, group)
    choir(bridge, alices)
    for device in (*alices, bob):
        twice = [sid for sid, count in device.came.items() if count > 1]
        check(not twice, f"{device.user}:{device.dev} got something twice: {twice}")
        tell(f"{device.user}:{device.dev} got {len(device.came)} messages, each once")
        device.close()
    check(alices[0].came.keys() == alices[1].came.keys(), "both devices of alice got the same")


if __name__ == "__main__":
    host, port, secret_file, *simulator = arguments(__doc__, 3, 4)
    scene(Bridge(host, int(port), secret_in(secret_file), simulator[0] if simulator else None))
