"""Users who write into the inboxes of each other, past the bridge, over a mosquitto that is trusted (`chat.direct`)."""

import pytest
from chat_clients import MOSQUITTO, is_sid, new_id
from harness import eventually

# With 3.1.1 the bridge reads its own copies, too.
VERSIONS = ["5", "3.1.1"]


@pytest.fixture(params=VERSIONS)
def trusted(request, make_chat):
    """alice and bob are contacts of each other, and bob's phone sleeps."""
    chat = make_chat(MOSQUITTO, settings="direct = true", version=request.param)
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", "bobs-token")
    return chat


def write(device, peer: str, body="hi", suffix="messages", retain=False, **fields) -> str:
    """A document by the letter of the spec. Yields its id."""
    fields = {"id": new_id(), "from": device.user, "dev": device.dev, "body": body, **fields}
    assert device.publish_to(f"{peer}/others/{suffix}", fields, retain=retain) == "taken"
    return fields["id"]


def history(device, peer: str) -> list[str]:
    return [item.get("body") for item in device.told("history", **{"with": peer})["items"]]


def test_what_is_written_into_an_inbox_reaches_the_peer_once_and_is_stored_and_pushed(trusted):
    phone, laptop, web = trusted.device("alice"), trusted.device("alice", "laptop"), trusted.device("bob", "web")
    message = write(phone, "bob")
    for device in [phone, laptop]:
        copy = device.stamped(message)
        assert (copy["from"], copy["to"], copy["body"]) == ("alice", "bob", "hi") and is_sid(copy["sid"])
        device.wait_statuses(message, ["sent", "delivered"])
    sid = copy["sid"]
    assert web.got("hi") == {"id": message, "from": "alice", "dev": "phone", "body": "hi"}, "as it was written"
    push = trusted.wait_push("bobs-token")
    assert (push["with"], push["body"], push["sid"], push["unread"]) == ("alice", "hi", sid, "1")

    assert web.publish("read", {"with": "alice", "id": message}) == "taken"
    phone.wait_statuses(message, ["sent", "delivered", "read"])
    assert web.wait_for("read") == {"with": "alice", "sid": sid, "unread": 0}
    trusted.wait_push("bobs-token", type="clear")

    item = web.told("sync")["items"][-1]
    assert (item["sid"], item["id"], item["body"]) == (sid, message, "hi")
    trusted.mark(phone, laptop, web)
    assert len(web.on("messages", body="hi")) == 1 and len(laptop.on("messages", id=message)) == 1
    # Nor does the bridge take for another one's what it wrote itself.
    phone.sent("bob", "by the outbox")
    web.got("by the outbox")
    trusted.mark(web)
    assert history(web, "alice") == ["hello", "hello", "hi", "by the outbox"]
    assert trusted.bridge.metric("bridge_direct_ignored_total") == 0


def test_a_repetition_is_stored_and_pushed_once_and_what_names_nobody_not_at_all(trusted):
    phone, web = trusted.device("alice"), trusted.device("bob", "web")
    message = write(phone, "bob")
    phone.wait_statuses(message, ["sent", "delivered"])
    write(phone, "bob", id=message)
    phone.wait_for("messages", id=message, redelivered=True)
    write(phone, "bob", "other", id=message)
    assert phone.error("DUPLICATE")["ref"] == message
    before = trusted.bridge.metric("bridge_direct_ignored_total")
    for fields in [{"from": "bal1"}, {"from": None}]:
        write(phone, "bob", "whose", **fields)
    eventually(lambda: trusted.bridge.metric("bridge_direct_ignored_total") - before == 2, "both are ignored")
    write(phone, "bob", "a copy of the bridge", sid="06eqbd3gy0001ab2")
    edit = write(phone, "bob", "forged", type="edit", ref=phone.stamped(message)["sid"])
    assert phone.error("FORBIDDEN")["ref"] == edit
    web.wait(lambda: len(web.on("messages", body="forged")) == 1, "the broker asks nobody")
    assert len(web.on("messages", body="hi")) == 2
    assert history(web, "alice") == ["hello", "hello", "hi"]
    assert len(trusted.pushed_sids("bobs-token")) == 1


def test_what_is_written_while_the_bridge_is_killed_is_taken_when_it_comes_back(trusted):
    phone, web = trusted.device("alice"), trusted.device("bob", "web")
    trusted.bridge.kill9()
    message = write(phone, "bob", "while it was away")
    web.got("while it was away")
    assert not phone.on("messages", id=message)
    trusted.start()
    sid = phone.stamped(message)["sid"]
    assert trusted.wait_push("bobs-token", sid=sid)["body"] == "while it was away"
    assert trusted.pushed_sids("bobs-token") == [sid]


def test_a_retained_document_is_taken_once_and_cleared(trusted):
    phone = trusted.device("alice")
    message = write(phone, "bob", "kept", retain=True)
    phone.wait_statuses(message, ["sent"])
    # Not by a kill: what it catches between the push and its answer is pushed twice.
    trusted.restart(kill=False)
    # The bridge has subscribed anew, and has read the kept copy.
    web = trusted.device("bob", "web")
    later = trusted.device("bob", "later")
    eventually(lambda: not cleared_of(trusted, later), "it is cleared")
    assert history(web, "alice").count("kept") == 1
    assert len(trusted.pushed_sids("bobs-token")) == 1


def cleared_of(chat, device) -> list:
    """What a broker still keeps in the inbox of a device: it comes with a new subscription."""
    device.watch("bob/others/messages")
    device.ask("settings")
    kept = [document for document in device.on("messages", body="kept")]
    device.came.clear()
    return kept
