"""A conversation from its first message to the tick `read`, as in topics.md: word by word, through kills, and by clients that
come and go."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from chat import on_both_brokers
from chat_clients import EMBEDDED, PATIENCE, hash_of, is_sid
from harness import eventually, run
from test_clients import NODE_PATH

BEHAVIOURS = {
    1: "the central scene", 2: "own devices learn of it", 38: "kills in the central scene",
    39: "clients that come under a new id each time",
}  # fmt: skip


def scene_before(chat):
    """bob has written to alice, and his phone sleeps. Yields it by its token."""
    chat.write("bob", "alice", "first")
    chat.register("bob", "phone", "bobs-token")
    with chat.visit("alice") as alice:
        assert alice.publish("profile", {"name": "Alice"}, retain=True) == "taken"
        # It is cached when the bridge has answered what was said behind it.
        alice.told("settings")
    return "bobs-token"


def without(document: dict, *names: str) -> dict:
    return {name: value for name, value in document.items() if name not in names}


def check_stamped(document: dict):
    assert is_sid(document["sid"]) and isinstance(document["ts"], int) and document["n"] >= 2
    said = {"id": "m1", "from": "alice", "to": "bob", "type": "text", "body": "hi"}
    # Own devices see which of them wrote it.
    assert document.get("dev", "phone") == "phone"
    assert without(document, "sid", "n", "ts", "dev") == said


def check_status(document: dict, sid: str, status: str, **more):
    assert isinstance(document["ts"], int)
    assert without(document, "ts") == {"id": "m1", "sid": sid, "status": status, **more}


@pytest.mark.behaviour(1, 2)
@pytest.mark.parametrize("page", [False, True], ids=["paho", "mqtt.js"])
@on_both_brokers
def test_a_message_climbs_from_sent_to_read_and_clears_the_phone_that_was_pushed(chat, page):
    token = scene_before(chat)
    phone, laptop = chat.device("alice", "phone", page=page), chat.device("alice", "laptop", page=page)
    phone.watch("bob/self/presence")
    phone.wait_at("bob/self/presence", state="offline")
    before = len(phone.at("bob/self/presence"))
    assert phone.publish("messages", {"id": "m1", "to": "bob", "body": "hi"}) == "taken"
    sid = phone.stamped("m1")["sid"]
    for device in [phone, laptop]:
        check_stamped(device.stamped("m1"))
        check_status(device.wait_for("receipts", id="m1"), sid, "sent")

    push = chat.wait_push(token, type="message", sid=sid)
    by_the_way = {"mid": sid, "ack": "self/receipts"} if chat.sim.speaks_v1() else {}
    assert push["ts"].isdigit() and all(isinstance(value, str) for value in push.values())
    expected = {"type": "message", "account": "bob", "with": "alice", "sid": sid, "title": "Alice", "body": "hi", "unread": "1"}
    assert without(push, "ts") == {**expected, **by_the_way}

    handler = chat.background("bob")
    handler.confirm(sid)
    for device in [phone, laptop]:
        device.wait_statuses("m1", ["sent", "delivered"])
        check_status(device.on("receipts", id="m1")[-1], sid, "delivered")
    states = {document["state"] for document in phone.at("bob/self/presence")[before:]}
    assert "online" not in states, "the handler of a push is not seen"

    web = chat.device("bob", "web", page=page)
    web.read("alice", sid)
    assert web.wait_for("read") == {"with": "alice", "sid": sid, "unread": 0}
    clear = chat.wait_push(token, type="clear")
    assert without(clear, "mid", "ack") == {"type": "clear", "account": "bob", "with": "alice", "sid": sid, "unread": "0"}
    for device in [phone, laptop]:
        device.wait_statuses("m1", ["sent", "delivered", "read"])
        check_status(device.on("receipts", id="m1")[-1], sid, "read", up_to=True)
    chat.mark(phone, laptop)
    assert all(len(device.on("messages", id="m1")) == 1 for device in [phone, laptop])
    [pushes] = chat.pushed(token)
    assert [push["type"] for push in pushes] == ["message", "clear"]


@pytest.mark.behaviour(2)
@on_both_brokers
def test_each_device_of_both_sides_has_a_message_once(chat):
    chat.befriend("alice", "bob")
    writers = [chat.device("alice", dev) for dev in ["phone", "laptop"]]
    readers = [chat.device("bob", dev) for dev in ["phone", "web"]]
    message = writers[0].send("bob", "to all")
    sid = writers[0].stamped(message)["sid"]
    chat.mark(*writers, *readers)
    for device in [*writers, *readers]:
        [document] = device.on("messages", body="to all")
        assert (document["sid"], document["from"], document["to"]) == (sid, "alice", "bob")


# Where the bridge is killed, and how many pushes of the message may arrive: where the kill comes between the push service's
# taking of it and the answer, nobody can know whether it arrived.
KILLS = {
    "before the PUBACK": 2, "after the PUBACK": 2, "after the stamped copy": 2, "while the push is on its way": 2,
    "after the push": 1, "after the tick delivered": 1, "after the read position": 1,
}  # fmt: skip


@pytest.mark.behaviour(38)
@pytest.mark.parametrize("point", list(KILLS))
@on_both_brokers
def test_a_kill_at_any_point_loses_nothing_and_doubles_nothing_without_a_mark(chat, point):
    token = scene_before(chat)
    phone, laptop = chat.device("alice", "phone", kept=True), chat.device("alice", "laptop", kept=True)
    web = chat.device("bob", "web", kept=True)
    # He looks away, so the phone is pushed.
    web.look_away()
    chat.mark(phone, laptop, web)
    if point == "while the push is on its way":
        chat.sim.faults(latency_ms=1000)

    def kill(here: str):
        if here == point:
            chat.restart()

    packet = phone.begin("alice/self/messages", {"id": "m1", "to": "bob", "body": "hi", "dev": "phone"})
    kill("before the PUBACK")
    assert phone.end(packet) == "taken"
    kill("after the PUBACK")
    sid = laptop.stamped("m1")["sid"]
    kill("after the stamped copy")
    if point == "while the push is on its way":
        eventually(lambda: chat.pushes(token, sid=sid) or chat.sim.stats()["messages"], "the push is on its way")
        kill(point)
    chat.wait_push(token, type="message", sid=sid)
    if point == "after the push":
        # It is over with the answer, which the bridge has on disk then.
        waits = {"due", "in_flight"}
        eventually(lambda: not waits & chat.bridge.counts()["deliveries"].keys(), "the push service has answered")
        kill(point)
    chat.background("bob").confirm(sid)
    laptop.wait(lambda: "delivered" in laptop.statuses("m1"), "delivered")
    kill("after the tick delivered")
    web.read("alice", sid)
    kill("after the read position")
    laptop.wait(lambda: "read" in laptop.statuses("m1"), "read")
    web.wait_for("read", sid=sid)
    chat.mark(phone, laptop, web)

    def copies(device, suffix, **fields) -> list[bool]:
        """For each copy of a document, whether it says itself that it may be known."""
        topic = f"{device.user}/others/{suffix}"
        pairs = [(packet, json.loads(packet.payload)) for packet in device.packets if packet.topic == topic]
        return [packet.dup or bool(d.get("redelivered")) for packet, d in pairs if fields.items() <= d.items()]

    documents = [(device, "messages", {"body": "hi"}) for device in [phone, laptop, web]]
    documents += [(device, "receipts", {"sid": sid, "status": s}) for device in [phone, laptop] for s in ["sent", "delivered", "read"]]
    for device, suffix, fields in documents:
        marked = copies(device, suffix, **fields)
        assert marked and marked.count(False) <= 1, (device.dev, suffix, fields, device.documents())
    [pushes] = chat.pushed(token)
    assert 1 <= [push["type"] for push in pushes].count("message") <= KILLS[point]


def visits(url: str, user: str, secret: str, count: int, clean: bool):
    """mqtt.js comes and goes, with its defaults, under an id that it makes itself."""
    script = Path(__file__).parent / "visits.mjs"
    words = ["node", str(script), url, user, secret, str(count), "clean" if clean else "kept"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env={"NODE_PATH": NODE_PATH, "PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(count)], "each visit got the answer to its request"


def sessions(chat, user: str) -> list[dict]:
    done = run("sessions", "--store", chat.bridge.db, "--user", user, "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    return listed if isinstance(listed, list) else listed["sessions"]


@pytest.mark.long(20)
@pytest.mark.behaviour(39)
@on_both_brokers
def test_a_client_that_comes_a_hundred_times_under_new_ids_leaves_nothing_behind(chat):
    chat.befriend("alice", "bob")
    visits(f"ws://127.0.0.1:{chat.ws_port}/mqtt", "bob", chat.secret("bob"), 100, clean=True)
    root, phone = chat.device("root", "look"), chat.device("bob", "phone")
    root.watch("bob/self/#")
    chat.write("alice", "bob", "still here?")
    phone.got("still here?")
    own = {topic for topic, document in root.documents() if topic.startswith("bob/self/presence/") and document}
    assert own <= {"bob/self/presence/phone"}
    # The visits may have used what the user may send in a minute: he asks again as soon as he may.
    deadline = time.monotonic() + PATIENCE
    while (answer := phone.ask("devices")).get("code") == "RATE_LIMITED" and time.monotonic() < deadline:
        threading.Event().wait(0.25)
    assert answer["ok"] is True, answer
    assert [item["dev"] for item in answer["items"] if item["dev"] != "phone"] == []
    if chat.kind == EMBEDDED:
        assert sessions(chat, "bob") == []


@pytest.mark.behaviour(39)
def test_of_the_sessions_that_a_user_keeps_the_longest_away_end(chat):
    chat.befriend("alice", "bob")
    visits(f"ws://127.0.0.1:{chat.ws_port}/mqtt", "bob", chat.secret("bob"), 15, clean=False)
    eventually(lambda: len(sessions(chat, "bob")) <= 10, "at most ten are left")
    assert len(sessions(chat, "bob")) == 10


@on_both_brokers
def test_an_event_of_a_registration_names_the_token_by_its_hash(chat):
    event = chat.register("bob", "phone", "a-token-of-bob")
    assert (event["event"], event["dev"], event["token_hash"]) == ("registered", "phone", hash_of("a-token-of-bob"))
