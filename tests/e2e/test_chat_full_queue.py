"""A full queue of pushes over a mosquitto: what has no room holds up nobody who chats."""

import pytest
from chat_clients import MOSQUITTO, new_id
from harness import eventually, run

# More than the broker sends to the bridge without an acknowledgement.
PUSHES = 1_500


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_pushes_without_room_hold_up_nobody_who_chats_over_a_broker_of_others(make_chat, version):
    chat = make_chat(MOSQUITTO, version=version, limits="queue_rows = 20")
    chat.befriend("alice", "bob")
    alice, bob, bal = chat.device("alice"), chat.device("bob"), chat.bal
    # After the start what BALs are told is held for some seconds, and more is refused here than is kept for one who is away.
    assert bal.publish("messages", {"id": "first", "token": "a-token", "data": {}}) == "taken"
    bal.wait_for("receipts", id="first", status="sent")
    assert run("pause", "--store", chat.bridge.db).returncode == 0
    pushes = [{"id": new_id(), "token": "a-token", "data": {"n": str(n)}} for n in range(PUSHES)]
    for packet in [bal.begin("bal1/self/messages", push) for push in pushes]:
        assert bal.end(packet) == "taken"
    for n in range(20):
        alice.send("bob", f"number {n}")
    bob.got("number 19")
    assert bob.bodies("alice")[-20:] == [f"number {n}" for n in range(20)]
    refused = lambda: bal.on("receipts", status="failed", code="QUEUE_FULL")  # noqa: E731
    accepted = lambda: [told for told in bal.on("receipts", status="accepted") if told["id"] != "first"]  # noqa: E731
    bal.wait(lambda: len(refused()) + len(accepted()) == PUSHES, "every push has its word")
    assert 20 <= len(accepted()) < PUSHES / 2

    assert run("resume", "--store", chat.bridge.db).returncode == 0
    late = next(push for push in pushes if push["id"] == refused()[-1]["id"])

    def is_taken():
        assert bal.publish("messages", late) == "taken"
        return bal.on("receipts", id=late["id"], status="accepted")

    eventually(is_taken, "there is room again")
