"""Tokens of the push service: registered, replaced, moved with proof, given up; and seen by nobody."""

import json

import pytest
from chat import on_both_brokers
from chat_clients import EMBEDDED, MOSQUITTO, hash_of
from harness import eventually, run

BEHAVIOURS = {
    16: "register, replace, unregister", 17: "retained registrations and moves", 18: "reinstalled apps, eleven devices",
    19: "what removes a token and what does not", 40: "proofs",
}  # fmt: skip


@pytest.fixture
def friends(chat):
    chat.befriend("alice", "bob")
    return chat


def listed(device) -> dict[str, dict]:
    """The own devices, by their names."""
    return {item["dev"]: item for item in device.told("devices")["items"]}


@pytest.mark.behaviour(16)
@pytest.mark.parametrize("kind", [EMBEDDED, MOSQUITTO])
def test_a_token_is_told_to_nobody_and_stands_in_no_log(make_chat, kind):
    chat = make_chat(kind, start=False).start(log="debug")
    chat.befriend("alice", "bob")
    others = [chat.device(user, "ear").watch("#") for user in ["alice", "eve"]]
    phone, laptop = chat.device("bob", "phone"), chat.device("bob", "laptop")
    first = phone.register("first-token-of-bob")
    assert (first["event"], first["dev"], first["token_hash"]) == ("registered", "phone", hash_of("first-token-of-bob"))
    assert isinstance(first["ts"], int)
    phone.close()
    alice = others[0]
    chat.wait_push("first-token-of-bob", sid=alice.sent("bob", "to the first"))
    phone = chat.device("bob", "phone")
    second = phone.register("second-token-of-bob")
    assert (second["event"], second["token_hash"]) == ("replaced", hash_of("second-token-of-bob"))
    phone.close()
    chat.wait_push("second-token-of-bob", sid=alice.sent("bob", "to the second"))
    assert [push["body"] for push in chat.pushes("first-token-of-bob")] == ["to the first"]
    listing = listed(laptop)["phone"]
    assert listing["token_hash"] == hash_of("second-token-of-bob")
    chat.mark(laptop, *others)
    for device in [*others, laptop]:
        assert "token-of-bob" not in json.dumps(device.documents())
    # Some brokers send a document once for each filter that matches.
    told = [event["event"] for event in laptop.on("devices", dev="phone")]
    assert list(dict.fromkeys(told)) == ["registered", "replaced"]
    assert "token-of-bob" not in chat.bridge.logs()
    traced = run("outbox", "--store", chat.bridge.db, "--list")
    assert traced.returncode == 0 and "token-of-bob" not in traced.stdout


@pytest.mark.behaviour(16)
@on_both_brokers
def test_a_refresh_of_a_token_changes_nothing(friends):
    phone = friends.device("bob", "phone")
    phone.register("bobs-token")
    phone.register("bobs-token", lang="de")
    phone.close()
    sid = friends.write("alice", "bob", "once")
    assert friends.pushed_sids("bobs-token") == [sid]


@pytest.mark.behaviour(16)
@on_both_brokers
def test_pushes_that_wait_for_a_device_that_is_unregistered_are_withdrawn(friends):
    friends.register("bob", "phone", "bobs-token")
    friends.register("bob", "tablet", "tablets-token")
    friends.sim.stop()
    sid = friends.write("alice", "bob", "for one of two")
    with friends.visit("bob", "phone") as phone:
        phone.unregister()
    friends.sim.start()
    friends.sim.set_device("tablets-token", receipts=False)
    friends.bridge.wait_ready()
    assert friends.pushed_sids("tablets-token") == [sid]
    assert friends.records("bobs-token") == []


@pytest.mark.behaviour(16)
@pytest.mark.parametrize("field", ["key", "platform", "format"])
def test_a_registration_that_cannot_be_kept_is_refused(friends, field):
    phone = friends.device("bob", "phone")
    fields = {"token": "bobs-token", "platform": "android", field: "sealed"}
    assert phone.publish("devices/phone", fields) == "taken"
    phone.error("BAD_FIELD")
    assert "phone" not in listed(phone) or not listed(phone)["phone"].get("token_hash")


@pytest.mark.behaviour(17)
def test_a_retained_registration_is_refused(friends):
    phone = friends.device("bob", "phone")
    assert phone.publish("devices/phone", {"token": "bobs-token", "platform": "android"}, retain=True) == "taken"
    phone.error("BAD_FIELD")
    phone.close()
    friends.register("bob", "tablet", "tablets-token")
    sid = friends.write("alice", "bob", "to the tablet")
    assert friends.pushed_sids("tablets-token") == [sid]
    assert friends.records("bobs-token") == [] and phone.connections == 1


@pytest.mark.behaviour(17)
@pytest.mark.parametrize("chat", [MOSQUITTO], indirect=True)
def test_a_retained_registration_that_comes_back_after_a_log_out_moves_nothing(friends):
    root = friends.device("root", "look")
    with friends.visit("bob", "phone") as phone:
        friends.sim.set_device("shared-token", receipts=False)
        phone.publish("devices/phone", {"token": "shared-token", "platform": "android"}, retain=True)
        phone.wait_for("devices", event="registered")
        phone.unregister()
    # Another user of the same phone.
    friends.register("alice", "phone", "shared-token")
    # A copy that the broker has kept all the same, as one from before does.
    with friends.visit("bob", "tablet") as tablet:
        tablet.publish("devices/old", {"token": "shared-token", "platform": "android"}, retain=True)
        tablet.wait_for("devices", dev="old", event="verify_sent")
    friends.restart()
    friends.bridge.wait_ready()
    sids = [friends.write("bob", "alice", "to her"), friends.write("alice", "bob", "to him")]
    pushed = [push for push in friends.pushed("shared-token")[0] if push["type"] == "message"]
    assert [(push["account"], push["sid"]) for push in pushed] == [("alice", sids[0])]
    root.watch("bob/self/devices/#")
    friends.mark(friends.device("bob", "later"))
    eventually(lambda: not [d for t, d in root.documents() if d], "the kept copies are cleared")


def documents_of_all(devices) -> str:
    return json.dumps([device.documents() for device in devices])


@pytest.mark.behaviour(17, 40)
@on_both_brokers
def test_a_token_of_another_user_moves_only_with_the_proof_that_is_sent_to_it(friends):
    friends.befriend("carol", "alice")
    friends.befriend("carol", "bob")
    friends.register("bob", "phone", "one-phone")
    bob, alice, carol = friends.device("bob", "laptop"), friends.device("alice", "phone"), friends.device("carol")
    root = friends.device("root", "look").watch("+/others/#")
    # Away from both, so that they are pushed.
    bob.look_away()
    alice.look_away()
    assert alice.register("one-phone")["event"] == "verify_sent"
    verify = friends.wait_push("one-phone", type="verify")
    assert verify.keys() - {"mid", "ack"} == {"type", "account", "proof"} and verify["account"] == "alice"
    sids = [carol.sent("bob", "to bob"), carol.sent("alice", "to alice")]
    friends.wait_push("one-phone", account="bob", sid=sids[0])
    assert not friends.pushes("one-phone", account="alice", type="message")
    wrong = {"token": "one-phone", "platform": "android", "proof": "0" * len(verify["proof"])}
    alice.publish("devices/phone", wrong)
    alice.wait(lambda: alice.on("errors") or len(alice.on("devices")) > 1, "a wrong proof is answered")
    assert not alice.on("devices", event="moved")

    alice.publish("devices/phone", {"token": "one-phone", "platform": "android", "proof": verify["proof"]})
    moved = [alice.wait_for("devices", event="moved"), bob.wait_for("devices", event="moved")]
    assert moved[0]["dev"] == moved[1]["dev"] == "phone"
    assert {event["token_hash"] for event in moved} == {hash_of("one-phone")}
    assert "bob" not in json.dumps(moved[0]) and "alice" not in json.dumps(moved[1])
    sids += [carol.sent("bob", "to bob again"), carol.sent("alice", "to alice again")]
    assert friends.pushed_sids("one-phone") == [sids[0], sids[3]]
    friends.mark(alice, bob, carol)
    root.wait(lambda: root.at("alice/others/devices"), "root sees what the bridge writes")
    assert verify["proof"] not in documents_of_all([alice, bob, carol, root])
    assert verify["proof"] not in friends.bridge.logs()


@pytest.mark.behaviour(17)
@pytest.mark.parametrize("setting, moves", [("always", True), ("never", False)])
def test_whether_a_token_moves_without_proof_is_a_matter_of_the_configuration(make_chat, setting, moves):
    # "always" asks for proof of every token, "never" of none.
    chat = make_chat(EMBEDDED, f'verify_tokens = "{setting}"')
    phone = chat.device("bob", "phone")
    event = phone.register("bobs-token")
    if setting == "always":
        assert event["event"] == "verify_sent"
        proof = chat.wait_push("bobs-token", type="verify")["proof"]
        assert phone.register("bobs-token", proof=proof)["event"] == "registered"
    else:
        assert event["event"] == "registered"
        assert chat.device("alice", "phone").register("bobs-token")["event"] == "moved"
        phone.wait_for("devices", event="moved")
        assert chat.pushes("bobs-token", type="verify") == []


@pytest.mark.behaviour(18)
@on_both_brokers
def test_a_reinstalled_app_is_pushed_once(friends):
    friends.register("bob", "before", "bobs-token")
    friends.register("bob", "after", "bobs-token")
    sid = friends.write("alice", "bob", "once")
    assert friends.pushed_sids("bobs-token") == [sid]
    laptop = friends.device("bob", "laptop")
    with_tokens = [dev for dev, item in listed(laptop).items() if item.get("token_hash")]
    assert with_tokens == ["after"]


@pytest.mark.behaviour(18)
@on_both_brokers
def test_the_eleventh_device_is_refused(friends):
    laptop = friends.device("bob", "laptop")
    for n in range(10):
        assert laptop.register(f"token-{n}", f"device-{n}")["event"] == "registered"
    laptop.publish("devices/device-10", {"token": "token-10", "platform": "android"})
    laptop.error("RATE_LIMITED")
    sid = friends.write("alice", "bob", "to ten")
    laptop.close()
    pushed = friends.pushed(*(f"token-{n}" for n in range(10)))
    assert [[push["sid"] for push in one] for one in pushed] == [[sid]] * 10
    assert friends.records("token-10") == []


@pytest.fixture
def slow(friends):
    """bob's phone has registered; the push service takes its time."""
    friends.register("bob", "phone", "bobs-token")
    friends.sim.faults(latency_ms=1500)
    return friends


def refusals(chat) -> int:
    return sum(chat.sim.stats()["nacks"].values())


@pytest.mark.behaviour(19)
def test_a_token_that_the_push_service_does_not_know_any_more_is_given_up(friends):
    laptop = friends.device("bob", "laptop")
    friends.register("bob", "phone", "bobs-token")
    friends.sim.set_device("bobs-token", refuse={"code": "DEVICE_UNREGISTERED"})
    friends.write("alice", "bob", "to nobody")
    event = laptop.wait_for("devices", event="unregistered")
    assert (event["dev"], event["code"], event["token_hash"]) == ("phone", "DEVICE_UNREGISTERED", hash_of("bobs-token"))
    friends.register("bob", "tablet", "tablets-token")
    sid = friends.write("alice", "bob", "to the tablet")
    assert friends.pushed_sids("tablets-token") == [sid]
    assert friends.pushes("bobs-token") == []


@pytest.mark.behaviour(19)
def test_a_token_that_was_registered_again_after_the_send_stays(slow):
    slow.sim.set_device("bobs-token", refuse={"code": "DEVICE_UNREGISTERED"})
    slow.write("alice", "bob", "refused")
    # The answer is on its way.
    slow.register("bob", "phone", "bobs-token")
    eventually(lambda: refusals(slow) == 1, "the push service has refused it")
    slow.sim.faults()
    sid = slow.write("alice", "bob", "taken")
    slow.wait_push("bobs-token", sid=sid)


@pytest.mark.behaviour(19)
@pytest.mark.parametrize("trouble", ["SENDER_ID_MISMATCH", "INVALID_JSON", "SERVICE_UNAVAILABLE", "reset"])
def test_nothing_else_removes_a_token(friends, trouble):
    laptop = friends.device("bob", "laptop")
    laptop.look_away()
    friends.register("bob", "phone", "bobs-token")
    if trouble == "reset":
        friends.sim.faults(latency_ms=500)
    else:
        friends.sim.set_device("bobs-token", refuse={"code": trouble})
    before = friends.sim.stats()
    friends.write("alice", "bob", "in trouble")
    if trouble == "reset":
        eventually(lambda: friends.sim.stats()["messages"] > before["messages"], "it is on its way")
        friends.sim.call("POST", "/reset", {})
        friends.sim.faults()
    else:
        eventually(lambda: refusals(friends) == 1, "the push service has refused it")
    sid = friends.write("alice", "bob", "after it")
    friends.wait_push("bobs-token", sid=sid)
    friends.mark(laptop)
    assert listed(laptop)["phone"]["token_hash"] == hash_of("bobs-token")
    assert not laptop.on("devices", event="unregistered")


def test_a_token_of_a_device_that_is_silent_for_long_is_stale_and_then_removed(friends):
    friends.register("bob", "phone", "bobs-token")
    friends.later(31 * 86_400)
    with friends.visit("bob", "laptop") as laptop:
        assert listed(laptop)["phone"]["token_hash"] == hash_of("bobs-token")
    sid = friends.write("alice", "bob", "still tried")
    friends.wait_push("bobs-token", sid=sid)
    friends.later(240 * 86_400)

    def is_gone(answer: dict) -> bool:
        return not [item for item in answer["items"] if item["dev"] == "phone" and item.get("token_hash")]

    friends.device("bob", "laptop").ask_until(is_gone, "the token is removed", "devices")


def test_a_log_out_ends_pushes_for_the_one_and_lets_the_next_user_of_the_phone_in(friends):
    friends.befriend("alice", "carol")
    alice = friends.device("alice")
    with friends.visit("bob", "phone") as phone:
        phone.register("one-phone")
        phone.unregister()
        phone.publish("presence/phone", b"", retain=True)
    assert friends.register("carol", "phone", "one-phone")["event"] == "registered"
    alice.sent("bob", "for who has gone")
    sid = alice.sent("carol", "for who has come")
    pushes = [push for push in friends.pushed("one-phone")[0] if push["type"] == "message"]
    assert [(push["account"], push["sid"]) for push in pushes] == [("carol", sid)]
