"""Calls: they ring everywhere, are answered once, and leave no dead offer anywhere."""

import pytest
from chat import on_both_brokers
from chat_clients import EMBEDDED, new_id

BEHAVIOURS = {60: "calls"}
TOKEN, TABLET = "bobs-token", "bobs-tablet"


@pytest.fixture
def friends(chat):
    """alice and bob know each other; bob's phone and tablet have registered and sleep."""
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", TOKEN)
    chat.register("bob", "tablet", TABLET)
    return chat


def signal(device, to: str, call: str, kind: str, **fields) -> dict:
    """Says something of a call, and yields its stamped copy."""
    document = {"id": new_id(), "call": call, "to": to, "type": kind, **fields}
    assert device.publish("calls", document) == "taken"
    return device.wait_for("calls", id=document["id"])


def types(device) -> list[tuple[str, str | None]]:
    return [(document["type"], document.get("dev")) for document in device.on("calls")]


@pytest.mark.behaviour(60, 9)
@on_both_brokers
def test_a_call_rings_is_answered_on_one_device_and_stops_on_the_others(friends):
    alice, web = friends.device("alice"), friends.device("bob", "web", page=True)
    call = new_id()
    offer = signal(alice, "bob", call, "offer", data={"sdp": "v=0"}, ttl=60)
    rings = web.wait_for("calls", type="offer")
    assert rings == offer and (rings["from"], rings["dev"], rings["data"]) == ("alice", "phone", {"sdp": "v=0"})
    for token in (TOKEN, TABLET):
        push = friends.wait_push(token, type="call")
        assert (push["call"], push["sid"], push["with"], push["account"]) == (call, offer["sid"], "alice", "bob")
        assert "v=0" not in str(push)
    # The phone was woken, and comes late: it rings.
    phone = friends.device("bob")
    late = phone.wait_for("calls", type="offer")
    assert late["redelivered"] is True and {**late, "redelivered": None} == {**offer, "redelivered": None}
    signal(phone, "alice", call, "ringing")
    signal(phone, "alice", call, "answer", data={"sdp": "v=1"})
    alice.wait_for("calls", type="answer", dev="phone")
    web.wait_for("calls", type="taken", dev="phone")
    assert friends.wait_push(TABLET, type="clear")["call"] == call
    # One that comes after that does not ring, and cannot answer.
    tablet = friends.device("bob", "tablet")
    tablet.wait_for("calls", type="taken")
    assert tablet.publish("calls", {"id": new_id(), "call": call, "to": "alice", "type": "answer"}) == "taken"
    tablet.error("DUPLICATE")
    for candidate in ("one", "two"):
        signal(alice, "bob", call, "ice", data={"candidate": candidate})
    signal(alice, "bob", call, "end")
    for device in (alice, web, phone):
        ended = device.wait_for("messages", type="call")
        assert (ended["outcome"], ended["call"], ended["from"]) == ("answered", call, "alice")
    friends.mark(web, phone, tablet)
    assert len(web.on("calls", type="ice")) == 2
    assert types(tablet)[0] == ("taken", "phone") and not tablet.on("calls", type="offer")
    assert [push["type"] for push in friends.pushed(TOKEN, TABLET)[1]] == ["call", "clear"]
    assert [push["type"] for push in friends.pushes(TOKEN)] == ["call"], "the phone answered"


@pytest.mark.behaviour(60)
@on_both_brokers
def test_a_kept_session_does_not_ring_when_the_call_is_over(friends):
    friends.device("bob", "laptop", kept=True).close()
    alice = friends.device("alice")
    signal(alice, "bob", "c1", "offer", ttl=2)
    if friends.kind == EMBEDDED:
        # The clock of the call goes on over a crash.
        friends.restart()
    alice.wait_for("calls", type="end", outcome="missed")
    assert alice.wait_for("messages", type="call")["outcome"] == "missed"
    missed = friends.wait_push(TOKEN, type="message")
    assert missed["body"] == "Missed call"
    assert friends.wait_push(TOKEN, type="clear")["call"] == "c1"
    laptop = friends.device("bob", "laptop", kept=True)
    assert laptop.wait_for("messages", type="call")["sid"] == missed["sid"]
    friends.mark(laptop)
    assert "offer" not in [kind for kind, _ in types(laptop)]
    with friends.visit("bob", "phone") as phone:
        answer = phone.told("explain", sid=alice.on("calls", type="offer")[0]["sid"])
        rules = {item["dev"]: item["rule"] for item in answer["items"]}
        assert answer["asked"]["matter"] == "call" and (rules["phone"], rules["tablet"]) == (4, 4)
