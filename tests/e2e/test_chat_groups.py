"""Groups: what their members get, who is pushed, and who is in one."""

import pytest
from chat import on_both_brokers
from chat_clients import EMBEDDED

BEHAVIOURS = {50: "a group with everybody away", 51: "changes of a roster", 52: "who is no member"}


def make_group(chat, owner, *members: str, **fields) -> str:
    """A group of users who have its owner as a contact."""
    for member in members:
        chat.write(member, owner.user, "hi")
    answer = owner.told("group.create", members=list(members), **fields)
    assert sorted(answer["members"]) == sorted(members), answer
    return answer["group"]


@pytest.mark.behaviour(50)
@on_both_brokers
def test_a_message_to_a_group_comes_to_every_device_by_mqtt_or_push(chat):
    phone, laptop = chat.device("alice", "phone"), chat.device("alice", "laptop")
    group = make_group(chat, phone, "bob", "carol", name="Team")
    chat.register("carol", "phone", "carols-token")
    bob = chat.device("bob", "web")
    bob.look()
    sid = phone.sent(group, "hello all")
    for device in [laptop, bob]:
        copy = device.got("hello all")
        assert (copy["sid"], copy["from"], copy["group"], copy["to"]) == (sid, "alice", group, group)
    phone.wait_statuses(sid, ["sent", "delivered"])
    assert phone.on("receipts", sid=sid, status="delivered")[0]["by"] == "bob"
    push = chat.wait_push("carols-token", type="message")
    assert (push["with"], push["by"], push["sid"], push["title"]) == (group, "alice", sid, "Team: alice")
    assert [one["sid"] for one in chat.pushed("carols-token")[0]] == [sid]

    phone.publish("chatstate", {"to": group, "state": "composing"}, qos=0)
    assert bob.wait_for("chatstate", group=group) == {"from": "alice", "state": "composing", "group": group}

    carol = chat.device("carol", "phone")
    assert sid in [item["sid"] for item in carol.told("sync")["items"]]
    carol.read(group, sid)
    assert carol.wait_for("read", sid=sid)["unread"] == 0
    phone.wait(lambda: {r["by"] for r in phone.on("receipts", sid=sid, status="read")} == {"carol"}, "her read")
    answer = carol.sent(group, "hello alice")
    for device in [phone, laptop, bob]:
        assert device.got("hello alice")["sid"] == answer
    places = [m["n"] for m in bob.on("messages", group=group)]
    assert places == list(range(places[0], places[0] + len(places)))


@pytest.mark.behaviour(50)
def test_of_a_group_of_fifty_with_nobody_there_everybody_is_pushed_once(make_chat):
    chat = make_chat(EMBEDDED)
    names = [f"member{n}" for n in range(49)]
    chat.roles |= dict.fromkeys(names, "user")
    for name in names:
        with chat.visit(name) as device:
            device.register(f"token-{name}")
            device.send("alice", "hi")
    alice = chat.device("alice")
    group = alice.told("group.create", members=names, name="Choir")["group"]
    sid = alice.sent(group, "rehearsal at eight")
    for pushes in chat.pushed(*(f"token-{name}" for name in names)):
        assert [(push["type"], push["with"], push["sid"]) for push in pushes] == [("message", group, sid)]


@pytest.mark.behaviour(51)
def test_who_is_removed_gets_the_notice_last_and_two_changes_at_once_are_two_versions(chat):
    alice = chat.device("alice")
    group = make_group(chat, alice, "bob")
    bob = chat.device("bob")
    chat.write("carol", "alice", "hi")
    asleep = chat.device("carol", "phone", kept=True)
    asleep.close()
    # Both are on their way before the first is answered.
    changes = [("group.add", {"members": ["carol"]}), ("group.rename", {"name": "Three"})]
    for number, (op, fields) in enumerate(changes):
        alice.begin("alice/self/requests/phone", {"id": f"c{number}", "op": op, "group": group, **fields})
    versions = [alice.wait_for("replies/phone", ref=f"c{number}")["version"] for number in range(2)]
    assert versions == [2, 3]
    bob.wait_for("messages", version=3)
    assert [m["event"] for m in bob.on("messages", type="notice")] == ["added", "changed"]
    shown = {item["with"]: item for item in bob.told("conversations")["items"]}[group]
    assert (shown["last"]["name"], "member" in shown) == ("Three", False)
    alice.sent(group, "for all three")
    alice.told("group.remove", group=group, members=["carol"])
    alice.sent(group, "for two")
    bob.got("for two")
    carol = chat.device("carol", "phone", kept=True)
    carol.wait_for("messages", event="removed")
    chat.mark(carol)
    of_group = [m.get("event") or m["body"] for m in carol.on("messages", group=group)]
    assert of_group == ["added", "changed", "for all three", "removed"]
    assert [m.get("event") or m["body"] for m in carol.told("sync")["items"] if m.get("group")] == of_group
    assert {item["with"]: item for item in carol.told("conversations")["items"]}[group]["member"] is False
    message = carol.send(group, "let me in")
    carol.error("NOT_MEMBER", ref=message)


@pytest.mark.behaviour(51)
@on_both_brokers
def test_who_comes_back_rebuilds_what_was_written_before_it_went(chat):
    alice = chat.device("alice")
    group = make_group(chat, alice, "bob", "carol")
    before = alice.sent(group, "before")
    alice.told("group.remove", group=group, members=["carol"])
    meanwhile = alice.sent(group, "meanwhile")
    alice.told("group.add", group=group, members=["carol"])
    alice.sent(group, "after")
    # A device that has nothing.
    carol = chat.device("carol", "new")
    found = [carol.told("history", **{"with": group}), carol.told("sync"), carol.told("sync", since="0" * 16)]
    for items in [[m for m in answer["items"] if m.get("group") == group] for answer in found]:
        assert [m.get("event") or m["body"] for m in items] == ["created", "before", "removed", "added", "after"]
        assert [m["n"] for m in items] == [1, 2, 3, 5, 6]
    shown = {item["with"]: item for item in carol.told("conversations")["items"]}[group]
    assert (shown["unread"], shown["last"]["body"], "member" in shown) == (1, "after", False)
    message = carol.send(group, "about the other one", reply_to=meanwhile)
    carol.error("NOT_FOUND", ref=message)
    carol.sent(group, "about that", reply_to=before)
    assert alice.got("about that")["reply_to"] == before


@pytest.mark.behaviour(52)
def test_who_is_no_member_writes_nothing_and_subscribes_to_nothing(chat):
    alice = chat.device("alice")
    group = make_group(chat, alice, "bob")
    eve = chat.device("eve")
    message = eve.send(group, "hi")
    eve.error("NOT_MEMBER", ref=message)
    eve.wait_statuses(message, ["failed"])
    assert eve.ask("group.get", group=group)["code"] == "NOT_MEMBER"
    eve.subscribe(f"{group}/others/#")
    eve.subscribe("#")
    # The spec's spelling, by a member and by somebody else.
    bob = chat.device("bob")
    assert bob.publish_to(f"{group}/others/messages", {"id": "m1", "body": "in the spec's words"}) == "taken"
    assert alice.got("in the spec's words")["group"] == group
    eve.publish_to(f"{group}/others/messages", {"id": "m2", "body": "me too"})
    eve.error("NOT_MEMBER", ref="m2")
    bob.publish_to(f"{group}/others/messages", {"id": "m3", "to": "eve", "body": "to whom?"})
    bob.error("BAD_FIELD", ref="m3")
    chat.mark(eve, bob)
    assert not eve.on("messages", group=group) and not eve.at(f"{group}/others/messages")
    assert "me too" not in bob.bodies()


@pytest.mark.behaviour(51)
def test_who_has_the_owner_not_as_a_contact_is_invited_into_the_group(chat):
    alice, bob = chat.device("alice"), chat.device("bob")
    chat.introduce("bob")
    answer = alice.told("group.create", members=["bob"], name="Team")
    assert (answer["members"], answer["invited"]) == ([], ["bob"])
    invitation = bob.wait_for("invitations", type="request")
    assert (invitation["group"], invitation["group_name"]) == (answer["group"], "Team")
    bob.publish("invitations", {"to": "alice", "type": "accept", "ref": invitation["sid"]})
    assert alice.wait_for("messages", event="joined")["who"] == ["bob"]
    bob.sent(answer["group"], "here I am")
    assert alice.got("here I am")["group"] == answer["group"]
    roster = bob.told("group.get", group=answer["group"])
    assert {item["user"]: item["role"] for item in roster["items"]} == {"alice": "owner", "bob": "member"}
