"""A person is erased while the bridge is killed again and again: it goes on after each start, and in the end no file has anything
of her, while what the others say meanwhile is not lost."""

import json
import random
import threading
import time

import pytest
from chat_clients import EMBEDDED, Device
from chat_kills import BEGINNING, KILLS, Talk, all_pages, applied, firsts, rounds
from harness import eventually
from test_access import password
from test_control import found

TOKENS = {"phone": "eves-registration-token", "tablet": "eves-other-token"}
# The phone of somebody to whom nobody writes, by which one knows that what was to be pushed was pushed.
DAVES = "daves-token"
BEGUN = "a user is erased"
# Enough that it takes several transactions.
TEXTS = 120
LIMITS = "user_messages_burst = 1000\nuser_publishes_per_second = 1000\nuser_group_pushes_per_second = 10000"


class Circle:
    """eve with two phones, a device that is there and a kept session; alice and bob, of whose devices one is switched off."""

    def __init__(self, chat, dice: random.Random):
        self.chat, self.dice, self.talk = chat, dice, Talk()
        for one, other in [("alice", "eve"), ("bob", "eve"), ("alice", "bob")]:
            chat.befriend(one, other)
        for dev, token in TOKENS.items():
            chat.register("eve", dev, token)
        chat.register("dave", "phone", DAVES)
        for user in ["alice", "eve"]:
            chat.device(user, "laptop", kept=True).close()
        self.alice, self.bob = chat.device("alice", "phone", kept=True), chat.device("bob", "web", kept=True)
        self.eve = chat.device("eve", "web")
        self.group = self.alice.told("group.create", members=["bob", "eve"], name="Circle")["group"]
        self.written, self.secrets = [], []

    def fill(self):
        """Everything that there can be of eve."""
        eve = self.eve
        talk = Talk()
        talk.begin(eve, "profile", {"name": "Eve of the garden"}, retain=True)
        for number in range(TEXTS):
            text = f"eve wrote this as number {number:04} of all"
            to = self.dice.choice(["alice", "bob", self.group, "eve", "bal2"])
            talk.begin(eve, "messages", {"id": f"e{number}", "to": to, "body": text})
            self.secrets.append(text)
        later = {"id": "later", "to": "bob", "body": "eve writes this tomorrow"}
        talk.begin(eve, "messages", {**later, "not_before": int(time.time() * 1000) + 86_400_000})
        talk.begin(eve, "invitations", {"id": "i1", "to": "carol", "type": "request", "body": "eve invites carol"})
        talk.begin(eve, "calls", {"id": "o1", "call": "the-call-of-eve", "to": "alice", "type": "offer", "data": {"sdp": "eves sdp"}})
        talk.begin(self.alice, "messages", {"id": "named", "to": self.group, "body": "alice names her", "mentions": ["eve"]})
        talk.begin(self.alice, "messages", {"id": "to-eve", "to": "eve", "body": "alice wrote this to her"})
        talk.end()
        self.secrets += [later["body"], "eve invites carol", "eves sdp", "Eve of the garden", *TOKENS.values()]

    def say(self):
        """alice and bob go on; what is written to eve may be too late."""
        device = self.dice.choice([self.alice, self.bob])
        other = "bob" if device is self.alice else "alice"
        message = f"m{len(self.written)}"
        to = self.dice.choice([self.group, self.group, other, "eve"])
        self.written.append((device, message, to))
        self.talk.begin(device, "messages", {"id": message, "to": to, "body": f"the text of {message}"})


@pytest.mark.behaviour(57)
@pytest.mark.parametrize("seed", rounds(2))
def test_an_erase_survives_kills(make_chat, seed):
    dice = random.Random(seed)
    chat = make_chat(EMBEDDED, limits=LIMITS)
    circle = Circle(chat, dice)
    circle.fill()
    begin = {"id": "e", "op": "erase", "password": password("eve")}
    circle.eve.client.publish("eve/self/requests/web", json.dumps(begin), 1)
    eventually(lambda: BEGUN in chat.bridge.logs(), "it has begun")
    for _ in range(KILLS):
        for _ in range(4):
            circle.say()
        threading.Event().wait(dice.uniform(0, 0.12))
        chat.restart()
    circle.talk.end()
    secrets = ['"eve"', "eve/", "eve:", *circle.secrets]
    eventually(lambda: not found(chat, *secrets), f"nothing is found; {found(chat, *secrets)[:5]}")
    chat.mark(circle.alice, circle.bob)
    check_gone(circle)
    check_others(circle)
    chat.restart()
    assert not found(chat, *secrets)


def check_gone(circle: Circle):
    """She is nobody, and nothing is pushed to her phones any more."""
    chat = circle.chat
    assert not chat.keep(Device(chat, "eve", "phone")).connect().connected()
    circle.alice.error("NOT_FOUND", ref=circle.alice.send("eve", "are you there?"))
    chat.pushed(DAVES)
    before = [chat.pushes(token) for token in TOKENS.values()]
    circle.alice.sent(circle.group, "one more")
    chat.pushed(DAVES)
    assert [chat.pushes(token) for token in TOKENS.values()] == before


def check_others(circle: Circle):
    """What others wrote is there once, hers is a place without a text under one other name, and she left the group once."""
    aliases = set()
    laptop = circle.chat.device("alice", "laptop", kept=True)
    circle.chat.mark(laptop)
    assert not [body for body in laptop.bodies() if body in circle.secrets]
    for device in [circle.alice, circle.bob]:
        synced = all_pages(device, "sync", "since", since=BEGINNING)
        others = {item["from"] for item in synced} - {"alice", "bob", "bal1"}
        aliases |= others
        theirs = [item for item in synced if item["from"] in others and "n" in item]
        assert {item["type"] for item in theirs} <= {"tombstone", "notice", "call"}, theirs
        for peer in {circle.group, "bob" if device is circle.alice else "alice"}:
            items = all_pages(device, "history", "after", after=BEGINNING, **{"with": peer})
            assert [item["n"] for item in items] == list(range(items[0]["n"], items[0]["n"] + len(items))), "no hole"
            notices = [item for item in items if item["type"] == "notice"]
            assert [item["version"] for item in notices] == list(range(1, len(notices) + 1))
            assert [item["event"] for item in notices] in ([], ["created", "left"]), notices
        texts = [item["body"] for item in applied(synced).values() if "body" in item]
        for writer, message, to in circle.written:
            if to in (circle.group, "alice", "bob"):
                assert texts.count(f"the text of {message}") == 1, (device.user, message, to)
                assert firsts(writer, "receipts", "id", "status", id=message, status="sent")
            elif device is writer:
                assert set(writer.statuses(message)) & {"sent", "failed"}, (message, writer.statuses(message))
    assert len(aliases) == 1 and aliases.pop().startswith("deleted-")
