"""Which phones are pushed for a message, and which are not: a push exactly when nobody is looking."""

import time

import pytest
from chat import ANSWER_SECONDS, MINUTE, on_both_brokers
from chat_clients import EMBEDDED
from harness import PATIENCE, eventually

BEHAVIOURS = {
    20: "offline, attended, silent, inactive", 21: "a hidden tab", 22: "push handlers", 23: "`push` and mute",
    24: "one attended device of three", 25: "withdrawn pushes", 26: "`clear`",
    36: "slow and faulty push services", 41: "a restart while an answer is awaited", 42: "a laptop that reconnects by itself",
}  # fmt: skip
TOKEN = "bobs-token"


@pytest.fixture
def asleep(chat):
    """alice and bob know each other; bob's phone has registered and sleeps."""
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", TOKEN)
    return chat


def attended(chat, dev="laptop", **options):
    """A device of bob that somebody looks at."""
    device = chat.device("bob", dev, **options)
    device.look()
    return device


@pytest.mark.behaviour(20)
@on_both_brokers
def test_a_phone_that_sleeps_is_pushed_once_and_one_without_a_token_is_not(asleep):
    asleep.befriend("alice", "carol")
    with asleep.visit("carol", "phone"):
        pass
    alice = asleep.device("alice")
    sid = alice.sent("bob", "wake up")
    assert alice.stamped(alice.send("carol", "nobody to push"))["sid"]
    assert asleep.pushed_sids(TOKEN) == [sid]
    assert not [push for push in asleep.pushes(TOKEN) if push["account"] != "bob"]


@pytest.mark.behaviour(20)
@on_both_brokers
def test_a_device_that_is_looked_at_and_answers_spares_the_phone(asleep):
    laptop, alice = attended(asleep), asleep.device("alice")
    message = alice.send("bob", "on the screen")
    laptop.got("on the screen")
    alice.wait_statuses(message, ["sent", "delivered"])
    assert asleep.pushed_sids(TOKEN) == []


@pytest.mark.long(15)
@pytest.mark.behaviour(20)
@on_both_brokers
def test_the_phone_is_pushed_when_a_device_that_was_looked_at_says_nothing_for_15_seconds(asleep):
    laptop, alice = attended(asleep, silent=True), asleep.device("alice")
    began = time.monotonic()
    sids = [alice.sent("bob", text) for text in ["one", "two"]]
    laptop.got("two")
    assert asleep.pushed_sids(TOKEN) == []
    asleep.wait_push(TOKEN, ANSWER_SECONDS + PATIENCE, sid=sids[1])
    assert time.monotonic() - began >= ANSWER_SECONDS - 1
    # The clock was that of the oldest; and until it answers, the device is not taken as looked at.
    sids.append(alice.sent("bob", "three"))
    assert asleep.pushed_sids(TOKEN) == sids
    # All of it has come, and is confirmed: it counts again.
    laptop.got("three")
    laptop.acknowledge()
    laptop.look()
    alice.wait(lambda: "delivered" in alice.statuses(sids[2]), "delivered")
    alice.sent("bob", "four")
    assert asleep.pushed_sids(TOKEN) == sids


@pytest.mark.behaviour(20, 21)
@on_both_brokers
def test_a_hidden_tab_gets_the_message_and_the_phone_is_pushed_for_it(asleep):
    tab, alice = asleep.device("bob", "tab"), asleep.device("alice")
    tab.look()
    tab.look_away()
    sid = alice.sent("bob", "behind the tab")
    assert tab.got("behind the tab")["sid"] == sid
    assert asleep.pushed_sids(TOKEN) == [sid]


@pytest.mark.behaviour(20)
def test_an_inactive_phone_with_a_token_gets_both(asleep):
    phone, alice = asleep.device("bob", "phone"), asleep.device("alice")
    phone.look_away()
    sid = alice.sent("bob", "twice over")
    assert phone.got("twice over")["sid"] == sid
    assert asleep.pushed_sids(TOKEN) == [sid]


@pytest.mark.behaviour(22)
@on_both_brokers
def test_a_push_handler_changes_no_presence_and_no_decision(asleep):
    alice = asleep.device("alice").watch("bob/self/presence")
    alice.wait_at("bob/self/presence", state="offline")
    before = len(alice.at("bob/self/presence"))
    first = alice.sent("bob", "first")
    asleep.wait_push(TOKEN, sid=first)
    handler = asleep.background("bob")
    handler.confirm(first)
    alice.wait_statuses(first, ["sent", "delivered"])
    # It is still connected.
    second = alice.sent("bob", "second")
    assert asleep.pushed_sids(TOKEN) == [first, second]
    assert "online" not in [document["state"] for document in alice.at("bob/self/presence")[before:]]
    assert handler.connected() and not handler.documents()


@pytest.mark.behaviour(22)
def test_a_push_handler_takes_over_nothing_and_only_publishes(asleep):
    phone = asleep.device("bob", "phone")
    handler = asleep.background("bob")
    for topic_filter in ["bob/others/+", "bob/others/messages", "#", "_bridge/status"]:
        assert not handler.subscribe(topic_filter), topic_filter
    asleep.mark(phone)
    assert phone.connected() and phone.connections == 1 and not handler.documents()


@pytest.mark.behaviour(23)
def test_push_never_silent_and_always_are_what_they_say(asleep):
    alice = asleep.device("alice")
    alice.sent("bob", "in the drawer", push="never")
    silent = alice.sent("bob", "on tiptoe", push="silent")
    push = asleep.wait_push(TOKEN, sid=silent)
    assert push["unread"] == "2", "what is not pushed counts all the same"
    laptop = attended(asleep)
    always = alice.sent("bob", "through the wall", push="always")
    alice.sent("bob", "as usual")
    laptop.got("as usual")
    assert asleep.pushed_sids(TOKEN) == [silent, always]
    [record] = [record for record in asleep.records(TOKEN) if record["data"].get("sid") == silent]
    assert record["notification"] is None


@pytest.mark.behaviour(23)
def test_a_reaction_is_pushed_only_where_its_writer_insists(asleep):
    alice = asleep.device("alice")
    first = alice.sent("bob", "a joke")
    alice.sent("bob", "+1", type="reaction", ref=first)
    loud = alice.sent("bob", "+1!", type="reaction", ref=first, push="always")
    assert asleep.pushed_sids(TOKEN) == [first, loud]


@pytest.mark.behaviour(23)
def test_a_mute_ends_by_the_clock_of_the_server_and_all_devices_know_of_it(asleep):
    alice, laptop, tablet = asleep.device("alice"), asleep.device("bob", "laptop"), asleep.device("bob", "tablet")
    asked = time.time()
    until = laptop.told("mute", **{"with": "alice", "level": "none", "for": 3})["until"]
    assert abs(until / 1000 - asked - 3) < 2
    assert tablet.wait_for("changes", op="mute")["with"] == "alice"
    alice.sent("bob", "quiet")
    laptop.got("quiet")
    assert asleep.pushed_sids(TOKEN) == []
    eventually(lambda: time.time() * 1000 > until + 500, "the mute is over")
    loud = alice.sent("bob", "loud")
    asleep.wait_push(TOKEN, sid=loud)
    assert asleep.pushed_sids(TOKEN) == [loud]


DEVICES = ["phone", "tablet", "watch"]


@pytest.mark.behaviour(24)
@pytest.mark.parametrize("setting, pushed", [("", 0), ('push_when = "per_device"', 2), ('push_when = "always"', 3)])
def test_of_three_tokens_with_one_device_that_is_looked_at(make_chat, setting, pushed):
    chat = make_chat(EMBEDDED, setting)
    chat.befriend("alice", "bob")
    for dev in DEVICES:
        chat.register("bob", dev, f"token-{dev}")
    phone, alice = chat.device("bob", "phone"), chat.device("alice")
    phone.look()
    sid = alice.sent("bob", "hi")
    phone.got("hi")
    pushes = chat.pushed(*(f"token-{dev}" for dev in DEVICES))
    assert [len(one) for one in pushes] == {0: [0, 0, 0], 2: [0, 1, 1], 3: [1, 1, 1]}[pushed]
    assert {push["sid"] for one in pushes for push in one} <= {sid}


@pytest.mark.behaviour(25)
@pytest.mark.parametrize("looked_at", [True, False], ids=["looked at", "hidden"])
@on_both_brokers
def test_a_push_that_waits_is_withdrawn_when_a_device_that_is_looked_at_confirms(asleep, looked_at):
    alice = asleep.device("alice")
    # The push service is away: what is decided waits.
    asleep.sim.stop()
    sid = alice.sent("bob", "too late?")
    laptop = asleep.device("bob", "laptop")
    laptop.look() if looked_at else laptop.look_away()
    laptop.confirm(sid)
    alice.wait_statuses(sid, ["sent", "delivered"])
    asleep.sim.start()
    asleep.sim.set_device(TOKEN, receipts=False)
    asleep.bridge.wait_ready()
    assert asleep.pushed_sids(TOKEN) == ([] if looked_at else [sid])


@pytest.mark.behaviour(25)
def test_a_push_that_waits_is_withdrawn_when_the_message_is_read(asleep):
    alice = asleep.device("alice")
    asleep.sim.stop()
    sid = alice.sent("bob", "read at once")
    asleep.device("bob", "laptop").read("alice", sid)
    alice.wait(lambda: "read" in alice.statuses(sid), "read")
    asleep.sim.start()
    asleep.sim.set_device(TOKEN, receipts=False)
    asleep.bridge.wait_ready()
    assert asleep.pushed(TOKEN) == [[]], "neither the message nor a clear"


@pytest.mark.behaviour(26)
@on_both_brokers
def test_exactly_the_device_that_was_pushed_is_cleared_when_another_one_reads(asleep):
    alice = asleep.device("alice")
    sid = alice.sent("bob", "on one of three")
    asleep.wait_push(TOKEN, sid=sid)
    # These two came later.
    asleep.register("bob", "tablet", "token-tablet")
    with asleep.visit("bob", "laptop") as laptop:
        laptop.register("token-laptop")
        laptop.read("alice", sid)
        laptop.wait_for("read", sid=sid)
    clear = asleep.wait_push(TOKEN, type="clear")
    assert (clear["account"], clear["with"], clear["sid"], clear["unread"]) == ("bob", "alice", sid, "0")
    assert not {"title", "body"} & clear.keys()
    pushed = asleep.pushed(TOKEN, "token-tablet", "token-laptop")
    assert [[push["type"] for push in one] for one in pushed] == [["message", "clear"], [], []]


@pytest.mark.behaviour(26)
def test_the_device_that_reads_is_not_cleared_and_neither_is_one_that_is_connected(asleep):
    alice = asleep.device("alice")
    asleep.register("bob", "tablet", "token-tablet")
    sid = alice.sent("bob", "on two")
    for token in [TOKEN, "token-tablet"]:
        asleep.wait_push(token, sid=sid)
    tablet, phone = asleep.device("bob", "tablet"), asleep.device("bob", "phone")
    phone.read("alice", sid)
    tablet.wait_for("read", sid=sid)
    pushed = asleep.pushed(TOKEN, "token-tablet")
    assert [[push["type"] for push in one] for one in pushed] == [["message"], ["message"]]


@pytest.mark.behaviour(36)
def test_a_slow_push_service_holds_up_no_delivery_by_mqtt(asleep):
    asleep.sim.faults(latency_ms=5000)
    tab, alice = asleep.device("bob", "tab"), asleep.device("alice")
    tab.look_away()
    for n in range(10):
        began = time.monotonic()
        alice.send("bob", f"number {n}")
        tab.got(f"number {n}")
        assert time.monotonic() - began < 2.5, "less than one answer of the push service takes"


@pytest.mark.behaviour(36)
def test_a_fault_on_one_device_changes_nothing_for_the_others(asleep):
    asleep.register("bob", "tablet", "token-tablet")
    asleep.sim.set_device(TOKEN, refuse={"code": "SERVICE_UNAVAILABLE", "times": 3})
    tab, alice = asleep.device("bob", "tab"), asleep.device("alice")
    tab.look_away()
    sids = [alice.sent("bob", f"number {n}") for n in range(3)]
    tab.got("number 2")
    for sid in sids:
        asleep.wait_push("token-tablet", sid=sid)
        asleep.wait_push(TOKEN, sid=sid)
    assert [push["sid"] for push in asleep.pushes(TOKEN)] == sids, "each once, in order"


@pytest.mark.behaviour(41)
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_a_restart_while_an_answer_is_awaited_ends_in_one_push(asleep, kill):
    laptop, alice = attended(asleep, silent=True), asleep.device("alice", kept=True)
    sid = alice.sent("bob", "in between")
    laptop.got("in between")
    if kill:
        asleep.bridge.kill9()
    else:
        assert asleep.bridge.stop() == 0
    laptop.vanish()
    asleep.start()
    asleep.wait_push(TOKEN, sid=sid)
    assert asleep.pushed_sids(TOKEN) == [sid]


@pytest.mark.behaviour(41)
def test_a_restart_while_an_answer_is_awaited_ends_in_no_push_if_the_answer_comes(make_chat):
    # Long enough for one of two laptops to come back.
    chat = make_chat(EMBEDDED, grace=5)
    alice, laptops = chat.device("alice", kept=True), {}
    for user in ["bob", "dave"]:
        chat.befriend("alice", user)
        chat.register(user, "phone", f"token-{user}")
        laptops[user] = chat.device(user, "laptop", silent=True, kept=True)
        laptops[user].look()
    sids = {user: alice.sent(user, "in between") for user in laptops}
    for laptop in laptops.values():
        laptop.got("in between")
    # The bridge knows of no end of a connection.
    chat.bridge.kill9()
    for laptop in laptops.values():
        laptop.vanish()
    chat.start()
    chat.device("bob", "laptop", kept=True).confirm(sids["bob"])
    alice.wait(lambda: "delivered" in alice.statuses(sids["bob"]), "delivered")
    # It is decided once more for both at the same time.
    chat.wait_push("token-dave", sid=sids["dave"])
    assert chat.pushed_sids("token-bob") == []


@pytest.mark.long(61)
@pytest.mark.behaviour(42)
def test_a_laptop_that_reconnects_by_itself_does_not_silence_the_phone_until_somebody_reads(make_chat):
    chat = make_chat(EMBEDDED, "attended_minutes = 1")
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", TOKEN)
    alice, pushed = chat.device("alice"), []
    for turn in range(3):
        laptop = chat.device("bob", "laptop", kept=True)
        message = alice.send("bob", f"turn {turn}")
        laptop.got(f"turn {turn}")
        alice.wait_statuses(message, ["sent", "delivered"])
        pushed.append(alice.stamped(message)["sid"])
        assert chat.pushed_sids(TOKEN) == pushed
        laptop.vanish()
    laptop = chat.device("bob", "laptop", kept=True)
    laptop.read("alice", pushed[-1])
    laptop.wait_for("read", sid=pushed[-1])
    began = time.monotonic()
    alice.sent("bob", "seen")
    laptop.got("seen")
    assert chat.pushed_sids(TOKEN) == pushed
    # It stays connected and confirms, and nobody touches it.
    eventually(lambda: time.monotonic() - began > MINUTE + 1, "the minute is over", 2 * MINUTE)
    pushed.append(alice.sent("bob", "not seen"))
    laptop.got("not seen")
    assert chat.pushed_sids(TOKEN) == pushed
