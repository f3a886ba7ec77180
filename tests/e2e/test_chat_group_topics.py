"""Groups whose members read on the topics of the group (`groups.delivery = "topic"`): they do, and nobody else does."""

import json
import threading

import pytest
from chat_clients import EMBEDDED, holds
from harness import run
from test_chat_groups import make_group

TOPICS = '\n[groups]\ndelivery = "topic"\n'
# Written while the bridge is killed.
MESSAGES = 40


@pytest.fixture
def chat(make_chat):
    return make_chat(EMBEDDED, extra=TOPICS)


def messages(group: str) -> str:
    return f"{group}/others/messages"


def got(device, group: str, **fields) -> dict:
    """Waits for a document on the group's topic with these values."""
    found = lambda: [one for one in device.at(messages(group)) if holds(one, fields)]  # noqa: E731
    device.wait(found, f"{fields} at {messages(group)}")
    return found()[0]


def sent(device, group: str, body: str) -> str:
    """A message whose stamped copy came. Yields its sid."""
    return got(device, group, id=device.send(group, body))["sid"]


def said(device, group: str) -> list[str]:
    return [one.get("event") or one["body"] for one in device.at(messages(group))]


def nothing_of(device, group: str) -> bool:
    """Whether nothing that arrived is of a group, whatever its topic."""
    of_group = [topic for topic, body in device.documents() if topic.startswith("g-") or isinstance(body, dict) and body.get("group") == group]
    return not of_group


@pytest.mark.behaviour(50)
def test_members_read_a_group_on_its_topic_and_all_else_is_as_with_inboxes(chat):
    phone, laptop = chat.device("alice", "phone"), chat.device("alice", "laptop")
    group = make_group(chat, phone, "bob", "carol", name="Team")
    chat.register("carol", "phone", "carols-token")
    bob = chat.device("bob", "web")
    bob.look()
    message = phone.send(group, "hello all")
    sid = got(phone, group, id=message)["sid"]
    for device in [laptop, bob]:
        copy = got(device, group, body="hello all")
        assert (copy["sid"], copy["from"], copy["group"], copy["to"]) == (sid, "alice", group, group)
    phone.wait_statuses(message, ["sent", "delivered"])
    assert phone.on("receipts", sid=sid, status="delivered")[0]["by"] == "bob"
    push = chat.wait_push("carols-token", type="message")
    assert (push["with"], push["by"], push["sid"], push["title"]) == (group, "alice", sid, "Team: alice")
    # In the spec's spelling a member writes where it reads.
    assert bob.publish_to(messages(group), {"id": "m1", "body": "in the spec's words"}) == "taken"
    got(phone, group, body="in the spec's words", **{"from": "bob"})
    carol = chat.device("carol", "phone")
    assert sid in [item["sid"] for item in carol.told("sync")["items"]]
    carol.read(group, sid)
    assert carol.wait_for("read", sid=sid)["unread"] == 1
    phone.wait(lambda: {r["by"] for r in phone.on("receipts", sid=sid, status="read")} == {"bob", "carol"}, "the reads")
    phone.send(group, None, type="retract", ref=sid)
    got(bob, group, type="retract", ref=sid)
    chat.mark(phone, laptop, bob, carol)
    for device in [phone, laptop, bob, carol]:
        sids = [one["sid"] for one in device.at(messages(group))]
        assert len(set(sids)) == len(sids), f"{device.user}: once each"
        assert not device.on("messages", group=group)
    places = [one["n"] for one in bob.at(messages(group)) if "n" in one]
    assert places == list(range(places[0], places[0] + len(places)))


@pytest.mark.behaviour(51)
@pytest.mark.behaviour(52)
def test_who_is_in_the_group_at_that_moment_reads_it_whatever_was_subscribed_to(chat):
    alice = chat.device("alice")
    group = make_group(chat, alice, "bob", name="Team")
    for user in ["carol", "eve"]:
        chat.write(user, "alice", "hi")
    carol, eve = chat.device("carol"), chat.device("eve")
    asleep = chat.device("carol", "tablet", kept=True)
    asleep.close()
    for device in [carol, eve]:
        device.watch("#", "+/others/#", f"{group}/others/#", messages(group))
    for shared in ["$share/x/#", f"$share/x/{messages(group)}", "$share/x/+/others/messages", "$member/#"]:
        assert not eve.subscribe(shared), shared
    bal = chat.bal
    bal.watch("#")
    assert not bal.subscribe(messages(group))
    sent(alice, group, "for two")
    chat.mark(carol, eve)
    assert nothing_of(carol, group) and nothing_of(eve, group)

    # Who is put in reads without connecting again, and is told how the group is.
    alice.told("group.add", group=group, members=["carol"])
    got(carol, group, event="added")
    listed = carol.wait_at(f"{group}/others/members", version=2)
    assert [(item["user"], item["role"]) for item in listed["items"]] == [
        ("alice", "owner"), ("bob", "member"), ("carol", "member"),
    ]  # fmt: skip
    assert carol.wait_at(f"{group}/others/profile")["name"] == "Team"
    sent(alice, group, "for three")
    got(carol, group, body="for three")

    # Who is taken out has the notice as the last, also on the device that slept.
    alice.told("group.remove", group=group, members=["carol"])
    sent(alice, group, "for two again")
    alice.told("group.rename", group=group, name="Two")
    chat.mark(carol, eve)
    assert said(carol, group) == ["added", "for three", "removed"]
    assert [one["version"] for one in carol.at(f"{group}/others/members")] == [2]
    assert [one["name"] for one in carol.at(f"{group}/others/profile")] == ["Team"]
    awake = chat.device("carol", "tablet", kept=True)
    got(awake, group, event="removed")
    chat.mark(awake)
    assert said(awake, group) == ["added", "for three", "removed"]
    message = carol.send(group, "let me in")
    carol.error("NOT_MEMBER", ref=message)
    carol.watch(f"{group}/others/members", f"{group}/others/profile")
    chat.mark(carol, eve)
    assert len(carol.at(f"{group}/others/members")) == 1
    assert nothing_of(eve, group) and nothing_of(bal, group)


def test_whoever_subscribes_is_told_at_once_who_is_in_the_group_and_how_it_is_set(chat):
    alice = chat.device("alice")
    group = make_group(chat, alice, "bob", name="Team", topic="all of it")
    state = [f"{group}/others/members", f"{group}/others/profile"]
    for kept in [False, True]:
        bob = chat.device("bob", f"kept-{kept}", kept=kept)
        bob.watch(*state)
        profile = bob.wait_at(state[1])
        assert (profile["group"], profile["name"], profile["topic"], profile["post"]) == (group, "Team", "all of it", "all")
        members = bob.wait_at(state[0])
        assert (members["members"], members["complete"]) == (2, True)
        assert [item["user"] for item in members["items"]] == ["alice", "bob"]
        assert {packet.topic for packet in bob.packets if packet.retain} == set(state)
    alice.told("group.rename", group=group, name="Other")
    for bob in [client for client in chat.clients if client.user == "bob"]:
        assert bob.wait_at(state[1], name="Other")["version"] == 2
        assert not [packet for packet in bob.packets if packet.retain and b"Other" in packet.payload]
    # A device that was away has the last of it, once.
    bob.close()
    for name in ["Third", "Fourth"]:
        alice.told("group.rename", group=group, name=name)
    again = chat.device("bob", "kept-True", kept=True)
    again.wait_at(state[1], name="Fourth")
    chat.mark(again)
    assert [one["name"] for one in again.at(state[1])] == ["Fourth"]


def test_where_devices_subscribe_themselves_they_read_what_they_have_subscribed_to(make_chat):
    chat = make_chat(EMBEDDED, extra=TOPICS, broker_more="autosubscribe = false")
    alice, bob, deaf = [chat.device(user, dev) for user, dev in [("alice", "phone"), ("bob", "web"), ("bob", "tv")]]
    for device in [alice, bob, deaf]:
        device.watch(f"{device.user}/others/+", f"{device.user}/others/replies/{device.dev}")
    bob.send("alice", "hi")
    alice.got("hi")
    group = alice.told("group.create", members=["bob"])["group"]
    alice.watch(messages(group))
    bob.watch(messages(group))
    sent(alice, group, "hello")
    got(bob, group, body="hello")
    chat.mark(deaf)
    assert nothing_of(deaf, group)


@pytest.mark.behaviour(51)
def test_a_kill_in_the_middle_loses_nothing_and_repeats_nothing_without_a_mark(chat):
    alice = chat.device("alice", "phone", kept=True)
    group = make_group(chat, alice, "bob", "carol", name="Team")
    web, asleep = chat.device("bob", "web", kept=True), chat.device("bob", "phone", kept=True)
    gone = chat.device("carol", "phone", kept=True)
    chat.mark(web, asleep, gone)
    asleep.close()
    alice.told("group.remove", group=group, members=["carol"])
    got(gone, group, event="removed")
    gone.close()
    bodies = [f"number {n}" for n in range(MESSAGES)]
    packets, killed = [], threading.Event()
    for number, body in enumerate(bodies):
        packets.append(alice.begin("alice/self/messages", {"id": f"m{number}", "to": group, "body": body}))
        if number == MESSAGES // 2:
            chat.restart()
            killed.set()
    for packet in packets:
        assert alice.end(packet) == "taken"
    awake = chat.device("bob", "phone", kept=True)
    for device in [web, awake, alice]:
        got(device, group, body=bodies[-1])
    chat.mark(web, awake, alice)
    for device in [web, awake, alice]:
        of_group = [(p, json.loads(p.payload)) for p in device.packets if p.topic == messages(group)]
        unmarked = [d["body"] for p, d in of_group if d.get("body") in bodies and not (p.dup or d.get("redelivered"))]
        all_of_them = [d["body"] for _, d in of_group if d.get("body") in bodies]
        assert set(all_of_them) == set(bodies), device.dev
        assert len(set(unmarked)) == len(unmarked), device.dev
        first = list(dict.fromkeys(all_of_them))
        assert first == bodies, f"{device.user}:{device.dev}: in order"
    assert killed.is_set()
    back = chat.device("carol", "phone", kept=True)
    chat.mark(back)
    assert not [body for body in said(back, group) if body in bodies], "she is out"


def test_a_switch_back_brings_what_waits_over_the_inboxes(make_chat):
    chat = make_chat(EMBEDDED, extra=TOPICS)
    alice = chat.device("alice")
    group = make_group(chat, alice, "bob")
    asleep = chat.device("bob", "phone", kept=True)
    chat.mark(asleep)
    asleep.close()
    sid = sent(alice, group, "before")
    assert chat.bridge.stop() == 0
    config = chat.bridge.config
    config.write_text(config.read_text().replace('delivery = "topic"', 'delivery = "inbox"'))
    chat.start()
    bob = chat.device("bob", "phone", kept=True)
    assert bob.got("before")["sid"] == sid
    alice = chat.device("alice", "laptop")
    alice.sent(group, "after")
    bob.got("after")
    chat.mark(bob)
    assert [m["body"] for m in bob.on("messages", group=group)] == ["before", "after"]
    assert not alice.subscribe(messages(group)) and not bob.at(messages(group))


def test_a_broker_of_others_is_refused(tmp_path):
    config = tmp_path / "bridge.toml"
    config.write_text(
        '[ccs]\nsender_id = "1"\napi_key = "k"\n[mqtt]\nbroker = "external"\n[groups]\ndelivery = "topic"\n'
    )
    refused = run("check-config", "--config", str(config))
    assert refused.returncode != 0 and "groups.delivery" in refused.stderr and "embedded broker" in refused.stderr
