"""What is in a push: for each format and platform, within the size and the rate that the push services take."""

import json

import pytest
from chat import MINUTE
from chat_clients import EMBEDDED
from harness import eventually

BEHAVIOURS = {27: "the forms of a push", 28: "200 messages to one sleeping device", 32: "`explain` and `test_push`"}
TOKEN = "bobs-token"
PUSH_BYTES = 4096
KEYS = {"type", "account", "with", "by", "sid", "title", "body", "cut", "ts", "unread", "mid", "ack"}


def is_refused_by_a_push_service(key: str) -> bool:
    return key in ("from", "to", "message_type", "notification", "collapse_key") or key.startswith(("google", "gcm"))


def check_form(push: dict):
    """What holds of every push."""
    assert all(isinstance(value, str) for value in push.values()), push
    assert push["account"] == "bob"
    assert not [key for key in push if is_refused_by_a_push_service(key)] and push.keys() <= KEYS, push
    assert sum(len(key.encode()) + len(value.encode()) for key, value in push.items()) <= PUSH_BYTES


@pytest.fixture
def pair(chat):
    chat.befriend("alice", "bob")
    with chat.visit("alice") as alice:
        alice.publish("profile", {"name": "Alice"}, retain=True)
        alice.told("settings")
    return chat


@pytest.mark.behaviour(27)
@pytest.mark.parametrize("platform", ["android", "ios", "web"])
def test_a_full_push_has_title_and_text_and_on_ios_shows_them(pair, platform):
    pair.register("bob", "phone", TOKEN, platform=platform, format="full")
    alice = pair.device("alice")
    sid = alice.sent("bob", "a line of text")
    push = pair.wait_push(TOKEN, type="message")
    check_form(push)
    assert (push["with"], push["sid"], push["title"], push["body"]) == ("alice", sid, "Alice", "a line of text")
    [record] = [one for one in pair.records(TOKEN) if one["data"].get("sid") == sid]
    if platform == "ios":
        assert (record["notification"]["title"], record["notification"]["body"]) == ("Alice", "a line of text")
    else:
        assert record["notification"] is None
    assert pair.sim.stats()["nacks"] == {}


@pytest.mark.behaviour(27)
@pytest.mark.parametrize("platform", ["android", "ios"])
def test_a_push_by_id_has_nothing_of_the_text_nor_has_anything_else_that_leaves(pair, platform):
    pair.register("bob", "phone", TOKEN, platform=platform, format="id", lang="en")
    pair.register("bob", "tablet", "doorbell-token", platform=platform, format="doorbell")
    alice = pair.device("alice")
    sid = alice.sent("bob", "the-secret-text", data={"also": "the-secret-text"})
    push = pair.wait_push(TOKEN, type="message")
    check_form(push)
    assert (push["with"], push["sid"]) == ("alice", sid) and not {"title", "body"} & push.keys()
    bell = pair.wait_push("doorbell-token", type="sync")
    check_form(bell)
    assert bell.keys() - {"mid", "ack"} == {"type", "account", "unread"}
    pair.device("bob", "web").read("alice", sid)
    pair.wait_push(TOKEN, type="clear")
    everything = json.dumps(pair.records(TOKEN) + pair.records("doorbell-token"))
    assert "the-secret-text" not in everything and "Alice" not in everything
    if platform == "ios":
        [shown] = [one["notification"] for one in pair.records(TOKEN) if one["data"].get("sid") == sid and one["data"]["type"] == "message"]
        assert shown.get("title") or shown.get("body"), "a fixed text in the language of the device"


@pytest.mark.behaviour(27)
def test_doorbells_for_a_phone_that_is_away_replace_each_other(pair):
    pair.register("bob", "phone", TOKEN, format="doorbell")
    pair.sim.set_device(TOKEN, state="offline")
    alice = pair.device("alice")
    for n in range(3):
        alice.sent("bob", f"number {n}")
    eventually(lambda: pair.sim.stats()["acks"] == 3, "the push service has taken all three")
    pair.sim.set_device(TOKEN, state="online")
    last = pair.wait_push(TOKEN, type="sync")
    assert pair.pushes(TOKEN) == [last] and last["unread"] == "3"


@pytest.mark.behaviour(27)
@pytest.mark.parametrize("letter", ["a", "é", "€", "😀", '"'])
def test_a_long_text_is_cut_on_the_border_of_a_character_and_says_so(pair, letter):
    pair.register("bob", "phone", TOKEN)
    alice = pair.device("alice")
    short = alice.sent("bob", letter * 10)
    long = alice.sent("bob", "." + letter * 16_000)
    assert pair.wait_push(TOKEN, sid=short)["body"] == letter * 10
    push = pair.wait_push(TOKEN, sid=long)
    check_form(push)
    body = push["body"]
    assert push["cut"] == "1" and 100 < len(body) < 16_000 and ("." + letter * 16_000).startswith(body)
    assert "cut" not in pair.wait_push(TOKEN, sid=short)
    assert pair.sim.stats()["nacks"] == {}


@pytest.mark.behaviour(27)
def test_a_stranger_cannot_pass_for_somebody_else_by_a_name(chat):
    chat.register("bob", "phone", TOKEN)
    with chat.visit("eve") as eve:
        # With a character that turns the direction of the text.
        eve.publish("profile", {"name": "Alice\u202eecila"}, retain=True)
        eve.told("settings")
        sid = eve.sent("bob", "it is me")
    push = chat.wait_push(TOKEN, sid=sid)
    check_form(push)
    assert push["title"] == "Aliceecila (eve)"


@pytest.mark.behaviour(28)
def test_200_messages_to_one_sleeping_phone_keep_to_the_limits_and_the_last_push_says_how_many(pair):
    pair.register("bob", "phone", TOKEN)
    pair.sim.set_device(TOKEN, state="offline")
    alice = pair.device("alice")
    sids = [alice.stamped(message)["sid"] for message in [alice.send("bob", f"number {n}") for n in range(200)]]
    # It is left out for three minutes at most.
    pair.later(4 * MINUTE)
    # What it had kept for the phone comes at once when that wakes up; at more than 100 everything would be dropped.
    pair.sim.set_device(TOKEN, state="online")
    last = pair.wait_push(TOKEN, type="sync", unread="200")
    check_form(last)
    pushes = pair.pushes(TOKEN)
    assert pushes[-1] == last
    assert [push["sid"] for push in pushes if push["type"] == "message"] == sids[:50]
    # They replace each other while the phone is away; the last one may find it awake.
    assert [push["type"] for push in pushes[50:]] in (["sync"], ["sync", "sync"])
    assert pair.sim.stats()["nacks"] == {}
    bob = pair.device("bob", "phone")
    assert [item["sid"] for item in everything_since(bob, sids[0])] == sids[1:], "nothing is lost"


def everything_since(device, sid: str) -> list[dict]:
    """The answers to `sync`, page by page."""
    items, complete = [], False
    while not complete:
        answer = device.told("sync", since=sid)
        items += answer["items"]
        complete, sid = answer["complete"], answer.get("next")
    return items


@pytest.mark.behaviour(32)
def test_explain_names_the_rule_for_each_device(make_chat):
    chat = make_chat(EMBEDDED)
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", TOKEN)
    tab, alice = chat.device("bob", "tab"), chat.device("alice")
    tab.look_away()

    def explained(sid: str) -> dict[str, dict]:
        answer = tab.told("explain", sid=sid)
        return {item["dev"]: item for item in answer["items"]}

    sleeping = alice.sent("bob", "pushed")
    chat.wait_push(TOKEN, sid=sleeping)
    items = explained(sleeping)
    # 1: not wanted; 2: no token; 3: somebody looks; 4: nobody does.
    assert (items["phone"]["rule"], items["tab"]["rule"]) == (4, 2)
    unwanted = alice.sent("bob", "not pushed", push="never")
    assert explained(unwanted)["phone"]["rule"] == 1
    tab.look()
    seen = alice.sent("bob", "seen")
    alice.wait_statuses(seen, ["sent", "delivered"])
    assert explained(seen)["phone"]["rule"] == 3
    silent = alice.sent("bob", "on tiptoe", push="silent")
    alice.wait_statuses(silent, ["sent", "delivered"])
    assert explained(silent)["phone"]["rule"] == 3
    always = alice.sent("bob", "in any case", push="always")
    assert explained(always)["phone"]["rule"] == 4
    assert chat.pushed_sids(TOKEN) == [sleeping, always]
    # A request is about own devices only.
    about_hers = alice.ask("explain", sid=sleeping)
    assert not [item for item in about_hers.get("items", []) if item["dev"] in ("tab", "phone") and item.get("rule") == 4]


@pytest.mark.behaviour(32)
def test_a_push_to_try_goes_to_own_devices_whoever_looks_and_says_what_it_left_out(chat):
    chat.register("bob", "phone", TOKEN)
    laptop = chat.device("bob", "laptop")
    laptop.look()
    answer = laptop.told("test_push")
    [push] = eventually(lambda: chat.pushes(TOKEN), "the phone is pushed")
    check_form(push)
    # Somebody is looking, which would have spared the phone: that was not asked.
    assert answer["skipped"], answer
    assert laptop.ask("test_push")["code"] == "RATE_LIMITED", "one a minute"
