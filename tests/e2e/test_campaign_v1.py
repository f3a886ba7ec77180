"""The long fault run over FCM HTTP v1: fifty thousand pushes, everything goes wrong, and the bridge is killed three times."""

import hashlib
import time
from collections import defaultdict

import pytest
from harness import Bal, Sim, eventually, finals, mine
from ways import FCM_V1, VERDICTS

pytestmark = pytest.mark.campaign
MESSAGES = 50_000
KILLS = 3
PATIENCE = 900.0
# Enough that no device comes near its quota of 240 in a minute.
DEVICES = [f"phone{n:04}" for n in range(1_000)]
# Of the messages, the share that goes to tokens that are refused, one mishap to each.
BAD_EVERY = 50
SOON = {"retry_after": {"seconds": 1}}
# Everything after which a message is tried again, or of which nobody can know. The waits that Google asks for make each
# of those without `retry_after` cost ten seconds.
RULES = [
    {"then": "unavailable", "chance": 0.003, **SOON},
    {"then": "unavailable", "chance": 0.001},
    {"then": "internal", "chance": 0.002, **SOON},
    {"then": "bad-gateway", "chance": 0.001, **SOON},
    {"then": "gateway-timeout", "chance": 0.001},
    {"then": "device-quota", "chance": 0.002, **SOON},
    {"then": "quota-exceeded", "chance": 0.001, "retry_after": {"date": 2}},
    {"then": "project-quota", "chance": 0.0001, **SOON},
    {"then": "unspecified-error", "chance": 0.0002},
    {"then": "new-code", "chance": 0.0002},
    {"then": "unauthenticated", "chance": 0.0005},
    {"then": "unauthenticated-page", "chance": 0.0005},
    # Of these each by itself would stop the project, if it did not meet single messages only.
    {"then": "api-disabled", "chance": 0.0002},
    {"then": "permission-denied", "chance": 0.0002},
    {"then": "no-project", "chance": 0.0002},
    {"then": "refuse-stream", "chance": 0.002},
    {"then": "goaway", "chance": 0.0005},
    {"then": "reset-stream", "chance": 0.001},
    {"then": "reset-connection", "chance": 0.0003},
    {"then": "silence", "chance": 0.0001},
    {"then": "accept-reset-stream", "chance": 0.001},
    {"then": "accept-reset-connection", "chance": 0.0003},
    {"then": "accept-silence", "chance": 0.0001},
    {"then": "accept-unavailable", "chance": 0.001},
    {"then": "accept-internal", "chance": 0.001, **SOON},
    {"then": "accept-bad-gateway", "chance": 0.0005},
    {"then": "accept-cut", "chance": 0.001},
]
FAULTS = {"rules": RULES, "latency_ms": 5, "jitter_ms": 20, "goaway_after": 2_000}
# Connections of a minute, and idle ones of four seconds; access tokens of half a minute.
AGEING = ("--fcm-time-divisor", 60, "--fcm-token-life", 30)


@pytest.fixture
def sim(tmp_path):
    sim = Sim(tmp_path / "sim", *AGEING, way=FCM_V1)
    yield sim
    sim.close()


def token_of(n: int) -> str:
    if n % BAD_EVERY:
        return DEVICES[n % len(DEVICES)]
    word = list(VERDICTS)[n // BAD_EVERY % len(VERDICTS)]
    return f"sim-{word}:{n}"


def verdict_on(token: str) -> tuple[str, str]:
    return VERDICTS[token.removeprefix("sim-").split(":")[0]]


def check_bad(bal: Bal, bad: dict[str, str]):
    """What was refused for good failed with its word, and only a dead or malformed token is to be removed."""
    for message_id, token in bad.items():
        [last] = [status for status in bal.statuses(message_id) if status["status"] == "failed"][:1] or [{}]
        assert (last.get("code"), last.get("token_action")) == verdict_on(token), (message_id, token, bal.statuses(message_id))


def check_good(bal: Bal, sim: Sim, good: list[str]) -> dict:
    copies: dict[str, int] = defaultdict(int)
    overtaken: list[tuple[str, str, str]] = []
    for token in DEVICES:
        arrived = mine(sim.got(token))
        first = list(dict.fromkeys(arrived))
        overtaken += [(token, a, b) for a, b in zip(first, first[1:]) if a > b]
        for message_id in arrived:
            copies[message_id] += 1
    statuses = {i: bal.statuses(i) for i in good}
    undelivered = {i: statuses[i][-1] for i in good if finals(bal, i) != ["delivered"]}
    assert not undelivered, f"not delivered: {list(undelivered.values())[:5]}"
    missing = [i for i in good if not copies[i]]
    assert not missing, f"told delivered and never at the device: {missing[:5]}"
    marked = {i for i in good if any(status.get("dup_possible") for status in statuses[i])}
    twice = {i for i in good if copies[i] > 1}
    assert twice <= marked, f"twice at the device without dup_possible: {sorted(twice - marked)[:5]}"
    odd = [i for i in good if any(status.get("token_action", "keep") != "keep" for status in statuses[i])]
    assert not odd, f"a good token is to be given up: {statuses[odd[0]]}"
    assert not overtaken, f"{len(overtaken)} messages of a recipient came out of order: {overtaken[:20]}"
    tries = max(status.get("attempt", 0) for told in statuses.values() for status in told)
    return {"delivered": len(good), "twice_at_device": len(twice), "dup_possible": len(marked), "most_tries": tries}


def test_fifty_thousand_pushes_over_v1_end_in_exactly_one_final_status_each(sim, bridge, bal):
    sim.call("PUT", "/v1/faults", FAULTS)
    tokens = {f"m{n:05}": token_of(n) for n in range(MESSAGES)}
    listener = Bal("ops", bridge.port, filters=["_bridge/events"]).connect()
    began = time.monotonic()
    for message_id, token in tokens.items():
        bal.push(message_id, token)
    for mark in (MESSAGES * n // (KILLS + 1) for n in range(1, KILLS + 1)):
        eventually(lambda m=mark: sim.stats()["delivered"] >= m, f"{mark} of {MESSAGES}", PATIENCE)
        bridge.kill9()
        bridge.start()
    bal.wait_final(tokens, PATIENCE)
    seconds = time.monotonic() - began

    bad = {i: token for i, token in tokens.items() if token.startswith("sim-")}
    good = [i for i in tokens if i not in bad]
    many = {i: finals(bal, i) for i in tokens if len(finals(bal, i)) != 1}
    assert not many, f"{len(many)} without exactly one final status: {dict(list(many.items())[:5])}"
    assert set(bal.by_id) == set(tokens)
    check_bad(bal, bad)
    result = check_good(bal, sim, good)
    stats = sim.call("GET", "/v1/stats")
    removed = {body["token_hash"] for _, body in listener.messages if body["event"] == "token_removed"}
    dead = {token for token in bad.values() if verdict_on(token)[1] == "remove"}
    assert removed <= {hashlib.sha256(token.encode()).hexdigest()[:8] for token in dead}
    assert set(stats["violations"].values()) == {0}, stats["violations"]
    never = {rule["then"] for rule in RULES} - stats["mishaps"].keys()
    assert not never, f"these never happened: {never}"
    told = sum(bool(status.get("redelivered")) for i in tokens for status in bal.statuses(i))
    print(f"\nv1: {seconds:.0f} s, {MESSAGES / seconds:.0f}/s, {result}, refused {len(bad)}, kills {KILLS}, copies of statuses {told}")
    print(f"  requests {stats['requests']}, connections {stats['connections']}, tokens {stats['tokens']}, statuses {stats['statuses']}")
    print(f"  mishaps {stats['mishaps']}")
    print(f"  goaways {stats['goaways']}, unprocessed {stats['unprocessed']}, violations {stats['violations']}")
    listener.close()
