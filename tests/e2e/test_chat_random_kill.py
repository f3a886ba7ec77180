"""Random conversations while the bridge is killed again and again: nothing is lost, nothing comes twice without a mark, both
sides count the same, and the phone that sleeps is pushed for what nobody was looking at."""

import random
from collections import Counter

import pytest
from chat_kills import KILLS, Killer, Talk, copies, firsts, rounds
from harness import eventually

STEPS = 40
TOKEN = "bobs-token"


@pytest.fixture
def pair(chat):
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", TOKEN)
    return chat


@pytest.mark.behaviour(38)
@pytest.mark.parametrize("seed", rounds(4, 24))
def test_random_talk_survives_kills(pair, seed):
    dice = random.Random(seed)
    phone, laptop = pair.device("alice", "phone", kept=True), pair.device("alice", "laptop", kept=True)
    web = pair.device("bob", "web", kept=True)
    pair.mark(phone, laptop, web)
    killer = Killer(pair, dice)
    sent, talk = [], Talk()

    def write(device, to):
        message = f"m{len(sent)}-{device.dev}"
        push = dice.choice(["auto", "auto", "always", "never"])
        document = {"id": message, "to": to, "body": message, "push": push}
        talk.begin(device, "messages", document)
        sent.append((device, to, message, push))

    def read(device, of):
        theirs = device.on("messages", **{"from": of})
        if theirs:
            document = {"with": of, "sid": dice.choice(theirs)["sid"]}
            talk.begin(device, "read", document)

    def look(device):
        document = {"state": "online", "conn": device.conn, "active": dice.random() < 0.5}
        talk.begin(device, f"presence/{device.dev}", document, retain=True)

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
    killer.end()
    talk.end()
    web.look_away()
    pair.mark(phone, laptop, web)

    for device, to, message, _ in sent:
        for reader in [phone, laptop, web]:
            marked = copies(reader, id=message, body=message)
            assert marked and marked.count(False) <= 1, (reader.dev, message, marked)
        sid = device.stamped(message)["sid"]
        device.wait(lambda d=device, s=sid: is_delivered(d, s), f"{message} is delivered")
        firsts(device, "receipts", "id", "status", id=message)

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
