"""Requests and their answers: who was away catches up, own devices alone are answered."""

import pytest
from chat import DAY, on_both_brokers
from chat_clients import EMBEDDED, is_sid

BEHAVIOURS = {29: "catching up", 31: "replies"}


def pages(device, since: str | None = None) -> list[dict]:
    """All that is told to who asks from here on, page by page."""
    items, complete, fields = [], False, {} if since is None else {"since": since}
    while not complete:
        answer = device.told("sync", **fields)
        assert not answer.get("gap"), answer
        items += answer["items"]
        complete, fields = answer["complete"], {"since": answer.get("next")}
    return items


def talk(chat, count: int, kind="message") -> list[str]:
    """Messages in turn; yields their sids."""
    alice, bob = chat.device("alice", "talk"), chat.device("bob", "talk")
    sids = []
    for n in range(count):
        writer, reader = (alice, bob) if n % 2 == 0 else (bob, alice)
        sids.append(writer.sent(reader.user, f"{kind} {n}"))
    for device in [alice, bob]:
        device.close()
    return sids


@pytest.mark.behaviour(29)
def test_who_lived_on_live_messages_for_three_weeks_catches_up_from_its_last_one(chat):
    chat.befriend("alice", "bob")
    with chat.visit("bob", "phone") as phone:
        first = chat.write("alice", "bob", "the last one it saw")
        phone.got("the last one it saw")
    sids = talk(chat, 10, "early")
    chat.later(21 * DAY)
    sids += talk(chat, 10, "late")
    phone = chat.device("bob", "phone")
    items = pages(phone, first)
    assert [item["sid"] for item in items] == sids
    assert sids == sorted(sids) and all(map(is_sid, sids))
    assert [item["body"] for item in items] == [f"{when} {n}" for when in ["early", "late"] for n in range(10)]
    assert {item["from"] for item in items} == {"alice", "bob"}
    assert [item["n"] for item in items] == list(range(items[0]["n"], items[0]["n"] + 20)), "no hole"
    assert pages(phone, sids[-1]) == []


@pytest.mark.behaviour(29)
def test_who_forgot_everything_gets_the_newest_hundred(chat):
    chat.befriend("alice", "bob")
    sids = talk(chat, 130)
    phone = chat.device("bob", "new")
    answer = phone.told("sync")
    assert [item["sid"] for item in answer["items"]] == sids[-100:]
    assert phone.told("sync", since=sids[-101])["items"] == answer["items"]


@pytest.mark.behaviour(29)
def test_who_asks_for_more_than_is_kept_is_told_of_the_gap(make_chat):
    chat = make_chat(EMBEDDED, "keep_days = 7")
    chat.befriend("alice", "bob")
    first = talk(chat, 4, "old")[0]
    chat.later(20 * DAY)
    sids = talk(chat, 4, "new")
    answer = chat.device("bob", "phone").told("sync", since=first)
    assert answer["gap"] is True
    assert [item["sid"] for item in answer["items"]] == sids


@pytest.mark.behaviour(29)
def test_the_count_of_each_side_has_no_hole_after_a_block(chat):
    chat.befriend("alice", "bob")
    alice, bob = chat.device("alice"), chat.device("bob")
    alice.sent("bob", "before")
    bob.told("block", **{"with": "alice"})
    for n in range(3):
        alice.sent("bob", f"unheard {n}")
    bob.told("unblock", **{"with": "alice"})
    alice.sent("bob", "after")
    bob.got("after")
    for device, heard in [(bob, ["before", "after"]), (alice, ["before", "unheard 0", "unheard 1", "unheard 2", "after"])]:
        items = [item for item in pages(device) if item.get("body") != "hello" and item.get("from") != "bal1"]
        assert [item["body"] for item in items] == heard
        assert [item["n"] for item in items] == list(range(items[0]["n"], items[0]["n"] + len(items)))


def test_live_messages_and_those_that_are_asked_for_are_the_same(chat):
    chat.befriend("alice", "bob")
    alice, bob = chat.device("alice"), chat.device("bob")
    first = alice.sent("bob", "one", data={"k": [1, None, {"deep": True}]}, thread="t", mentions=["bob"])
    alice.sent("bob", "two", reply_to=first, files=[{"url": "https://example.com/a", "mime": "image/png", "size": 3, "sha256": "0" * 64}])
    bob.got("two")
    items = {item["sid"]: item for item in pages(bob)}
    for live in bob.on("messages"):
        assert items[live["sid"]].items() >= {k: v for k, v in live.items() if k != "redelivered"}.items()


def test_a_message_of_before_its_reader_was_told_may_come_twice_and_is_known_by_its_sid(chat):
    """Subscribe, ask, then drop what one knows: nothing is missed and nothing is shown twice."""
    chat.befriend("alice", "bob")
    alice = chat.device("alice")
    sids = [alice.sent("bob", f"number {n}") for n in range(5)]
    bob = chat.device("bob", "new")
    sids += [alice.sent("bob", f"number {n}") for n in range(5, 10)]
    asked = pages(bob, sids[0])
    bob.got("number 9")
    shown = {item["sid"] for item in asked} | {message["sid"] for message in bob.on("messages")}
    assert shown == set(sids[1:])


@pytest.mark.behaviour(31)
@on_both_brokers
def test_a_reply_reaches_the_device_that_asked_and_waits_for_no_other(chat):
    chat.befriend("alice", "bob")
    away = chat.device("bob", "away", kept=True)
    away.close()
    phone, laptop = chat.device("bob", "phone"), chat.device("bob", "laptop")
    ear = chat.device("alice", "ear")
    ear.watch("#")
    for op in ["contacts", "settings", "devices", "sync"]:
        phone.told(op)
    phone.publish("requests/phone", {"id": "r1", "op": "no-such-thing"})
    assert phone.wait_for("replies/phone", ref="r1")["ok"] is False
    back = chat.device("bob", "away", kept=True)
    chat.mark(phone, laptop, back, ear)
    assert len(phone.on("replies/phone")) >= 5
    for device in [laptop, back, ear]:
        assert not [topic for topic, _ in device.documents() if "/replies/" in topic and "phone" in topic]


@pytest.mark.behaviour(31)
def test_a_device_asks_for_itself_only(chat):
    phone, laptop = chat.device("bob", "phone"), chat.device("bob", "laptop")
    if phone.publish("requests/laptop", {"id": "r1", "op": "settings"}) == "taken":
        phone.error("FORBIDDEN")
    chat.mark(laptop)
    assert not laptop.on("replies/laptop")


def test_a_device_gets_its_inbox_without_asking_for_it_unless_that_is_off(make_chat):
    chat = make_chat(EMBEDDED, broker_more="autosubscribe = false")
    bob = chat.device("bob", "phone")
    alice = chat.device("alice").watch("alice/others/+")
    sid = alice.sent("bob", "unheard")
    bob.watch("bob/others/+", "bob/others/replies/phone")
    alice.sent("bob", "heard")
    bob.got("heard")
    assert bob.bodies() == ["heard"]
    assert [item["sid"] for item in pages(bob, sid)] and bob.told("settings")["ok"]
