"""Messages with a time while the bridge is killed again and again: each is sent once and not before its time, what was taken back is
never sent, and of what has expired nothing is left."""

import itertools
import random
import sqlite3
import time
from contextlib import closing

import pytest
from chat_kills import BEGINNING, Killer, Talk, all_pages, check_pushes, firsts, is_cleared, rounds
from harness import eventually

TOKEN = "bobs-token"
MESSAGES = 20
# Within these milliseconds something is sent, and within those of that something is deleted.
SENT_WITHIN, EXPIRED_WITHIN = 2_500, 2_000
# What becomes of a message: one of these. Refused is what comes to the bridge when it has expired.
ENDS = {"sent", "cancelled", "failed"}
# A second, and how long the bridge may have been down.
LATE = 6_000


def now_ms() -> int:
    return int(time.time() * 1000)


class Plan:
    """What alice writes on two devices to bob, who has one that is there, and a phone that sleeps."""

    def __init__(self, chat, dice: random.Random):
        self.chat, self.dice, self.talk = chat, dice, Talk()
        chat.befriend("alice", "bob")
        chat.register("bob", "phone", TOKEN)
        self.alices = [chat.device("alice", dev, kept=True) for dev in ("phone", "laptop")]
        self.web = chat.device("bob", "web", kept=True)
        chat.mark(*self.alices, self.web)
        self.messages: dict[str, dict] = {}
        self.cancelled: set[str] = set()

    def write(self):
        message, now = f"m{len(self.messages)}", now_ms()
        document = {"id": message, "to": "bob", "body": f"the text of number {message} of alice"}
        if self.dice.random() < 0.6:
            document["not_before"] = now + self.dice.randrange(300, SENT_WITHIN)
        if self.dice.random() < 0.5:
            document["expires"] = document.get("not_before", now) + self.dice.randrange(500, EXPIRED_WITHIN)
        self.messages[message] = document
        self.talk.begin(self.dice.choice(self.alices), "messages", document)

    def cancel(self):
        waiting = [one for one, document in self.messages.items() if document.get("not_before", 0) > now_ms()]
        if waiting:
            message, device = self.dice.choice(waiting), self.dice.choice(self.alices)
            self.cancelled.add(message)
            request = {"id": f"c{len(self.cancelled)}", "op": "cancel", "message": message}
            self.talk.begin(device, f"requests/{device.dev}", request)

    def go_on(self, killer: Killer):
        killer.start()
        while len(self.messages) < MESSAGES:
            self.dice.choices([self.write, self.cancel], [5, 1])[0]()
            killer.stopped.wait(self.dice.uniform(0, 0.15))
        killer.end()
        self.talk.end()


@pytest.mark.behaviour(56)
@pytest.mark.parametrize("seed", rounds(2))
def test_messages_with_a_time_survive_kills(chat, seed):
    dice = random.Random(seed)
    plan = Plan(chat, dice)
    plan.go_on(Killer(chat, dice, longest=1.2))
    for message, device in itertools.product(plan.messages, plan.alices):
        device.wait(lambda m=message, d=device: ENDS & set(d.statuses(m)), f"the end of {message}")
    sent = check_sent(plan)
    expired = [one for one in sent if "expires" in one]
    texts = [one["body"] for one in plan.messages.values() if "expires" in one or one["id"] not in {m["id"] for m in sent}]
    eventually(lambda: not tables_with(chat, *texts), "nothing is left of what has expired or was never sent")
    assert all(one["expires"] <= now_ms() for one in expired)
    chat.mark(*plan.alices, plan.web)
    check_history(plan, sent)
    check_phone(plan, sent)


def tables_with(chat, *texts: str) -> list[str]:
    """In which tables of the store these stand."""
    with closing(sqlite3.connect(f"file:{chat.bridge.db}?mode=ro", uri=True)) as store:
        columns = "SELECT s.name, c.name FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table'"
        has = "SELECT 1 FROM {} WHERE instr(CAST({} AS BLOB), CAST(? AS BLOB)) > 0"
        listed = store.execute(columns).fetchall()
        return [table for table, column in listed for text in texts if store.execute(has.format(table, column), [text]).fetchone()]


def check_sent(plan: Plan) -> list[dict]:
    """Each is sent once and at its time, or was taken back and never sent. Yields the stamped copies."""
    sent = []
    for message, document in plan.messages.items():
        for device in plan.alices:
            told = {receipt["status"] for receipt in firsts(device, "receipts", "id", "status", id=message)}
            assert len(told & ENDS) == 1, (message, told)
            # What comes to the bridge after its time is sent at once.
            assert "scheduled" not in told or "not_before" in document, (message, told)
            assert "cancelled" not in told or message in plan.cancelled, (message, told)
            assert "failed" not in told or document.get("expires", now_ms()) < now_ms(), (message, told)
            copies = firsts(device, "messages", "id", id=message)
            assert "sent" in told or not copies, (message, copies)
        if "sent" not in told:
            continue
        # A copy that waited for a device until it expired never comes; to a repetition then a tombstone is the answer.
        copies = [copy for device in plan.alices for copy in device.on("messages", id=message) if copy["type"] != "tombstone"]
        assert len({copy["sid"] for copy in copies}) <= 1, copies
        stamps = {receipt["sid"] for device in plan.alices for receipt in device.on("receipts", id=message, status="sent")}
        assert len(stamps) == 1, stamps
        sid = stamps.pop()
        for copy in copies:
            assert copy["sid"] == sid and "not_before" not in copy and copy.get("expires") == document.get("expires")
            assert document.get("not_before", 0) <= copy["ts"] < document.get("not_before", now_ms()) + LATE, (copy, document)
        assert copies or "expires" in document, f"{message} came to no device"
        sent.append({**document, "sid": sid})
    return sent


def check_history(plan: Plan, sent: list[dict]):
    """Both sides have the same, without a hole: texts, and places of those that have expired."""
    for device, peer in [*((one, "bob") for one in plan.alices), (plan.web, "alice")]:
        items = all_pages(device, "history", "after", after=BEGINNING, **{"with": peer})
        places = [item["n"] for item in items]
        assert places == list(range(places[0], places[0] + len(places))), "no hole"
        shown = {item["sid"]: (item["type"], item.get("why"), item.get("body")) for item in items}
        for one in sent:
            expected = ("tombstone", "expired", None) if "expires" in one else ("text", None, one["body"])
            assert shown.pop(one["sid"]) == expected, (one, device.user)
        assert [body for _, _, body in shown.values()] == ["hello"] * 2, shown
        synced = {item["sid"]: item.get("body") for item in all_pages(device, "sync", "since", since=BEGINNING)}
        assert {item["sid"]: item.get("body") for item in items}.items() <= synced.items()
    assert plan.alices[0].told("schedule")["items"] == []
    [screen] = [item for item in plan.web.told("conversations")["items"] if item["with"] == "alice"]
    assert screen["unread"] == len([one for one in sent if "expires" not in one])
    for one in sent:
        if "expires" not in one:
            [copy] = firsts(plan.web, "messages", "sid", sid=one["sid"])
            assert copy["body"] == one["body"]


def check_phone(plan: Plan, sent: list[dict]):
    """The phone was pushed for what stays, and shows nothing of what has expired."""
    chat = plan.chat
    pushes = chat.pushed(TOKEN)[0]
    check_pushes(pushes, {one["sid"] for one in sent if "expires" not in one}, set())
    shown = {push["sid"] for push in pushes if push["type"] == "message"}
    for sid in shown & {one["sid"] for one in sent if "expires" in one}:
        cleared = lambda s=sid: is_cleared(chat.pushes(TOKEN, type="clear"), s)  # noqa: E731
        eventually(cleared, f"{sid} is cleared")
