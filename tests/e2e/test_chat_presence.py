"""Who is there, as others see it; and who is typing."""

import json

import pytest
from chat import on_both_brokers
from chat_clients import Device
from test_chat_messages import Cut

BEHAVIOURS = {
    12: "two devices", 13: "`active:false`", 14: "old payloads", 15: "chat states", 35: "nothing of this is pushed",
}  # fmt: skip


@pytest.fixture
def friends(chat):
    """bob, alice and carol know each other; dave only knows carol."""
    for pair in [("alice", "bob"), ("alice", "carol"), ("bob", "carol"), ("dave", "carol")]:
        chat.befriend(*pair)
    return chat


def states(watcher, user="bob") -> list[str]:
    """What a watcher was told in turn."""
    told = []
    for document in watcher.at(f"{user}/self/presence"):
        if not told or told[-1] != document["state"]:
            told.append(document["state"])
    return told


def others_have_gone(chat, watcher):
    """Whoever went without a word before this has been noticed when it returns: dave goes after them, in the same way."""
    watcher.watch("dave/self/presence")
    dave = chat.device("dave", "phone")
    watcher.wait_at("dave/self/presence", state="online")
    dave.vanish()
    watcher.wait_at("dave/self/presence", state="offline")


@pytest.mark.behaviour(12)
@on_both_brokers
def test_a_user_is_there_as_long_as_one_device_is(friends):
    carol = friends.device("carol").watch("bob/self/presence")
    phone, laptop = friends.device("bob", "phone"), friends.device("bob", "laptop")
    carol.wait_at("bob/self/presence", state="online")
    carol_told = len(states(carol))
    phone.vanish()
    others_have_gone(friends, carol)
    assert states(carol)[carol_told - 1 :] == ["online"], "one device is enough"
    laptop.vanish()
    gone = carol.wait_at("bob/self/presence", state="offline")
    assert gone["last_seen"] <= gone["ts"]
    assert states(carol)[carol_told - 1 :] == ["online", "offline"]
    # It is retained.
    late = friends.device("alice", "late").watch("bob/self/presence")
    assert late.wait_at("bob/self/presence", state="offline")["last_seen"] == gone["last_seen"]


@pytest.mark.behaviour(12)
@on_both_brokers
def test_who_is_back_before_the_old_socket_is_noticed_is_there_in_the_end(friends):
    carol = friends.device("carol").watch("bob/self/presence")
    cut = Cut(friends.port)
    old = friends.keep(Device(friends, "bob", "phone", port=cut.own)).connect()
    carol.wait_at("bob/self/presence", state="online")
    cut.swallows = True
    old.client.reconnect_delay_set(600, 600)
    new = friends.device("bob", "phone")
    cut.close()
    others_have_gone(friends, carol)
    assert states(carol)[-1] == "online" and new.connected()
    new.close()
    carol.wait_at("bob/self/presence", state="offline")


@pytest.mark.behaviour(12)
@on_both_brokers
def test_a_will_of_an_old_connection_changes_nothing(friends):
    carol = friends.device("carol").watch("bob/self/presence")
    phone = friends.device("bob", "phone")
    phone.say_presence(phone.conn)
    carol.wait_at("bob/self/presence", state="online")
    told = len(states(carol))
    phone.say_presence("of-an-old-connection", state="offline")
    others_have_gone(friends, carol)
    assert states(carol)[told - 1 :] == ["online"]
    phone.say_presence(phone.conn, state="offline")
    carol.wait_at("bob/self/presence", state="offline")


@pytest.mark.behaviour(22)
@pytest.mark.parametrize("topic", ["presence/phone", "presence"])
def test_what_a_push_handler_says_of_presence_is_refused_and_reaches_nobody(friends, topic):
    carol = friends.device("carol").watch("bob/self/presence")
    phone = friends.device("bob", "phone").watch("bob/self/presence/+")
    phone.say_presence(phone.conn)
    carol.wait_at("bob/self/presence", state="online")
    phone.wait_at("bob/self/presence/phone", state="online")
    told, own = len(carol.at("bob/self/presence")), len(phone.at("bob/self/presence/phone"))
    handler = friends.background("bob")
    assert handler.publish(topic, {"state": "offline", "conn": phone.conn}, retain=True) == "taken"
    error = phone.wait_for("errors", code="FORBIDDEN")
    assert ":bg" in error["detail"]
    friends.mark(carol, phone)
    assert (len(carol.at("bob/self/presence")), len(phone.at("bob/self/presence/phone"))) == (told, own)
    late = friends.device("alice", "late").watch("bob/self/presence")
    assert late.wait_at("bob/self/presence")["state"] == "online"


@pytest.mark.behaviour(13)
def test_that_a_device_is_not_looked_at_is_seen_by_own_devices_alone(friends):
    watchers = [friends.device("carol"), friends.device("eve")]
    bal = friends.bal
    for watcher in [*watchers, bal]:
        watcher.watch("bob/self/presence")
        for topic_filter in ["bob/self/presence/+", "bob/self/presence/#", "+/self/presence/phone", "#"]:
            watcher.subscribe(topic_filter)
    phone, laptop = friends.device("bob", "phone"), friends.device("bob", "laptop").watch("bob/self/presence/+")
    watchers[0].wait_at("bob/self/presence", state="online")
    phone.look_away()
    laptop.wait_at("bob/self/presence/phone", active=False)
    friends.mark(*watchers, laptop)
    for watcher in [*watchers, bal]:
        assert '"active"' not in json.dumps(watcher.documents())
        assert not [topic for topic, _ in watcher.documents() if topic.startswith("bob/self/presence/")]


@pytest.mark.behaviour(13)
def test_that_a_device_is_not_looked_at_ends_with_its_connection(friends):
    friends.register("bob", "tablet", "bobs-token")
    phone = friends.device("bob", "phone")
    phone.look_away()
    phone.close()
    again = friends.device("bob", "phone")
    # A sign of a person; had it stayed away, the tablet would be pushed.
    again.sent("alice", "I am here")
    alice = friends.device("alice")
    alice.sent("bob", "so I see")
    again.got("so I see")
    assert friends.pushed_sids("bobs-token") == []
    laptop = friends.device("bob", "laptop").watch("bob/self/presence/+")
    friends.mark(laptop)
    assert not [d for d in laptop.at("bob/self/presence/phone") if d and d.get("active") is False]


@pytest.mark.behaviour(14)
def test_old_clients_say_what_they_are_in_their_own_words(friends):
    carol = friends.device("carol").watch("bob/self/presence")
    bob = friends.device("bob", "default")
    carol.wait_at("bob/self/presence", state="online")
    for word, state in [("F", "offline"), ("L", "online"), ("Offline", "offline"), ("Online", "online")]:
        assert bob.publish("presence", word, retain=True) == "taken"
        # The bridge's document takes the place of the word.
        assert carol.wait_at("bob/self/presence", state=state)["ts"] > 0


def compose(device, to: str, state="composing"):
    assert device.publish("chatstate", {"to": to, "state": state}, qos=0) == "taken"


@pytest.mark.behaviour(15)
def test_a_chat_state_reaches_who_looks_and_nobody_else_now_or_later(friends):
    friends.register("bob", "phone", "bobs-token")
    with_session = friends.device("bob", "laptop", kept=True)
    with_session.close()
    alice, hidden = friends.device("alice"), friends.device("bob", "hidden")
    hidden.look_away()
    compose(alice, "bob")
    # Now somebody looks at one of them.
    tablet = friends.device("bob", "tablet")
    tablet.look()
    compose(alice, "bob", "paused")
    assert tablet.wait_for("chatstate") == {"from": "alice", "state": "paused"}
    back = friends.device("bob", "laptop", kept=True)
    friends.mark(hidden, back, tablet)
    assert not hidden.on("chatstate") and not back.on("chatstate")
    assert friends.pushed("bobs-token") == [[]]


@pytest.mark.behaviour(15)
def test_a_chat_state_of_who_is_no_contact_reaches_nobody(friends):
    eve, alice, bob = friends.device("eve"), friends.device("alice"), friends.device("bob")
    bob.look()
    compose(eve, "bob")
    # QoS 0 keeps its order behind QoS 0 of the same connection, and this one is answered.
    eve.sent("bob", "may I?")
    compose(alice, "bob")
    bob.wait_for("chatstate", **{"from": "alice"})
    friends.mark(bob)
    assert [document["from"] for document in bob.on("chatstate")] == ["alice"]


@pytest.mark.behaviour(15)
def test_old_spellings_of_a_chat_state_are_understood_and_a_repeat_is_dropped(friends):
    alice, bob = friends.device("alice"), friends.device("bob")
    bob.look()
    for state in ["COMPOSING", "INACTVE", "composing", "composing", "gone"]:
        compose(alice, "bob", state)
    bob.wait_for("chatstate", state="gone")
    assert [document["state"] for document in bob.on("chatstate")] == ["composing", "inactive", "composing", "gone"]


@pytest.mark.behaviour(35)
@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.campaign)])
def test_typing_receipts_and_presence_are_never_pushed(friends, count):
    friends.register("bob", "phone", "bobs-token")
    alice, tab = friends.device("alice"), friends.device("bob", "tab")
    tab.look_away()
    sid = alice.sent("bob", "the only message", push="never")
    tab.got("the only message")
    turns = [
        lambda n: compose(alice, "bob", ["composing", "paused", "active"][n % 3]),
        lambda n: alice.publish("presence/phone", {"state": ["online", "offline"][n % 2], "conn": alice.conn}, retain=True),
        lambda n: tab.confirm(sid),
        lambda n: alice.publish("profile", {"name": f"Alice {n}"}, retain=True),
        lambda n: tab.say_presence(tab.conn, active=False),
    ]
    for n in range(count):
        turns[n % len(turns)](n // len(turns))
    tab.read("alice", sid)
    alice.wait(lambda: "read" in alice.statuses(sid), "read")
    assert friends.pushed("bobs-token") == [[]]


def hides(device, op: str):
    device.told(op, on=True)


@on_both_brokers
def test_who_hides_is_away_for_everybody(friends):
    carol, bob = friends.device("carol").watch("bob/self/presence"), friends.device("bob")
    carol.wait_at("bob/self/presence", state="online")
    hides(bob, "hide_presence")
    hidden = carol.wait_at("bob/self/presence", state="offline")
    assert "last_seen" not in hidden
    assert friends.contacts("carol")["bob"]["presence"] == "offline"


def test_who_hides_sees_no_others(friends):
    bob = friends.device("bob")
    hides(bob, "hide_presence")
    bob.watch("carol/self/presence")
    friends.device("carol")
    others = friends.device("alice").watch("carol/self/presence")
    others.wait_at("carol/self/presence", state="online")
    friends.mark(bob)
    assert not [d for d in bob.at("carol/self/presence") if d["state"] == "online"]


def test_who_hides_what_he_reads_has_it_known_to_own_devices_alone(friends):
    alice, phone, laptop = friends.device("alice"), friends.device("bob"), friends.device("bob", "laptop")
    hides(phone, "hide_read")
    sid = alice.sent("bob", "secretly")
    phone.got("secretly")
    phone.read("alice", sid)
    laptop.wait_for("read", sid=sid)
    friends.mark(alice)
    assert alice.statuses(sid) == ["sent", "delivered"]


def test_a_stranger_sees_neither_presence_nor_profile(friends):
    bob, eve = friends.device("bob"), friends.device("eve")
    bob.publish("profile", {"name": "Bob"}, retain=True)
    eve.watch("bob/self/presence", "bob/self/profile")
    carol = friends.device("carol").watch("bob/self/presence", "bob/self/profile")
    carol.wait_at("bob/self/profile", name="Bob")
    friends.mark(eve)
    assert not [topic for topic, _ in eve.documents() if topic.startswith("bob/")]
    # A new contact gets both.
    bob.sent("eve", "now you are one")
    eve.wait_at("bob/self/profile", name="Bob")
    eve.wait_at("bob/self/presence", state="online")


def test_what_a_new_contact_is_told_nobody_else_is_told_again(friends):
    bob, eve = friends.device("bob"), friends.device("eve")
    bob.publish("profile", {"name": "Bob"}, retain=True)
    carol, laptop = friends.device("carol"), friends.device("bob", "laptop")
    for watcher in (carol, laptop, eve):
        watcher.watch("bob/self/presence", "bob/self/profile")
    for watcher in (carol, laptop):
        watcher.wait_at("bob/self/profile", name="Bob")
        seen = watcher.wait_at("bob/self/presence", state="online")
    told = {watcher: len([t for t, _ in watcher.documents() if t.startswith("bob/self/pr")]) for watcher in (carol, laptop)}
    bob.sent("eve", "now you are one")
    eve.wait_at("bob/self/profile", name="Bob")
    assert eve.wait_at("bob/self/presence", state="online") == seen, "as it was said"
    for watcher in (carol, laptop):
        friends.mark(watcher)
        assert len([t for t, _ in watcher.documents() if t.startswith("bob/self/pr")]) == told[watcher]


def test_the_presence_of_another_device_is_not_ones_own_to_say(friends):
    phone = friends.device("bob", "phone")
    answer = phone.publish_to("bob/self/presence/laptop", {"state": "offline", "conn": "x"}, retain=True)
    if answer == "taken":
        phone.error("FORBIDDEN")
