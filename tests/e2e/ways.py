"""The ways to the devices: what a test says in the words of CCS, said to the other side of the simulator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """A way, and the words by which statuses show it."""

    name: str
    # On whose word a message counts as delivered.
    witness: str


CCS = Way("ccs", "device")
FCM_V1 = Way("fcm-v1", "app")
WAYS = {way.name: way for way in (CCS, FCM_V1)}

# What CCS calls a refusal, as a mishap of the v1 side. Faults of the service say when to try again, so that a test does
# not wait for the ten seconds that Google asks for; where CCS says nothing but a code, v1 says nothing but a code.
REFUSALS = {
    "BAD_REGISTRATION": "invalid-token-field",
    "DEVICE_UNREGISTERED": "unregistered",
    "INVALID_JSON": "invalid-field",
    "SENDER_ID_MISMATCH": "sender-id-mismatch",
    "SERVICE_UNAVAILABLE": "unavailable",
    "INTERNAL_SERVER_ERROR": "internal",
    "DEVICE_MESSAGE_RATE_EXCEEDED": "device-quota",
    "TOPICS_MESSAGE_RATE_EXCEEDED": "topic-quota",
}
# What v1 says of a message for good, as a mishap, and what its sender is told: the code, and what to do with the token.
VERDICTS = {
    "unregistered": ("DEVICE_UNREGISTERED", "remove"),
    "invalid-registration": ("INVALID_JSON", "keep"),
    "invalid-token-field": ("BAD_REGISTRATION", "remove"),
    "sender-id-mismatch": ("SENDER_ID_MISMATCH", "quarantine"),
    "invalid-field": ("INVALID_JSON", "keep"),
    "invalid-argument": ("INVALID_JSON", "keep"),
    "no-details": ("INVALID_JSON", "keep"),
    "too-large": ("TOO_BIG", "keep"),
    "third-party-auth-error": ("INVALID_APNS_CREDENTIAL", "keep"),
}
# A word that nobody knows yet.
UNKNOWN = "new-code"
SAYS_WHEN = {"unavailable", "internal"}


def refusal(code: str, seconds: int = 1, **limits) -> dict:
    """A rule of the v1 side that refuses as CCS does with `code`."""
    mishap = REFUSALS.get(code, UNKNOWN)
    return {"then": mishap, **({"retry_after": {"seconds": seconds}} if mishap in SAYS_WHEN else {}), **limits}


def refusals(token: str, code: str, times: int = 1) -> list[dict]:
    """Rules that refuse the next messages to a device, each asking for a longer wait than the one before."""
    return [refusal(code, 2**turn, times=1, prefix=token) for turn in range(times)]


def v1_faults(faults: dict) -> dict:
    """The plan of faults of CCS as one of the v1 side. What concerns messages of devices stays with CCS, whose session
    brings them on either way."""
    rules = [refusal(nack["code"], **{k: v for k, v in nack.items() if k != "code"}) for nack in faults.get("nack", [])]
    if "lose_ack" in faults:
        rules.append({"then": "accept-reset-connection", "chance": faults["lose_ack"]})
    if "reset_after" in faults:
        rules.append({"then": "reset-connection", "chance": 1 / faults["reset_after"]})
    plan = {name: faults[name] for name in ("latency_ms", "jitter_ms") if name in faults}
    if "drain_after" in faults:
        plan["goaway_after"] = faults["drain_after"]
    if "receipt_before_ack" in faults:
        plan["confirm_before_answer"] = faults["receipt_before_ack"]
    return {"rules": rules, **plan}


def v1_stats(stats: dict, v1: dict, confirmed: int) -> dict:
    """The counters of CCS, with those of the v1 side in the places of what goes to devices."""
    answers = {int(status): count for status, count in v1["statuses"].items()}
    refused = {status: count for status, count in answers.items() if status >= 400}
    violations = {**stats["violations"], "window": v1["violations"]["streams"]}
    return {
        **stats,
        "logins": v1["connections"],
        "messages": v1["requests"],
        "acks": answers.get(200, 0),
        "nacks": refused,
        "receipts": {"made": v1["confirmations"], "acked": confirmed},
        "violations": {**violations, **{name: v1["violations"][name] for name in ("pings", "protocol", "authority")}},
        "faults": {**stats["faults"], "nacks": sum(refused.values())},
    }


def as_shown(message: dict) -> dict:
    """What a device got, as CCS would have handed it over: without the keys by which the bridge's receipts work, and
    with the badge, which is Apple's."""
    data = {key: value for key, value in message["data"].items() if key not in ("mid", "ack")}
    badge = ((message["apns"] or {}).get("payload") or {}).get("aps", {}).get("badge")
    shown = message["notification"]
    if badge is not None:
        shown = {**(shown or {}), "badge": str(badge)}
    return {**message, "data": data, "notification": shown}
