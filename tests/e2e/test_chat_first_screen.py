"""Who forgot everything has it back in two requests; messages are edited and retracted by their writers."""

import pytest

BEHAVIOURS = {53: "the first screen", 54: "edits and retracts"}
BOBS = "bobs-phone"


def first_screen(device) -> tuple[dict[str, dict], dict]:
    """The conversations of a user by their peer, newest first, and the answer itself."""
    answer = device.told("conversations")
    assert answer["complete"] is True
    return {item["with"]: item for item in answer["items"]}, answer


def shown(device, peer: str) -> list[tuple]:
    """What a device shows of a conversation: place, and text or why there is none."""
    answer = device.told("history", **{"with": peer})
    assert answer["complete"] is True
    return [(item["n"], item.get("why") or item["body"]) for item in answer["items"] if "n" in item]


@pytest.mark.behaviour(53)
def test_a_client_with_an_empty_storage_has_everything_in_two_requests(chat):
    alice, bob = chat.device("alice", "page", page=True), chat.device("bob", "phone")
    alice.publish("profile", {"name": "Alice", "image": "https://files.example/alice.png"}, retain=True)
    alice.sent("bob", "hi bob")
    ticked = bob.sent("alice", "hello alice")
    alice.got("hello alice")
    alice.read("bob", ticked)
    bob.wait_statuses(ticked, ["sent", "delivered", "read"])
    chat.write("carol", "bob", "hello from carol")
    chat.write("dave", "bob", "hello from dave")
    alice.sent("bob", "one")
    last = alice.sent("bob", "look, @bob", mentions=["bob"], data={"large": "x" * 1000})
    with chat.visit("eve") as eve:
        assert eve.publish("invitations", {"to": "bob", "type": "request", "body": "we met"}) == "taken"
    bob.wait_for("invitations", type="request")

    new = chat.device("bob", "new", page=True)
    items, answer = first_screen(new)
    assert list(items) == ["eve", "alice", "dave", "carol"]
    assert (answer["unread"], answer["mentions"]) == (4, 1)
    assert items["eve"]["invitation"]["body"] == "we met" and items["eve"]["n"] == 0
    of_alice = items["alice"]
    assert (of_alice["name"], of_alice["image"]) == ("Alice", "https://files.example/alice.png")
    assert (of_alice["unread"], of_alice["mentions"], of_alice["n"]) == (2, 1, 4)
    assert (of_alice["last"]["sid"], of_alice["last"]["body"], "data" in of_alice["last"]) == (last, "look, @bob", False)
    assert of_alice["peer_received"] == of_alice["peer_read"] == of_alice["read"] == ticked
    assert shown(new, "alice") == [(1, "hi bob"), (2, "hello alice"), (3, "one"), (4, "look, @bob")]

    # What one device does, the list of the other one shows.
    bob.read("alice", last)
    new.wait_for("read", sid=last)
    bob.told("mute", **{"with": "carol", "level": "mentions"})
    bob.told("archive", **{"with": "carol"})
    bob.told("delete", **{"with": "dave"})
    for op in ["mute", "archive", "delete"]:
        new.wait_for("changes", op=op)
    items, answer = first_screen(new)
    assert list(items) == ["eve", "alice", "carol"]
    assert (answer["unread"], answer["mentions"]) == (1, 0)
    assert (items["carol"]["mute"], items["carol"]["archived"]) == ("mentions", True)
    with chat.visit("dave") as dave:
        assert shown(dave, "bob") == [(1, "hello from dave")], "the other side keeps its copy"


@pytest.mark.behaviour(54)
def test_only_the_writer_edits_and_retracts_and_no_text_of_before_is_left(chat):
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", BOBS)
    alice, web = chat.device("alice"), chat.device("bob", "web", page=True)
    first = alice.sent("bob", "teh first")
    edit = alice.sent("bob", "the first", type="edit", ref=first)
    assert web.wait_for("messages", sid=edit)["ref"] == first
    refused = web.send("alice", "mine", type="edit", ref=first)
    web.error("FORBIDDEN", ref=refused)
    chat.wait_push(BOBS, type="message", sid=first)
    alice.sent("bob", None, type="retract", ref=first)
    chat.wait_push(BOBS, type="clear", sid=first, only="1")
    assert web.wait_for("messages", type="retract")["ref"] == first

    # A push that waits for somebody who looks never goes.
    tablet = chat.device("bob", "tablet", silent=True)
    tablet.look()
    web.look_away()
    second = alice.sent("bob", "not to be pushed")
    alice.sent("bob", None, type="retract", ref=second)
    tablet.look_away()
    third = alice.sent("bob", "to be pushed")
    chat.wait_push(BOBS, type="message", sid=third)
    assert second not in chat.pushed_sids(BOBS)
    for device, peer in [(alice, "bob"), (web, "alice")]:
        kept = [text for _, text in shown(device, peer)]
        assert kept == ["hello", "hello", "retracted", "retracted", "to be pushed"]
        assert [item.get("why") for item in device.told("sync")["items"]].count("retracted") == 3, "and the edit of it"
