"""Messages between users: what is refused, what a repeat does, what a sender cannot forge, and what nobody is told."""

import json
import socket
import threading

import pytest
from chat import DAY, on_both_brokers
from chat_clients import EMBEDDED, MOSQUITTO, Device, is_sid, new_id
from harness import eventually

BEHAVIOURS = {
    3: "too long a message", 4: "repeats", 5: "one id of two users", 6: "what only the bridge says", 7: "writing into an inbox",
    8: "receipts for what one never got", 9: "what alice never sees of bob", 40: "repeats, and bots",
}  # fmt: skip
# What the bridge takes off whatever a client writes.
FORGED = {
    "from": "carol", "sid": "0123456789abcdef", "ts": 1, "n": 9999, "group": "g-1", "by": "carol", "edited": True,
    "redelivered": True, "status": "read", "read": True,
}  # fmt: skip


@pytest.fixture
def friends(chat):
    """Both have written to the other."""
    chat.befriend("alice", "bob")
    return chat


def check_refused(device, message: str, code: str):
    """Both documents name the message, and nobody else is told."""
    assert device.error(code, ref=message)["topic"].endswith("/messages")
    assert device.wait_for("receipts", id=message, status="failed")["code"] == code
    assert device.statuses(message) == ["failed"]


@pytest.mark.behaviour(3)
def test_a_message_of_20000_characters_is_refused_and_reaches_nobody(friends):
    phone, laptop, web = friends.device("alice"), friends.device("alice", "laptop"), friends.device("bob", "web")
    longest = phone.send("bob", "a" * 16_384)
    phone.stamped(longest)
    message = phone.send("bob", "a" * 20_000)
    for device in [phone, laptop]:
        check_refused(device, message, "BAD_FIELD")
    friends.mark(phone, laptop, web)
    assert not phone.on("messages", id=message) and not laptop.on("messages", id=message)
    assert [len(body) for body in web.bodies("alice")] == [16_384]
    assert not web.on("errors") and not web.on("receipts", status="failed")


class Cut:
    """Stands between a client and the broker; what the broker says can be kept from the client."""

    def __init__(self, port: int):
        self.port, self.swallows, self.open = port, False, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.own = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            broker = socket.create_connection(("127.0.0.1", self.port))
            self.open += [client, broker]
            threading.Thread(target=self.forward, args=(client, broker, False), daemon=True).start()
            threading.Thread(target=self.forward, args=(broker, client, True), daemon=True).start()

    def forward(self, source, target, is_answer: bool):
        try:
            while data := source.recv(65536):
                if not (is_answer and self.swallows):
                    target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def hang_up(self):
        """Ends all connections; those that come now are let through."""
        self.swallows, ends, self.open = False, self.open, []
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)  # `close` alone wakes no thread that reads
            except OSError:
                pass
            end.close()

    def close(self):
        self.listener.close()
        self.hang_up()


@pytest.fixture
def cut(friends):
    cut = Cut(friends.port)
    yield cut
    cut.close()


def copies(device, message: str) -> list[bool]:
    """For each copy of a message, whether it says that it was there before."""
    return [bool(document.get("redelivered")) for document in device.on("messages", id=message)]


@pytest.mark.behaviour(4, 40)
@on_both_brokers
def test_a_publish_that_is_cut_and_repeated_is_one_message_also_two_days_later(friends, cut):
    token = friends.register("bob", "phone", "bobs-token") and "bobs-token"
    laptop, web = friends.device("alice", "laptop", kept=True), friends.device("bob", "web", kept=True)
    phone = friends.keep(Device(friends, "alice", "phone", kept=True, port=cut.own)).connect()
    web.look_away()
    cut.swallows = True
    said = {"id": "cut", "to": "bob", "body": "once", "dev": "phone"}
    packet = phone.begin("alice/self/messages", said)
    sid = laptop.stamped("cut")["sid"]
    assert ("pub", packet) not in phone.answers
    cut.hang_up()
    assert phone.end(packet) == "taken"
    phone.stamped("cut")
    # A third time, by another device, with the fields in another order.
    assert laptop.publish_to("alice/self/messages", {"dev": "laptop", "body": "once", "to": "bob", "id": "cut"}) == "taken"
    laptop.wait(lambda: any(copies(laptop, "cut")), "the writer's own devices have the copy of a repeat")
    friends.mark(laptop, web)
    assert web.bodies("alice") == ["once"] and not web.on("messages", redelivered=True)
    assert {document["sid"] for document in laptop.on("messages", id="cut")} == {sid}
    assert copies(laptop, "cut")[0] is False and all(copies(laptop, "cut")[1:])
    assert friends.pushed_sids(token) == [sid]

    friends.later(2 * DAY)
    eventually(lambda: laptop.connected() and web.connected(), "both are back")
    before = len(copies(laptop, "cut"))
    assert laptop.publish_to("alice/self/messages", said) == "taken"
    laptop.wait(lambda: len(copies(laptop, "cut")) > before, "it is remembered")
    assert all(copies(laptop, "cut")[1:])
    assert laptop.publish_to("alice/self/messages", {**said, "body": "something else"}) == "taken"
    laptop.error("DUPLICATE", ref="cut")
    friends.mark(laptop, web)
    assert web.bodies("alice") == ["once"], "neither is sent"
    assert friends.pushed_sids(token) == [sid]


@pytest.mark.behaviour(5)
@on_both_brokers
def test_one_id_of_two_users_is_two_messages_with_receipts_to_the_right_one(friends):
    friends.befriend("carol", "bob")
    alice, carol, bob = friends.device("alice"), friends.device("carol"), friends.device("bob")
    sids = {}
    for device in [alice, carol]:
        device.send("bob", f"of {device.user}", id="same")
        sids[device.user] = device.stamped("same")["sid"]
    assert sids["alice"] != sids["carol"]
    for device in [alice, carol]:
        assert bob.got(f"of {device.user}")["sid"] == sids[device.user]
        device.wait_statuses("same", ["sent", "delivered"])
    bob.read("carol", sids["carol"])
    carol.wait_statuses("same", ["sent", "delivered", "read"])
    friends.mark(alice, carol)
    for device in [alice, carol]:
        assert {status["sid"] for status in device.on("receipts")} == {sids[device.user]}
    assert alice.statuses("same") == ["sent", "delivered"]


@pytest.mark.behaviour(6)
@on_both_brokers
def test_what_only_the_bridge_says_is_taken_off_and_what_nobody_knows_arrives(friends):
    alice, laptop, bob = friends.device("alice"), friends.device("alice", "laptop"), friends.device("bob")
    strange = {"x_colour": "red", "nested": {"from": "stays"}}
    message = alice.send("bob", "honest", data={"from": "stays", "n": 1}, **FORGED, **strange)
    for document in [alice.stamped(message), laptop.stamped(message), bob.got("honest")]:
        assert (document["from"], document["to"]) == ("alice", "bob")
        assert is_sid(document["sid"]) and document["sid"] != FORGED["sid"]
        assert document["n"] < 9999 and document["ts"] > 1
        assert not {"group", "by", "edited", "redelivered", "status", "read"} & document.keys()
        assert document["data"] == {"from": "stays", "n": 1}
        assert {name: document[name] for name in strange} == strange
    assert bob.got("honest")["sid"] == alice.stamped(message)["sid"]


RESERVED = {
    "a notice": {"type": "notice"},
    "a call": {"type": "call"},
    "a tombstone": {"type": "tombstone"},
}


@pytest.mark.behaviour(6)
@pytest.mark.parametrize("fields", RESERVED.values(), ids=RESERVED)
def test_what_is_reserved_is_refused(friends, fields):
    alice, bob = friends.device("alice"), friends.device("bob")
    message = alice.send(**{"to": "bob", "body": "early", **fields})
    check_refused(alice, message, "BAD_FIELD")
    friends.mark(alice, bob)
    assert bob.bodies("alice") == [] and not alice.on("messages", id=message)


def test_a_message_to_nobody_is_not_found(friends):
    alice = friends.device("alice")
    check_refused(alice, alice.send("nobody-of-this-name"), "NOT_FOUND")


@pytest.mark.parametrize("field", ["reply_to", "ref"])
def test_a_message_refers_only_to_one_of_a_conversation_of_its_writer(friends, field):
    friends.befriend("carol", "bob")
    alice, carol = friends.device("alice"), friends.device("carol")
    theirs = carol.sent("bob", "between carol and bob")
    kind = {"type": "reaction"} if field == "ref" else {}
    check_refused(alice, alice.send("bob", "about it", **{field: theirs}, **kind), "NOT_FOUND")
    mine = alice.sent("bob", "between alice and bob")
    assert alice.stamped(alice.send("bob", "about it", **{field: mine}, **kind))[field] == mine


def test_a_retained_message_is_refused_and_the_connection_stays(friends):
    alice, bob = friends.device("alice"), friends.device("bob")
    assert alice.publish("messages", {"id": "kept", "to": "bob", "body": "kept"}, retain=True) == "taken"
    alice.error("BAD_FIELD")
    alice.sent("bob", "not kept")
    bob.got("not kept")
    assert bob.bodies("alice") == ["not kept"] and alice.connections == 1


def test_a_message_to_oneself_is_kept_and_pushed_to_nobody(friends):
    friends.register("alice", "tablet", "alices-token")
    phone, laptop = friends.device("alice"), friends.device("alice", "laptop")
    message = phone.send("alice", "do not forget")
    assert phone.stamped(message)["sid"] == laptop.stamped(message)["sid"]
    friends.mark(phone, laptop)
    assert len(phone.on("messages", id=message)) == len(laptop.on("messages", id=message)) == 1
    assert friends.pushed("alices-token") == [[]]


@pytest.mark.behaviour(7)
@on_both_brokers
def test_what_is_written_into_the_inbox_of_another_is_routed_or_goes_nowhere(friends):
    phone, laptop, bob = friends.device("alice"), friends.device("alice", "laptop"), friends.device("bob")
    # A broker of others may end the connection for it.
    direct = friends.device("alice", "direct")
    direct.comes_back = False
    direct.publish_to("bob/others/messages", {"id": "direct", "body": "by the letter", "from": "carol"})
    if friends.kind == MOSQUITTO:
        phone.sent("bob", "by the outbox")
        bob.got("by the outbox")
        assert bob.bodies() == ["by the outbox"]
        return
    for device in [phone, laptop]:
        document = device.stamped("direct")
        assert (document["from"], document["to"], document["body"]) == ("alice", "bob", "by the letter")
        device.wait_statuses("direct", ["sent", "delivered"])
    assert bob.got("by the letter")["from"] == "alice"
    friends.mark(phone, laptop, bob)
    assert len(bob.on("messages", body="by the letter")) == 1
    assert len(laptop.on("messages", id="direct")) == 1


@pytest.mark.behaviour(7)
def test_nothing_else_can_be_written_into_the_inbox_of_another(friends):
    alice, bob = friends.device("alice"), friends.device("bob")
    for suffix in ["receipts", "read", "devices", "changes", "errors", "replies/phone", "presence"]:
        assert alice.publish_to(f"bob/others/{suffix}", {"id": "x", "with": "carol"}) == "denied", suffix
    friends.mark(bob)
    assert {topic for topic, _ in bob.documents()} <= {"bob/others/messages"}


@pytest.mark.behaviour(8)
@on_both_brokers
def test_a_receipt_or_a_read_position_for_a_message_that_one_never_got_is_not_found(friends):
    friends.befriend("carol", "alice")
    alice, bob, carol = friends.device("alice"), friends.device("bob"), friends.device("carol")
    message = alice.send("bob", "for bob")
    sid = alice.stamped(message)["sid"]
    bob.got("for bob")
    alice.wait_statuses(message, ["sent", "delivered"])
    carol.confirm(sid, status="read")
    carol.error("NOT_FOUND")
    carol.read("alice", sid)
    carol.wait(lambda: len(carol.on("errors", code="NOT_FOUND")) == 2, "the read position is refused, too")
    carol.confirm(new_id())
    carol.wait(lambda: len(carol.on("errors", code="NOT_FOUND")) == 3, "so is what nobody has sent")
    alice.confirm(sid, status="read")
    alice.error("NOT_FOUND")
    friends.mark(alice, bob, carol)
    assert alice.statuses(message) == ["sent", "delivered"] and not carol.on("read") and not bob.on("read")


@on_both_brokers
def test_of_a_message_without_receipt_its_writer_hears_nothing_but_sent(friends):
    alice, bob = friends.device("alice"), friends.device("bob")
    told = [alice.send("bob", f"number {n}") for n in range(2)]
    untold = alice.send("bob", "number 2", receipt=False)
    [sid] = {alice.stamped(untold)["sid"]}
    bob.got("number 2")
    bob.confirm(sid, up_to=True)
    alice.wait(lambda: alice.statuses(told[1]) == ["sent", "delivered"], "what came before it is told as delivered")
    bob.read("alice", sid)
    alice.wait_for("receipts", status="read", id=told[1], up_to=True)
    again = alice.send("bob", "number 3", receipt=False)
    bob.confirm(alice.stamped(again)["sid"])
    friends.mark(alice, bob)
    assert alice.statuses(untold) == ["sent"] and alice.statuses(again) == ["sent"]


@pytest.mark.behaviour(8)
@on_both_brokers
def test_a_lower_read_position_is_ignored(friends):
    alice, phone, laptop = friends.device("alice"), friends.device("bob"), friends.device("bob", "laptop")
    sids = [alice.sent("bob", f"number {n}") for n in range(3)]
    phone.got("number 2")
    phone.read("alice", sids[1])
    assert laptop.wait_for("read") == {"with": "alice", "sid": sids[1], "unread": 1}
    alice.wait(lambda: "read" in alice.statuses(sids[1]), "read")
    phone.read("alice", sids[0])
    phone.read("alice", sids[2])
    laptop.wait_for("read", sid=sids[2], unread=0)
    alice.wait(lambda: "read" in alice.statuses(sids[2]), "read")
    assert [document["sid"] for document in laptop.on("read")] == [sids[1], sids[2]]
    assert [status["sid"] for status in alice.on("receipts", status="read")] == [sids[1], sids[2]]
    assert all(status["up_to"] for status in alice.on("receipts", status="read"))


def test_a_receipt_read_is_the_same_as_a_read_position(friends):
    alice, phone, laptop = friends.device("alice"), friends.device("bob"), friends.device("bob", "laptop")
    sids = [alice.sent("bob", f"number {n}") for n in range(2)]
    phone.got("number 1")
    phone.confirm(sids[1], status="read", up_to=True)
    assert laptop.wait_for("read") == {"with": "alice", "sid": sids[1], "unread": 0}
    alice.wait(lambda: "read" in alice.statuses(sids[1]), "read")


def test_who_writes_in_a_conversation_has_read_it(friends):
    alice, bob, laptop = friends.device("alice"), friends.device("bob"), friends.device("bob", "laptop")
    sid = alice.sent("bob", "a question")
    bob.got("a question")
    bob.sent("alice", "an answer")
    assert laptop.wait_for("read", sid=sid)["unread"] == 0
    alice.wait(lambda: "read" in alice.statuses(sid), "read")


def test_delivered_is_told_once_however_many_devices_confirm(friends):
    devices = [friends.device("bob", dev) for dev in ["phone", "laptop", "tablet"]]
    alice = friends.device("alice")
    message = alice.send("bob", "to three")
    for device in devices:
        device.got("to three")
    alice.wait_statuses(message, ["sent", "delivered"])
    sid = alice.stamped(message)["sid"]
    for device in devices:
        device.confirm(sid)
    # What is told of the next one is behind.
    alice.wait_statuses(alice.send("bob", "again"), ["sent", "delivered"])
    assert alice.statuses(message) == ["sent", "delivered"]


@pytest.mark.behaviour(9)
def test_alice_sees_nothing_of_the_devices_of_bob_and_of_how_he_is_reached(friends):
    friends.register("bob", "pocket-device", "bobs-token")
    alice = friends.device("alice").watch("#", "bob/self/presence", "bob/self/profile")
    tablet = friends.device("bob", "kitchen-device")
    assert tablet.publish("profile", {"name": "Bob"}, retain=True) == "taken"
    tablet.look_away()
    sid = alice.sent("bob", "hi")
    friends.wait_push("bobs-token", sid=sid)
    friends.background("bob", "pocket-device").confirm(sid)
    tablet.sent("alice", "hello")
    tablet.read("alice", sid)
    alice.wait(lambda: "read" in alice.statuses(sid), "read")
    tablet.publish("chatstate", {"to": "alice", "state": "composing"}, qos=0)
    tablet.unregister("pocket-device")
    tablet.close()
    alice.wait_at("bob/self/presence", state="offline")
    friends.mark(alice)
    everything = json.dumps(alice.documents())
    hidden = ["pocket-device", "kitchen-device", "bobs-token", "transport", "attempt", '"ccs"', "fcm-v1", "provider"]
    told = [document for topic, document in alice.documents() if not topic.startswith("_bridge/")]
    assert not [word for word in hidden if word in json.dumps(told)], everything


@pytest.mark.behaviour(40)
def test_a_bot_gets_nothing_of_its_own_so_two_that_answer_each_other_make_no_loop(make_chat):
    chat = make_chat(EMBEDDED)
    one, two, alice = chat.device("bal1", "one"), chat.device("bal2", "two"), chat.device("alice")
    # Each answers whatever comes, three times at most.
    first = one.send("bal2", "round 0")
    for turn in range(3):
        answerer, asker = (two, one) if turn % 2 == 0 else (one, two)
        assert answerer.got(f"round {turn}")["from"] == asker.user
        answerer.send(asker.user, f"round {turn + 1}")
    two.got("round 2")
    one.got("round 3")
    one.send("alice", "to a user")
    alice.got("to a user")
    alice.send("bal1", "from a user")
    one.got("from a user")
    assert one.bodies() == ["round 1", "round 3", "from a user"] and two.bodies() == ["round 0", "round 2"]
    assert not one.on("messages", **{"from": "bal1"}) and not two.on("messages", **{"from": "bal2"})
    assert one.statuses(first)[0] == "accepted"
