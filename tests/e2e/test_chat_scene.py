"""One scene with all of chat in it: two devices of alice, bob, and carol who keeps nothing, in a group and between two. At each
step the lists of all devices agree."""

import pytest
from chat import on_both_brokers

BEHAVIOURS = {53: "the lists of all devices agree at each step"}


def agree(expected: dict[str, int], *devices):
    """What is unread by conversation in the list of each device; the total is the sum."""
    for device in devices:
        answer = device.ask_until(
            lambda answer: {item["with"]: item["unread"] for item in answer["items"]} == expected,
            f"{device.user}:{device.dev} has {expected}",
            "conversations",
        )
        assert answer["complete"] and answer["unread"] == sum(expected.values()), answer


def without_storage(chat, user: str) -> tuple[dict, list]:
    """What a client knows that has just been installed: its list, and the history of each conversation."""
    device = chat.device(user, "new")
    listed = {item["with"]: item for item in device.told("conversations")["items"]}
    histories = {peer: device.told("history", **{"with": peer})["items"] for peer in listed}
    device.close()
    return listed, histories


@pytest.mark.behaviour(53)
@on_both_brokers
def test_everything_comes_to_every_device_and_all_lists_agree_at_each_step(chat):
    phone, laptop, bob = chat.device("alice", "phone"), chat.device("alice", "laptop"), chat.device("bob", "web")
    chat.register("carol", "phone", "carols-token")
    bob.sent("alice", "hi")
    carols = chat.write("carol", "alice", "hi from carol")
    agree({"bob": 1, "carol": 1}, phone, laptop)
    laptop.read("carol", carols)
    agree({"bob": 1, "carol": 0}, phone, laptop)
    group = phone.told("group.create", members=["bob", "carol"], name="Team")["group"]

    first = bob.sent(group, "first")
    agree({"bob": 1, "carol": 0, group: 1}, phone, laptop)
    agree({"alice": 0, group: 0}, bob)
    assert chat.wait_push("carols-token", type="message")["sid"] == first
    second = phone.sent(group, "second", mentions=["carol"])
    agree({"bob": 1, "carol": 0, group: 0}, phone, laptop)
    agree({"alice": 0, group: 1}, bob)
    for device in [laptop, bob]:
        assert device.got("second")["sid"] == second

    # Carol has nothing but her password: two requests, and one for each conversation that she opens.
    listed, histories = without_storage(chat, "carol")
    assert {peer: (item["unread"], item["mentions"]) for peer, item in listed.items()} == {"alice": (0, 0), group: (2, 1)}
    texts = [item.get("body") or item["event"] for item in histories[group]]
    assert (texts, listed[group]["name"]) == (["created", "first", "second"], "Team")
    assert listed[group]["last"]["sid"] == second and listed[group]["n"] == histories[group][-1]["n"] == 3

    # What bob takes back is nowhere any more, and what alice edits reads the same everywhere.
    bob.send(group, None, type="retract", ref=first)
    edit = phone.send(group, "second, with care", type="edit", ref=second)
    bob.wait_for("messages", id=edit)
    listed, histories = without_storage(chat, "carol")
    assert [item.get("body") for item in histories[group]] == [None, None, "second, with care"]
    assert (listed[group]["unread"], listed[group]["mentions"]) == (1, 1)
    carol = chat.device("carol", "phone")
    carol.read(group, second)
    agree({"alice": 0, group: 0}, carol)
    phone.wait(lambda: {r["by"] for r in phone.on("receipts", sid=second, status="read")} == {"carol"}, "her tick")
    bob.read(group, second)
    agree({"alice": 0, group: 0}, bob)
    told = {r["by"] for r in phone.on("receipts", sid=second, status="read")}
    assert told <= {"bob", "carol"}
