"""Strangers and contacts: who may write, invitations, block, and what a user can do to others."""

import json
import time

import pytest
from chat import on_both_brokers
from chat_clients import EMBEDDED, MOSQUITTO

BEHAVIOURS = {
    10: "strangers", 11: "block", 30: "invitations", 33: "floods", 34: "subscriptions to what is not one's own",
}  # fmt: skip
TOKEN = "bobs-token"


@pytest.mark.behaviour(10)
def test_a_stranger_may_write_and_hears_neither_delivered_nor_read(chat):
    eve, bob = chat.device("eve"), chat.device("bob")
    sid = eve.sent("bob", "you do not know me")
    assert bob.got("you do not know me")["sid"] == sid
    bob.read("eve", sid)
    bob.wait_for("read", sid=sid)
    chat.mark(eve)
    assert eve.statuses(sid) == ["sent"]


def only_contacts_may_write(chat, by_the_server: bool):
    if not by_the_server:
        with chat.visit("bob") as bob:
            bob.told("who_may_write", who="contacts")


@pytest.mark.behaviour(10)
@pytest.mark.parametrize("by_the_server", [True, False], ids=["by the server", "by the user"])
def test_where_only_contacts_may_write_an_invitation_that_is_accepted_opens_both_ways(make_chat, by_the_server):
    chat = make_chat(EMBEDDED, 'who_may_write = "contacts"' if by_the_server else "")
    only_contacts_may_write(chat, by_the_server)
    alice, bob = chat.device("alice"), chat.device("bob")
    message = alice.send("bob", "hello?")
    alice.error("FORBIDDEN", ref=message)
    assert alice.wait_for("receipts", id=message, status="failed")["code"] == "FORBIDDEN"
    assert alice.publish("invitations", {"id": "i1", "to": "bob", "type": "request", "body": "please"}) == "taken"
    request = bob.wait_for("invitations", type="request")
    assert (request["from"], request["body"]) == ("alice", "please")
    assert bob.publish("invitations", {"id": "i2", "to": "alice", "type": "accept", "ref": request["sid"]}) == "taken"
    assert alice.wait_for("invitations", type="accept")["from"] == "bob"
    first = alice.sent("bob", "hello!")
    bob.got("hello!")
    alice.wait_statuses(first, ["sent", "delivered"])
    bob.read("alice", first)
    alice.wait_statuses(first, ["sent", "delivered", "read"])
    second = bob.sent("alice", "hello yourself")
    alice.got("hello yourself")
    bob.wait_statuses(second, ["sent", "delivered"])
    assert "hello?" not in bob.bodies()
    assert "alice" in chat.contacts("bob") and "bob" in chat.contacts("alice")


@pytest.mark.behaviour(11)
def test_of_who_is_blocked_nothing_comes_through_and_unblocking_brings_nothing_later(chat):
    chat.befriend("alice", "bob")
    chat.befriend("bob", "carol")
    chat.register("bob", "phone", TOKEN)
    alice = chat.device("alice").watch("bob/self/presence", "bob/self/profile")
    carol = chat.device("carol").watch("bob/self/presence", "bob/self/profile")
    bob = chat.device("bob", "laptop")
    alice.wait_at("bob/self/presence", state="online")
    bob.told("block", **{"with": "alice"})
    assert chat.contacts("bob")["alice"]["blocked"] is True
    seen = len(alice.at("bob/self/presence"))

    bob.look()
    blocked = alice.sent("bob", "are you there?")
    alice.wait_statuses(blocked, ["sent"])
    alice.publish("chatstate", {"to": "bob", "state": "composing"}, qos=0)
    alice.publish("invitations", {"id": "i1", "to": "bob", "type": "request"})
    bob.publish("profile", {"name": "Bob"}, retain=True)
    carol.wait_at("bob/self/profile", name="Bob")
    chat.mark(bob)
    bob.look_away()
    asleep = alice.sent("bob", "or asleep?")
    bob.close()
    carol.wait_at("bob/self/presence", state="offline")
    assert chat.pushed(TOKEN) == [[]]
    chat.mark(alice)
    assert alice.statuses(blocked) == alice.statuses(asleep) == ["sent"]
    assert len(alice.at("bob/self/presence")) == seen and not alice.at("bob/self/profile")
    assert bob.bodies("alice") == [] and not bob.on("chatstate") and not bob.on("invitations")

    bob = chat.device("bob", "laptop")
    bob.told("unblock", **{"with": "alice"})
    heard = alice.sent("bob", "and now?")
    bob.got("and now?")
    alice.wait_statuses(heard, ["sent", "delivered"])
    chat.mark(bob)
    assert bob.bodies("alice") == ["and now?"]
    items = bob.told("sync")["items"]
    assert not [item for item in items if item.get("body") in ("are you there?", "or asleep?")]
    hers = [item["n"] for item in items if "alice" in (item.get("from"), item.get("to")) and "n" in item]
    assert hers == list(range(hers[0], hers[0] + len(hers))), "what was blocked leaves no hole"


@pytest.mark.behaviour(11)
def test_a_block_is_not_betrayed_by_the_rule_who_may_write(chat):
    """Who may write gets no other answer after the block than before it."""
    only_contacts_may_write(chat, by_the_server=False)
    alice, bob = chat.device("alice"), chat.device("bob")
    before = alice.send("bob", "before")
    alice.error("FORBIDDEN", ref=before)
    alice.wait_statuses(before, ["failed"])
    bob.told("block", **{"with": "alice"})
    after = alice.send("bob", "after")
    alice.error("FORBIDDEN", ref=after)
    alice.wait_statuses(after, ["failed"])


def test_a_removed_contact_sees_nothing_more(chat):
    chat.befriend("alice", "bob")
    chat.befriend("bob", "carol")
    alice, carol = (chat.device(user).watch("bob/self/presence") for user in ["alice", "carol"])
    bob = chat.device("bob")
    alice.wait_at("bob/self/presence", state="online")
    bob.told("remove_contact", **{"with": "alice"})
    seen = len(alice.at("bob/self/presence"))
    sid = alice.sent("bob", "as a stranger")
    bob.got("as a stranger")
    bob.close()
    carol.wait_at("bob/self/presence", state="offline")
    chat.mark(alice)
    assert alice.statuses(sid) == ["sent"] and len(alice.at("bob/self/presence")) == seen


@pytest.mark.behaviour(30)
def test_an_invitation_is_pushed_and_answered_once_and_says_who_it_is_from_by_the_profile(chat):
    chat.register("bob", "phone", TOKEN)
    alice = chat.device("alice")
    alice.publish("profile", {"name": "Alice", "image": "https://example.com/alice.png"}, retain=True)
    alice.told("settings")
    forged = {"name": "Your Bank", "image": "https://evil.example/bank.png", "from": "carol"}
    assert alice.publish("invitations", {"id": "i1", "to": "bob", "type": "request", "body": "It is me", **forged}) == "taken"
    push = chat.wait_push(TOKEN, type="invitation")
    assert (push["account"], push["with"]) == ("bob", "alice") and "Alice" in push["title"] and "Bank" not in json.dumps(push)
    bob, tablet = chat.device("bob", "laptop"), chat.device("bob", "tablet")
    [request] = [item for item in bob.told("sync")["items"] if item.get("type") == "request"]
    assert (request["name"], request["image"], request["from"]) == ("Alice", "https://example.com/alice.png", "alice")
    assert push["sid"] == request["sid"]
    bob.publish("invitations", {"id": "a1", "to": "alice", "type": "accept", "ref": request["sid"]})
    alice.wait_for("invitations", type="accept")
    tablet.publish("invitations", {"id": "a2", "to": "alice", "type": "decline", "ref": request["sid"]})
    tablet.error("DUPLICATE", ref="a2")
    chat.mark(alice, bob)
    assert not alice.on("invitations", type="decline")
    assert [item for item in chat.pushed(TOKEN)[0] if item["type"] == "invitation"] == [push]


@pytest.mark.behaviour(30)
@pytest.mark.parametrize("answer", ["decline", "cancel"])
def test_an_invitation_that_is_declined_or_taken_back_makes_no_contacts(chat, answer):
    alice, bob = chat.device("alice"), chat.device("bob")
    alice.publish("invitations", {"id": "i1", "to": "bob", "type": "request"})
    sid = bob.wait_for("invitations", type="request")["sid"]
    writer, other = (bob, alice) if answer == "decline" else (alice, bob)
    writer.publish("invitations", {"id": "i2", "to": other.user, "type": answer, "ref": sid})
    other.wait_for("invitations", type=answer)
    bob.publish("invitations", {"id": "i3", "to": "alice", "type": "accept", "ref": sid})
    bob.error("DUPLICATE", ref="i3")
    assert "alice" not in chat.contacts("bob")


FLOODS = {
    "registrations": lambda n: ("devices/one", {"token": f"token-{n}", "platform": "android"}),
    "strangers": lambda n: ("messages", {"id": f"s{n}", "to": f"nobody-{n}", "body": "spam"}),
    "requests": lambda n: ("requests/flood", {"id": f"r{n}", "op": "settings"}),
}


@pytest.mark.behaviour(33)
@pytest.mark.parametrize("kind", list(FLOODS))
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.campaign)])
def test_a_flood_of_one_user_is_limited_and_harms_no_other(chat, kind, count):
    chat.befriend("carol", "bob")
    eve, carol, bob = chat.device("eve", "flood"), chat.device("carol"), chat.device("bob")
    packets = []
    for n in range(count):
        suffix, document = FLOODS[kind](n)
        packets.append(eve.begin(f"eve/self/{suffix}", document))

    def is_limited() -> bool:
        answers = eve.on("errors", code="RATE_LIMITED") + eve.on("replies/flood", code="RATE_LIMITED")
        return bool(answers or eve.on("receipts", code="RATE_LIMITED"))

    slowest = 0.0
    for n in range(10):
        began = time.monotonic()
        carol.send("bob", f"number {n}")
        bob.got(f"number {n}")
        slowest = max(slowest, time.monotonic() - began)
    eve.wait(is_limited, "RATE_LIMITED", 10 * 60)
    assert slowest < 5
    eve.wait(lambda: all(("pub", packet) in eve.answers for packet in packets), "each PUBACK comes in the end", 10 * 60)
    assert eve.connections == 1


ALLOWED = {"bob/self/presence", "bob/self/profile", "_bridge/status"}
FILTERS = [
    "#", "bob/#", "+/self/messages", "+/others/messages", "bob/others/+", "+/self/#", "$share/x/bob/others/messages",
    "$share/x/#", "bob/self/devices/+", "bob/self/presence/+", "+/others/#", "_bridge/#",
]  # fmt: skip


@pytest.mark.behaviour(34)
@pytest.mark.parametrize("is_contact", [False, True], ids=["a stranger", "a contact"])
def test_who_subscribes_to_everything_gets_what_is_allowed(chat, is_contact):
    chat.befriend("alice", "bob")
    if is_contact:
        chat.write("bob", "eve", "you may")
    eve = chat.device("eve", "ear")
    granted = {topic_filter: eve.subscribe(topic_filter) for topic_filter in FILTERS}
    assert not [name for name in granted if name.startswith("$share") and granted[name]]
    bob, alice = chat.device("bob"), chat.device("alice").watch("bob/self/profile")
    bob.publish("profile", {"name": "Bob"}, retain=True)
    bob.register(TOKEN)
    bob.look()
    sid = alice.sent("bob", "between us")
    bob.got("between us")
    alice.publish("chatstate", {"to": "bob", "state": "composing"}, qos=0)
    bob.read("alice", sid)
    bob.told("mute", **{"with": "alice", "level": "none", "for": 60})
    alice.wait_at("bob/self/profile", name="Bob")
    chat.mark(eve)
    seen = {topic for topic, _ in eve.documents() if not topic.startswith("eve/")}
    expected = ALLOWED if is_contact else {"_bridge/status"}
    assert seen <= expected, seen - expected
    assert not is_contact or seen == expected


@pytest.mark.behaviour(34)
@pytest.mark.parametrize("chat", [MOSQUITTO], indirect=True)
def test_on_a_broker_of_others_who_subscribes_to_everything_gets_what_its_rules_allow(chat):
    chat.befriend("alice", "bob")
    eve = chat.device("eve", "ear")
    for topic_filter in FILTERS:
        eve.subscribe(topic_filter)
    bob, alice = chat.device("bob"), chat.device("alice")
    bob.register(TOKEN)
    sid = alice.sent("bob", "between us")
    bob.got("between us")
    bob.read("alice", sid)
    chat.mark(eve)
    seen = {topic.split("/", 1)[1] for topic, _ in eve.documents() if topic.split("/")[0] not in ("eve", "_bridge")}
    assert seen <= {"self/presence", "self/profile"}, seen


def test_a_report_is_told_to_the_operator(chat):
    chat.befriend("eve", "bob")
    root = chat.device("root", "look").watch("_bridge/events")
    sid = chat.write("eve", "bob", "rude")
    chat.device("bob").told("report", **{"with": "eve", "sids": [sid], "reason": "rude"})
    event = root.wait_at("_bridge/events", event="reported")
    assert "rude" not in json.dumps({name: value for name, value in event.items() if name != "reason"})


@on_both_brokers
def test_own_devices_agree_on_settings(chat):
    chat.befriend("alice", "bob")
    phone, laptop = chat.device("bob", "phone"), chat.device("bob", "laptop")
    phone.told("hide_read", on=True)
    assert laptop.wait_for("changes", op="hide_read")["on"] is True
    phone.told("block", **{"with": "alice"})
    assert laptop.wait_for("changes", op="block")["with"] == "alice"
    settings = laptop.told("settings")
    assert settings["hide_read"] is True


def test_a_profile_or_presence_that_is_refused_is_shown_to_nobody(chat):
    chat.befriend("alice", "bob")
    bob, alice = chat.device("bob"), chat.device("alice").watch("bob/self/presence", "bob/self/profile")
    assert bob.publish("profile", {"name": "Bob"}) == "taken", "the flag makes no difference"
    alice.wait_at("bob/self/profile", name="Bob")
    for document in [{"name": "x" * 65}, {"name": "B\nb"}, {"name": "Bob", "more": "x" * 2_100}, "garbage"]:
        told = len(bob.on("errors"))
        assert bob.publish_to("bob/self/profile", document, retain=True) == "taken"
        bob.wait(lambda n=told: len(bob.on("errors")) == n + 1, f"{document} is refused")
    for document in ["garbage", {"state": "away"}]:
        told = len(bob.on("errors"))
        assert bob.publish_to("bob/self/presence", document, retain=True) == "taken"
        bob.wait(lambda n=told: len(bob.on("errors")) == n + 1, f"{document} is refused")
    assert bob.publish_to("bob/self/presence", {"state": "online", "ts": 1, "fun": "x"}, retain=True) == "taken"
    chat.mark(alice, bob)
    assert alice.at("bob/self/profile") == [{"name": "Bob"}]
    said = alice.at("bob/self/presence")
    assert all(set(one) <= {"v", "state", "ts", "last_seen"} and one["ts"] > 1 for one in said), said
    late = chat.device("alice", "late").watch("bob/self/presence", "bob/self/profile")
    late.wait_at("bob/self/profile", name="Bob")
    late.wait_at("bob/self/presence", state="online")


@pytest.mark.behaviour(10)
@on_both_brokers
def test_who_becomes_a_contact_learns_what_became_of_what_was_written_before(chat):
    chat.introduce("bob")
    alice, bob = chat.device("alice"), chat.device("bob")
    message = alice.send("bob", "hello, you do not know me")
    sid = alice.stamped(message)["sid"]
    bob.got("hello, you do not know me")
    bob.read("alice", sid)
    bob.wait_for("read", sid=sid)
    chat.mark(alice, bob)
    assert alice.statuses(message) == ["sent"]
    bob.send("alice", "now I do")
    alice.wait_statuses(message, ["sent", "delivered", "read"])
