"""Users and backend applications: over FCM HTTP v1 this is the way from the phone to the BAL."""

import pytest
import ways
from chat import on_both_brokers
from chat_clients import EMBEDDED, MOSQUITTO, Device
from harness import Sim, eventually, project

BEHAVIOURS = {37: "from the phone to the BAL and back", 40: "a token of a user in a BAL's name", 52: "a BAL that is no member"}


@pytest.fixture
def sim(tmp_path):
    sim = Sim(tmp_path / "sim", way=ways.FCM_V1)
    yield sim
    sim.close()


@pytest.fixture
def over_v1(make_chat, sim):
    """Makes a bridge that speaks FCM HTTP v1 and nothing else."""
    section = f'[transport]\ndefault = "fcm-v1"\n[fcm]\n{project(sim)}'
    return lambda kind, **options: make_chat(kind, back_door=section, **options)


@pytest.mark.behaviour(37)
@pytest.mark.parametrize("kind", [EMBEDDED, MOSQUITTO])
def test_a_message_of_a_user_reaches_the_bal_and_the_answer_all_his_devices(over_v1, kind):
    chat = over_v1(kind)
    chat.register("bob", "sleeping", "bobs-token")
    bal, phone, laptop = chat.bal, chat.device("bob", "phone"), chat.device("bob", "laptop")
    phone.look_away()
    data = {"order": 4711, "items": [{"n": 1}], "from": "the shop"}
    message = phone.send("bal1", "I want this", data=data)
    sid = phone.stamped(message)["sid"]
    came = bal.got("I want this")
    assert (came["id"], came["from"], came["dev"], came["data"]) == (sid, "bob", "phone", data)
    assert "token" not in came
    for device in [phone, laptop]:
        device.wait(lambda d=device: "delivered" in d.statuses(message), "delivered")
    answer = bal.send("bob", "You have it", data={"order": [4711]})
    for device in [phone, laptop]:
        document = device.got("You have it")
        assert (document["from"], document["to"], document["data"]) == ("bal1", "bob", {"order": [4711]})
    bal.wait(lambda: {"accepted", "delivered"} <= set(bal.statuses(answer)), "the BAL hears of it")
    laptop.read("bal1", laptop.got("You have it")["sid"])
    bal.wait(lambda: "read" in bal.statuses(answer), "read")
    assert not bal.on("messages", **{"from": "bal1"})


@pytest.mark.behaviour(37)
def test_a_push_for_a_message_of_a_bal_is_that_of_a_message_of_a_user(over_v1):
    chat = over_v1(EMBEDDED)
    chat.register("bob", "phone", "bobs-token")
    chat.bal.send("bob", "Your order is on its way")
    [record] = eventually(lambda: chat.records("bobs-token"), "the phone is pushed")
    push = record["data"]
    assert (push["type"], push["account"], push["with"], push["body"]) == ("message", "bob", "bal1", "Your order is on its way")


@pytest.mark.parametrize("field", ["token", "topic", "condition", "notification", "collapse", "fcm"])
def test_a_message_of_a_bal_is_for_a_user_or_for_a_phone_and_not_for_both(chat, field):
    value = {"notification": {"title": "t"}, "fcm": {"content_available": True}}.get(field, "x")
    bob = chat.device("bob")
    message = chat.bal.send("bob", "mixed", **{field: value})
    chat.bal.error("BAD_FIELD", ref=message)
    chat.bal.wait_statuses(message, ["failed"])
    chat.mark(bob)
    assert bob.bodies() == ["mark 1"]


def test_a_bal_still_pushes_to_a_token_that_belongs_to_no_user(chat):
    chat.bal.publish("messages", {"id": "p1", "token": "some-phone", "data": {"k": "v"}})
    chat.bal.wait(lambda: "delivered" in chat.bal.statuses("p1") or "sent" in chat.bal.statuses("p1"), "it is sent")
    assert [record["data"].get("k") for record in chat.records("some-phone")] == ["v"]


@pytest.mark.behaviour(11)
def test_block_holds_for_a_bal_too(chat):
    chat.register("bob", "phone", "bobs-token")
    bob = chat.device("bob", "laptop")
    bob.told("block", **{"with": "bal1"})
    message = chat.bal.send("bob", "an advertisement")
    chat.bal.wait(lambda: "sent" in chat.bal.statuses(message), "sent")
    alice = chat.device("alice")
    sid = alice.sent("bob", "behind it")
    bob.got("behind it")
    chat.wait_push("bobs-token", sid=sid)
    assert bob.bodies() == ["behind it"]
    assert [record["data"]["with"] for record in chat.records("bobs-token")] == ["alice"]
    assert set(chat.bal.statuses(message)) == {"accepted", "sent"}


def test_where_only_contacts_may_write_a_bal_may(make_chat):
    chat = make_chat(EMBEDDED, 'who_may_write = "contacts"')
    bob = chat.device("bob")
    message = chat.bal.send("bob", "a word of the house")
    bob.got("a word of the house")
    chat.bal.wait(lambda: "delivered" in chat.bal.statuses(message), "a BAL hears of it")


@pytest.mark.behaviour(40)
def test_the_token_of_a_user_in_the_name_of_a_bal_is_refused(chat):
    chat.roles = {**chat.roles, "bal1": "user"}
    client = chat.keep(Device(chat, "bal1", "phone")).connect()
    assert not client.connected()


def test_a_phone_sends_through_the_push_service_as_the_user_that_its_token_belongs_to(chat):
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", "bobs-token")
    alice, laptop = chat.device("alice"), chat.device("bob", "laptop")
    chat.sim.upstream("bobs-token", {"to": "alice", "body": "by the back way", "id": "u1"})
    document = alice.got("by the back way")
    assert (document["from"], document["to"]) == ("bob", "alice")
    assert laptop.stamped("u1")["sid"] == document["sid"]
    chat.mark(alice)
    assert "bobs-token" not in str(alice.documents())
    # Nobody's token speaks for nobody.
    chat.sim.upstream("nobodys-token", {"to": "alice", "body": "who am I", "id": "u2"})
    chat.bal.wait_for("messages", token="nobodys-token")
    chat.mark(alice)
    assert alice.bodies() == ["by the back way", "mark 1", "mark 2"]


@on_both_brokers
def test_a_bal_that_is_put_into_a_group_reads_and_writes_there(chat):
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", "bobs-token")
    bal, alice = chat.bal, chat.device("alice", "phone")
    answer = alice.told("group.create", members=["bob", "bal1"], name="Shop")
    group = answer["group"]
    assert answer["members"] == ["bob", "bal1"] and "invited" not in answer
    assert bal.wait_for("messages", event="created")["group"] == group
    sid = alice.sent(group, "an order", data={"order": 7})
    came = bal.got("an order")
    assert (came["id"], came["from"], came["group"], came["dev"]) == (sid, "alice", group, "phone")
    assert came["data"] == {"order": 7}
    alice.wait(lambda: alice.on("receipts", sid=sid, status="delivered", by="bal1"), "the BAL has it")
    message = bal.send(group, "it is on its way")
    document = alice.got("it is on its way")
    assert (document["from"], document["group"]) == ("bal1", group)
    bal.wait(lambda: {"accepted", "sent", "delivered"} <= set(bal.statuses(message)), "the BAL hears of it")
    push = chat.wait_push("bobs-token", sid=document["sid"])
    assert (push["with"], push["by"], push["title"]) == (group, "bal1", "Shop: bal1")
    alice.read(group, document["sid"])
    bal.wait_for("receipts", id=message, status="read", by="alice")
    alice.told("group.remove", group=group, members=["bal1"])
    bal.wait_for("messages", event="removed")
    alice.sent(group, "behind its back")
    late = bal.send(group, "anything else?")
    bal.error("NOT_MEMBER", ref=late)
    alice.send("bal1", "the last word")
    bal.got("the last word")
    assert "behind its back" not in bal.bodies() and not bal.on("messages", **{"from": "bal1"})


@pytest.mark.behaviour(52)
@on_both_brokers
def test_a_bal_makes_a_group_owns_it_and_leaves_it(chat):
    bal, alice, bob = chat.bal, chat.device("alice"), chat.device("bob")
    bal.watch("bal1/others/replies/main")
    answer = bal.told("group.create", members=["alice", "bob"], name="Support")
    group = answer["group"]
    assert answer["members"] == ["alice", "bob"], "a BAL is a stranger to nobody"
    for device in [alice, bob]:
        assert device.wait_for("messages", event="created")["by"] == "bal1"
    sid = bob.sent(group, "it does not work")
    assert bal.got("it does not work")["id"] == sid
    assert bal.told("group.rename", group=group, name="Case 1")["version"] == 2
    [item] = bal.told("conversations")["items"]
    assert (item["with"], item["name"], item["last"]["event"]) == (group, "Case 1", "changed")
    items = bal.told("history", **{"with": group})["items"]
    assert [one.get("body") or one["event"] for one in items] == ["created", "it does not work", "changed"]
    assert sid in [one["sid"] for one in bal.told("sync")["items"]]
    bal.told("group.leave", group=group)
    assert bal.wait_for("messages", event="left")["who"] == ["bal1"]
    alice.wait_for("messages", event="promoted", who=["alice"])
    assert bal.ask("group.rename", group=group, name="Case 2")["code"] == "NOT_MEMBER"
