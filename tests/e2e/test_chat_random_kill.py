"""Random conversations while the bridge is killed again and again: nothing is lost, nothing comes twice without a mark, both
sides count the same, and the phone that sleeps is pushed for what nobody was looking at."""

import json
import random
import threading
from collections import Counter

import pytest
from chat_clients import holds
from harness import eventually

# Four at each landing; the rest with the campaigns.
SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(4, 24))]
STEPS = 40
KILLS = 3
TOKEN = "bobs-token"


@pytest.fixture
def pair(chat):
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", TOKEN)
    return chat


class Killer(threading.Thread):
    """Kills the bridge while the others go on, and starts it again."""

    def __init__(self, chat, dice: random.Random):
        super().__init__()
        self.chat, self.stopped, self.fault = chat, threading.Event(), None
        self.pauses = [dice.uniform(0.05, 0.8) for _ in range(KILLS)]

    def run(self):
        try:
            for pause in self.pauses:
                self.stopped.wait(pause)
                self.chat.restart()
        except BaseException as fault:  # noqa: BLE001: told in the test's own thread
            self.fault = fault


def copies(device, **fields) -> list[bool]:
    """For each copy of a message at a device, whether it says itself that it may be known."""
    topic = f"{device.user}/others/messages"
    pairs = [(packet, json.loads(packet.payload)) for packet in device.packets if packet.topic == topic]
    return [packet.dup or bool(document.get("redelivered")) for packet, document in pairs if holds(document, fields)]


@pytest.mark.behaviour(38)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_talk_survives_kills(pair, seed):
    dice = random.Random(seed)
    phone, laptop = pair.device("alice", "phone", kept=True), pair.device("alice", "laptop", kept=True)
    web = pair.device("bob", "web", kept=True)
    pair.mark(phone, laptop, web)
    killer = Killer(pair, dice)
    sent, packets = [], []

    def write(device, to):
        message = f"m{len(sent)}-{device.dev}"
        push = dice.choice(["auto", "auto", "always", "never"])
        document = {"id": message, "to": to, "body": message, "push": push}
        packets.append((device, device.begin(f"{device.user}/self/messages", document)))
        sent.append((device, to, message, push))

    def read(device, of):
        theirs = device.on("messages", **{"from": of})
        if theirs:
            document = {"with": of, "sid": dice.choice(theirs)["sid"]}
            packets.append((device, device.begin(f"{device.user}/self/read", document)))

    def look(device):
        document = {"state": "online", "conn": device.conn, "active": dice.random() < 0.5}
        packets.append((device, device.begin(f"{device.user}/self/presence/{device.dev}", document, retain=True)))

    steps = {
        "alice writes": (4, lambda: write(dice.choice([phone, laptop]), "bob")),
        "bob writes": (2, lambda: write(web, "alice")),
        "bob reads": (2, lambda: read(web, "alice")),
        "alice reads": (1, lambda: read(dice.choice([phone, laptop]), "bob")),
        "bob looks": (1, lambda: look(web)),
    }
    killer.start()
    for _ in range(STEPS):
        name = dice.choices(list(steps), [weight for weight, _ in steps.values()])[0]
        steps[name][1]()
        killer.stopped.wait(dice.uniform(0, 0.08))
    killer.join()
    assert killer.fault is None, killer.fault
    for device, packet in packets:
        assert device.end(packet) == "taken"
    web.look_away()
    pair.mark(phone, laptop, web)

    for device, to, message, _ in sent:
        for reader in [phone, laptop, web]:
            marked = copies(reader, id=message, body=message)
            assert marked and marked.count(False) <= 1, (reader.dev, message, marked)
        sid = device.stamped(message)["sid"]
        device.wait(lambda d=device, s=sid: is_delivered(d, s), f"{message} is delivered")
        statuses = Counter(device.statuses(message))
        told = [(p.dup, json.loads(p.payload)) for p in device.packets if p.topic.endswith("/others/receipts")]
        for status in statuses:
            own = [(dup, d) for dup, d in told if holds(d, {"id": message, "status": status})]
            unmarked = [d for dup, d in own if not (dup or d.get("redelivered"))]
            assert len(unmarked) <= 1, (message, status, unmarked)

    for reader in [laptop, web]:
        other = "bob" if reader is laptop else "alice"
        places = {m["sid"]: m["n"] for m in reader.on("messages") if other in (m["from"], m["to"])}
        counted = [places[sid] for sid in sorted(places)]
        assert counted == list(range(counted[0], counted[0] + len(counted))), "no hole"
        assert len(counted) >= len(sent)

    pushes = lambda: Counter(push["sid"] for push in pair.pushes(TOKEN, type="message"))  # noqa: E731
    sids = {message: laptop.wait_for("messages", id=message)["sid"] for _, _, message, _ in sent}
    for _, to, message, push in sent:
        if to == "bob" and push == "always":
            eventually(lambda s=sids[message]: pushes()[s] >= 1 or taken_back(pair, s), f"{message} is pushed")
        if to != "bob" or push == "never":
            assert pushes()[sids[message]] == 0, message
    # Where a kill comes between the push service's taking of it and the answer, nobody can know that it arrived.
    assert all(count <= 1 + KILLS for count in pushes().values()), pushes()
    assert sum(count - 1 for count in pushes().values()) <= KILLS * 3


def is_delivered(device, sid: str) -> bool:
    """Whether its writer was told so, by its own receipt or by one of all up to a later message."""
    told = [receipt for receipt in device.on("receipts") if receipt["status"] in ("delivered", "read")]
    return any(receipt["sid"] == sid or receipt.get("up_to") and receipt["sid"] >= sid for receipt in told)


def taken_back(chat, sid: str) -> bool:
    """Whether its push was not needed any more: the message was confirmed by somebody who looked, or read."""
    with chat.visit("bob", "asks") as bob:
        explained = bob.ask_until(lambda _: True, "", "explain", sid=sid)
    return all(item.get("push", {}).get("state") == "cancelled" for item in explained["items"] if item["dev"] == "phone")
