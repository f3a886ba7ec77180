"""What an operator asks of a bridge that runs, and a person who is erased: by the program, over MQTT, and by the person."""

import json
import threading

import pytest
from chat_clients import EMBEDDED, MOSQUITTO, Device
from harness import eventually, run
from test_access import password

BEHAVIOURS = {57: "export and erase", 58: "the gatekeeper"}
TOKEN = "eves-registration-token"
BODIES = ["eve wrote this first", "eve wrote this to herself", "eve wrote this to a BAL"]


def command(chat, *args):
    return run(*args, "--config", chat.bridge.config)


def found(chat, *texts: str) -> list[str]:
    """In which files of the store these stand."""
    files = [path for path in chat.bridge.config.parent.rglob("*") if path.is_file() and path.suffix not in (".toml", ".log")]
    files = [path for path in files if "bridge.db" in path.name or "broker" in path.parts]
    assert any(path.name.startswith("bridge.db") for path in files), files
    return [f"{text} in {path.name}" for path in files for text in texts if text.encode() in path.read_bytes()]


@pytest.mark.behaviour(57)
def test_who_asks_to_be_erased_is_in_no_file_any_more_and_others_keep_what_they_wrote(chat):
    chat.befriend("alice", "eve")
    chat.register("eve", "phone", TOKEN)
    # A session of hers waits, and one of alice's that has not read anything.
    for user in ["eve", "alice"]:
        chat.device(user, "laptop", kept=True).close()
    for to, body in zip(["alice", "eve", "bal2"], BODIES, strict=True):
        chat.write("eve", to, body)
    chat.write("alice", "eve", "alice wrote this")
    exported = command(chat, "user", "export", "eve")
    assert exported.returncode == 0, exported.stderr
    items = [json.loads(line) for line in exported.stdout.splitlines()]
    texts = {item["message"].get("body") for item in items if item["kind"] == "message"}
    assert {*BODIES, "alice wrote this"} <= texts and TOKEN not in exported.stdout
    assert {"settings", "device", "contact", "conversation"} <= {item["kind"] for item in items}

    eve = chat.device("eve", "web")
    assert eve.ask("export")["code"] == "MISSING_FIELD"
    assert eve.ask("export", password="wrong")["code"] == "FORBIDDEN"
    page = eve.ask("export", password=password("eve"))
    while not page["complete"]:
        page = eve.ask("export", after=page["next"])
    assert eve.ask("erase", password="wrong")["code"] == "FORBIDDEN"
    request = {"id": "e1", "op": "erase", "password": password("eve")}
    # The answer comes when it is on disk, and the connection ends then.
    eve.client.publish("eve/self/requests/web", json.dumps(request), 1)
    answer = eve.wait_for("replies/web", ref="e1")
    assert answer["ok"] and answer["removes"] and answer["remains"]
    # This goes on with what the bridge has begun, or comes behind it.
    erased = command(chat, "user", "erase", "eve")
    assert erased.returncode == 0, erased
    secrets = ['"eve"', "eve/", "eve:", TOKEN, *BODIES]
    eventually(lambda: not found(chat, *secrets), f"nothing is found; {found(chat, *secrets)}")

    assert not chat.keep(Device(chat, "eve", "phone")).connect().connected()
    chat.restart()
    alice = chat.device("alice", "phone")
    items = alice.told("sync")["items"]
    assert [item["body"] for item in items if item["from"] == "alice"] == ["hello", "alice wrote this"]
    others = {item["from"] for item in items} - {"alice"}
    assert len(others) == 1 and others.pop().startswith("deleted-")
    assert not [item for item in items if item.get("body") in BODIES]
    alice.error("NOT_FOUND", ref=alice.send("eve", "are you there?"))
    assert command(chat, "user", "free", "eve").returncode == 0
    chat.device("eve", "phone")


def test_sending_is_drained_and_resumed_and_a_message_is_followed_to_its_end(chat):
    chat.register("bob", "phone", "bobs-token")
    drained = command(chat, "drain")
    assert drained.returncode == 0 and "nothing is on its way" in drained.stderr, drained
    chat.write("alice", "bob", "while it is drained")
    root = chat.device("root", "desk")
    root.subscribe("_bridge/replies")
    root.publish_to("_bridge/commands", {"id": "c1", "op": "device.list", "user": "bob"})
    root.wait_at("_bridge/replies", ref="c1", ok=True)
    assert chat.pushes("bobs-token") == [], "nothing is pushed"
    alice = chat.device("alice", "phone")
    assert alice.publish_to("_bridge/commands", {"id": "c2", "op": "resume"}) == "denied"
    root.publish_to("_bridge/commands", {"id": "c3", "op": "resume"})
    chat.wait_push("bobs-token", body="while it is drained")

    bob = chat.background("bob")
    confirms = threading.Thread(target=lambda: bob.confirm(chat.wait_push("bobs-token", body="is this on?")["sid"]))
    confirms.start()
    sent = command(chat, "send", "--to", "bob", "is", "this", "on?")
    confirms.join()
    assert sent.returncode == 0 and "a device has confirmed it" in sent.stdout, sent
    listed = command(chat, "device", "list", "bob")
    assert listed.stdout.startswith("phone\ttoken "), listed
    assert command(chat, "device", "forget", "bob", "phone").returncode == 0
    assert command(chat, "device", "list", "bob").stdout == ""
    chat.bridge.stop()
    without = command(chat, "drain")
    assert without.returncode == 1 and "no bridge runs with the store" in without.stderr


@pytest.mark.behaviour(58)
@pytest.mark.parametrize("kind", [EMBEDDED, MOSQUITTO])
def test_a_gatekeeper_lets_a_stranger_in_and_who_gets_no_answer_is_refused(make_chat, kind):
    chat = make_chat(kind, 'who_may_write = "gatekeeper"\ngatekeeper = "bal1"')
    chat.introduce("bob")
    with chat.visit("bob"):
        pass
    alice = chat.device("alice")
    refused = alice.send("bob", "is nobody there?")
    assert alice.wait_for("receipts", id=refused, status="failed")["code"] == "FORBIDDEN"
    keeper = chat.device("bal1", "gate", kept=True)
    # Its acknowledgement waits for the answer.
    sending = threading.Thread(target=lambda: alice.send("bob", "may I?", id="first"))
    sending.start()
    keeper.wait(lambda: keeper.on("requests", op="may_write"), "a question")
    question = keeper.on("requests", op="may_write")[-1]
    assert (question["from"], question["to"]) == ("alice", "bob")
    assert keeper.publish("replies", {"ref": question["id"], "ok": True, "for": 60}) == "taken"
    sending.join()
    alice.stamped("first")
    alice.stamped(alice.send("bob", "and again"))
    assert len(keeper.on("requests", op="may_write", ts=question["ts"])) == 1
