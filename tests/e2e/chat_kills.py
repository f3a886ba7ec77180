"""Chat in which the bridge is killed again and again: who kills it, what is written meanwhile, and the marks of what comes twice."""

import json
import random
import threading
from collections import Counter, defaultdict

import pytest
from chat_clients import Device, holds

# Kills in a round.
KILLS = 3
# Before the first item that there is.
BEGINNING = "0" * 16


def rounds(at_landing: int, all_of_them: int = 20) -> list:
    """The seeds of a test: a few at each landing, the others with the campaigns."""
    return [*range(at_landing), *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(at_landing, all_of_them))]


class Killer(threading.Thread):
    """Kills the bridge while the others go on, and starts it again."""

    def __init__(self, chat, dice: random.Random, longest: float = 0.8, kills: int = KILLS):
        super().__init__()
        self.chat, self.stopped, self.fault = chat, threading.Event(), None
        self.pauses = [dice.uniform(0.05, longest) for _ in range(kills)]

    def run(self):
        try:
            for pause in self.pauses:
                self.stopped.wait(pause)
                self.chat.restart()
        except BaseException as fault:  # noqa: BLE001: told in the test's own thread
            self.fault = fault

    def end(self):
        """Waits for the last kill."""
        self.join()
        assert self.fault is None, self.fault


class Talk:
    """What devices publish, without waiting for an answer."""

    def __init__(self):
        self.packets: list[tuple[Device, str, int]] = []

    def begin(self, device: Device, suffix: str, document: dict, **options):
        packet = device.begin(f"{device.user}/self/{suffix}", document, **options)
        self.packets.append((device, suffix, packet))

    def end(self):
        """Everything is acknowledged."""
        for device, suffix, packet in self.packets:
            assert device.end(packet) == "taken", (device.user, device.dev, suffix)


def received(device: Device, suffix: str, **fields) -> list[tuple[dict, bool]]:
    """Each document of a topic of the inbox, with whether it says itself that it may be known."""
    topic = f"{device.user}/others/{suffix}"
    pairs = [(packet, json.loads(packet.payload)) for packet in device.packets if packet.topic == topic]
    return [(document, packet.dup or bool(document.get("redelivered"))) for packet, document in pairs if holds(document, fields)]


def copies(device: Device, suffix: str = "messages", **fields) -> list[bool]:
    """For each copy of a document, whether it says itself that it may be known."""
    return [is_marked for _, is_marked in received(device, suffix, **fields)]


def firsts(device: Device, suffix: str, *names: str, **fields) -> list[dict]:
    """The documents of a topic, each once, as they came. Those are one that agree in these fields: a further one has a mark."""
    unmarked, found = Counter(), {}
    for document, is_marked in received(device, suffix, **fields):
        key = tuple(document.get(name) for name in names)
        found.setdefault(key, document)
        unmarked[key] += not is_marked
    twice = [key for key, count in unmarked.items() if count > 1]
    assert not twice, f"{device.user}:{device.dev}: twice without a mark on {suffix}: {twice}"
    return list(found.values())


def check_pushes(pushes: list[dict], wanted: set[str], unwanted: set[str], may_miss=lambda _sid: False):
    """A phone was pushed for these and not for those; more than once only where a kill came between the push service's taking of
    it and the answer, when nobody can know that it arrived."""
    counts = Counter(push["sid"] for push in pushes if push["type"] == "message")
    missing = [sid for sid in wanted if not counts[sid] and not may_miss(sid)]
    assert not missing, f"never pushed: {missing}"
    assert not counts.keys() & unwanted, f"pushed for nothing: {counts.keys() & unwanted}"
    assert all(count <= 1 + KILLS for count in counts.values()), counts
    assert sum(count - 1 for count in counts.values()) <= KILLS * 3, counts


def is_cleared(clears: list[dict], sid: str) -> bool:
    """By itself, or with all up to a later one."""
    return any(clear["sid"] == sid or "only" not in clear and clear["sid"] >= sid for clear in clears)


def all_pages(device: Device, op: str, word: str, **fields) -> list[dict]:
    """All items of a request that answers in pages; `word` is what asks for the next one."""
    items, fields = [], dict(fields)
    while True:
        page = device.told(op, **fields)
        items += page["items"]
        if page["complete"]:
            return items
        fields[word] = page["next"] if "next" in page else page["items"][-1]["sid"]


def applied(items: list[dict]) -> dict[str, dict]:
    """Messages by their sid, after the edits and retracts among them."""
    shown: dict[str, dict] = {}
    later = defaultdict(list)
    for item in sorted(items, key=lambda item: item["sid"]):
        if item.get("type") in ("edit", "retract") or "n" not in item:
            later[item.get("ref")].append(item)
        else:
            shown[item["sid"]] = dict(item)
    for sid, changes in later.items():
        for change in changes:
            if sid in shown and change["type"] == "edit":
                shown[sid]["body"] = change["body"]
            elif sid in shown and change["type"] == "retract":
                shown[sid] = {**{k: v for k, v in shown[sid].items() if k != "body"}, "type": "tombstone"}
    return shown
