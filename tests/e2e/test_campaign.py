"""The long fault run: ten thousand messages each way, everything goes wrong, and the bridge is killed three times."""

import time
from collections import defaultdict

import pytest
from harness import check_settled, check_upstream, eventually, mine

pytestmark = pytest.mark.campaign
MESSAGES = 10_000
KILLS = 3
PATIENCE = 600.0

FAULTS = {
    "lose_ack": 0.001,
    "lose_ack_reset_ms": 20,
    "reset_after": 900,
    "drain_after": 600,
    "drain": {"notice": "control", "close_ms": 500},
    "nack": [
        {"code": "SERVICE_UNAVAILABLE", "chance": 0.005},
        {"code": "INTERNAL_SERVER_ERROR", "chance": 0.003},
        {"code": "SOMETHING_NEW", "chance": 0.002},
    ],
    "duplicate_upstream": 0.02,
    "duplicate_receipt": 0.02,
    "split_writes": True,
    "latency_ms": 2,
    "jitter_ms": 5,
}


def report(name: str, began: float, figures: dict, sim):
    stats = sim.stats()
    print(f"\n{name}: {time.monotonic() - began:.0f} s, {figures}, kills {KILLS}, logins {stats['logins']}")
    print(f"  faults: {stats['faults']}, nacks: {stats['nacks']}, violations: {stats['violations']}")


def kill_at(bridge, progress, marks):
    """Kills the bridge and starts it again each time `progress()` has come to the next mark."""
    for mark in marks:
        eventually(lambda: progress() >= mark, f"{mark} of {MESSAGES}", PATIENCE)
        bridge.kill9()
        bridge.start()


MARKS = [MESSAGES * n // (KILLS + 1) for n in range(1, KILLS + 1)]


def test_ten_thousand_pushes_end_in_exactly_one_final_status_each(sim, bridge, bal):
    devices = [f"phone{n}" for n in range(100)]
    ids = [f"m{n:05}" for n in range(MESSAGES)]
    sim.faults(**FAULTS)
    began = time.monotonic()
    for n, message_id in enumerate(ids):
        bal.push(message_id, devices[n % len(devices)])
    kill_at(bridge, lambda: sim.stats()["delivered"], MARKS)
    bal.wait_final(ids, PATIENCE)
    figures = check_settled(bal, sim, ids, devices)
    assert figures["delivered"] == MESSAGES
    overtaken = 0
    for token in devices:
        first = list(dict.fromkeys(mine(sim.got(token))))
        overtaken += sum(a > b for a, b in zip(first, first[1:]))
    # README: a pipelined message may overtake a refused one that was in flight with it, and nothing else may.
    assert overtaken <= sim.stats()["faults"]["nacks"]
    figures["overtaken_a_refused_one"] = overtaken
    assert sim.stats()["violations"]["window"] == 0
    assert len({status["id"] for status in bal.on("receipts")}) == MESSAGES
    report("downstream", began, figures, sim)


def test_ten_thousand_messages_of_devices_arrive_once_and_in_order(sim, bridge, bal):
    sim.faults(**FAULTS)
    # Faults by the count of messages to devices would never come here: cuts and drains are ordered below.
    began = time.monotonic()
    distinct: set[str] = set()

    def progress() -> int:
        distinct.update(body["id"] for body in bal.on("messages"))
        return len(distinct)

    sent = 0
    resets = 0
    for mark in [*MARKS, MESSAGES]:
        while sent < mark:
            # 10 of each of 50 devices at a time, and then the connection is cut or drained in the middle of it.
            sim.call("POST", "/upstream", {"devices": 50, "per_device": 10, "prefix": "phone"})
            sent += 500
            eventually(lambda: progress() >= sent - 400, f"{sent} are on their way", PATIENCE)
            resets += sim.call("POST", "/drain" if resets % 2 else "/reset", {})["connections"]
        if mark < MESSAGES:
            bridge.kill9()
            bridge.start()
    bal.wait(lambda: len({body["id"] for body in bal.on("messages")}) >= MESSAGES, "all of them", PATIENCE)
    figures = check_upstream(bal, MESSAGES)
    counts: dict[str, set] = defaultdict(set)
    for body in bal.on("messages"):
        counts[body["token"]].add(body["ccs_id"])
    assert {len(ids) for ids in counts.values()} == {MESSAGES // 50}
    eventually(lambda: sim.stats()["now"]["unacked"] == 0, "CCS has all acknowledgements")
    report("upstream", began, {**figures, "cuts_and_drains": resets}, sim)
