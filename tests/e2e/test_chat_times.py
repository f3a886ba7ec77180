"""When messages are sent and deleted, and when devices want to be pushed."""

import json
import time

import pytest

BEHAVIOURS = {56: "`not_before` and `expires`", 61: "`first`, `quiet`, `badge`"}
TOKEN = "bobs-token"


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.mark.behaviour(56)
def test_a_message_is_sent_at_its_time_across_a_kill_and_deleted_at_another(chat):
    chat.befriend("alice", "bob")
    chat.register("bob", "phone", TOKEN)
    alice = chat.device("alice")
    not_before, expires = now_ms() + 3_000, now_ms() + 5_500
    message = alice.send("bob", "at its time", not_before=not_before, expires=expires)
    other = alice.send("bob", "never", not_before=not_before)
    alice.wait_statuses(message, ["scheduled"])
    assert [item["id"] for item in alice.told("schedule")["items"]] == [message, other]
    alice.told("cancel", message=other)
    alice.wait_statuses(other, ["scheduled", "cancelled"])
    alice.close()
    chat.restart()
    alice = chat.device("alice", "laptop")
    copy = alice.stamped(message)
    assert not_before <= copy["ts"] < not_before + 1_000
    assert "not_before" not in copy and copy["expires"] == expires
    alice.wait_statuses(message, ["sent"])
    assert chat.wait_push(TOKEN, type="message")["sid"] == copy["sid"]
    chat.wait_push(TOKEN, type="clear", sid=copy["sid"])
    assert now_ms() >= expires
    assert chat.pushed_sids(TOKEN) == [copy["sid"]]
    with chat.visit("bob") as bob:
        items = bob.told("sync")["items"]
    [left] = [item for item in items if item["sid"] == copy["sid"]]
    assert (left["type"], left["why"], left["n"]) == ("tombstone", "expired", items[-2]["n"] + 1)
    assert "at its time" not in json.dumps(items) and "never" not in json.dumps(items)


@pytest.mark.behaviour(61)
def test_a_phone_is_pushed_once_and_without_a_sound_by_night_with_the_number_on_its_icon(chat):
    chat.befriend("alice", "bob")
    hour = lambda off: time.strftime("%H:%M", time.gmtime(time.time() + off * 3_600))  # noqa: E731
    quiet = {"from": hour(-1), "to": hour(1), "tz": "Etc/UTC"}
    chat.register("bob", "phone", TOKEN, platform="ios", first=True, badge="server", quiet=quiet)
    alice = chat.device("alice")
    first, second = alice.sent("bob", "by night"), alice.sent("bob", "and once more")
    assert chat.pushed_sids(TOKEN) == [first]
    [record] = [one for one in chat.records(TOKEN) if one["data"].get("sid") == first]
    unread = record["data"]["unread"]
    assert record["notification"] == {"badge": unread}
    with chat.visit("bob", "laptop") as laptop:
        why = [laptop.told("explain", sid=sid)["items"][0] for sid in (first, second)]
        assert [(item["verdict"], item["rule"], item["why"]) for item in why] == [
            ("push_silently", 5, "quiet"),
            ("none", 5, "first"),
        ]
        laptop.read("alice", second)
    cleared = chat.wait_push(TOKEN, type="clear")
    assert (cleared["sid"], cleared["unread"]) == (second, "0")
    third = alice.sent("bob", "another absence")
    assert chat.pushed_sids(TOKEN) == [first, third]
