"""The bridge is killed in mid-flow, again and again, and nothing that it acknowledged is lost."""

import json
import re

import paho.mqtt.client as mqtt
import pytest
from harness import DUP, Bal, check_settled, check_upstream, eventually

DEVICES = [f"phone{n}" for n in range(10)]
ROUNDS = 3
PER_ROUND = 300
TOLD = ["accepted", "sent", "delivered"]


def ids_of(turn: int) -> list[str]:
    return [f"r{turn}-{n:04}" for n in range(PER_ROUND)]


def push_all(bal: Bal, ids: list[str]) -> list[int]:
    return [bal.push(message_id, DEVICES[n % len(DEVICES)]) for n, message_id in enumerate(ids)]


def in_order_but_for_copies(messages: list[dict]) -> bool:
    """A copy may come late, but nothing comes for the first time behind a younger one."""
    first = list(dict.fromkeys(message["data"]["mine"] for message in messages))
    return first == sorted(first)


def test_kills_in_mid_flow_lose_no_push_and_double_none_without_a_mark(sim, bridge, bal):
    # Long enough that a busy machine kills while messages are in flight.
    sim.faults(latency_ms=150)
    ids: list[str] = []
    for turn in range(ROUNDS):
        ids += ids_of(turn)
        before = sim.stats()["delivered"]
        mids = push_all(bal, ids_of(turn))
        eventually(lambda: sim.stats()["delivered"] >= before + 60, "the flow is on")
        connections = bal.connections
        bridge.kill9()
        bridge.start()
        # paho sends what is published between its CONNECT and the CONNACK ahead of what waits to be published.
        eventually(lambda: bal.connections > connections, "the BAL is there again")
        bal.wait_acked(*mids)
    bal.wait_final(ids, patience=60)
    figures = check_settled(bal, sim, ids, DEVICES)
    assert figures["delivered"] == ROUNDS * PER_ROUND
    assert all(in_order_but_for_copies(sim.got(token)) for token in DEVICES)
    recoveries = [line for line in bridge.logs().splitlines() if "recovery.crashed=" in line]
    assert len(recoveries) == ROUNDS + 1 and any(re.search(r"recovery\.crashed=[1-9]", line) for line in recoveries)


def test_kills_in_mid_flow_lose_no_message_of_a_device(sim, bridge, bal):
    per_device = PER_ROUND // len(DEVICES)
    for turn in range(ROUNDS):
        before = len(bal.on("messages"))
        sim.call("POST", "/upstream", {"devices": len(DEVICES), "per_device": per_device, "prefix": "phone"})
        bal.wait(lambda: len(bal.on("messages")) >= before + 40, "the flow is on")
        bridge.kill9()
        bridge.start()
    expected = ROUNDS * PER_ROUND

    def all_there():
        return len({body["id"] for body in bal.on("messages")}) >= expected

    bal.wait(all_there, "all messages of devices", patience=60)
    check_upstream(bal, expected)
    eventually(lambda: sim.stats()["now"]["unacked"] == 0, "CCS has all acknowledgements")


def test_a_stop_in_mid_flow_is_orderly_and_loses_nothing(sim, bridge, bal):
    bal.dup_is_mark = True
    sim.faults(latency_ms=30)
    ids: list[str] = []
    for turn in range(2):
        ids += ids_of(turn)
        before = sim.stats()["delivered"]
        push_all(bal, ids_of(turn))
        sim.call("POST", "/upstream", {"devices": 10, "per_device": 20, "prefix": "phone"})
        eventually(lambda: sim.stats()["delivered"] >= before + 60, "the flow is on")
        assert bridge.stop() == 0
        bridge.start()
    bal.wait_final(ids, patience=60)
    check_settled(bal, sim, ids, DEVICES)
    bal.wait(lambda: len({body["id"] for body in bal.on("messages")}) >= 400, "all messages of devices")
    check_upstream(bal, 400)
    # An orderly stop waits for the answers, so that nothing had to be sent twice.
    assert sim.stats()["duplicates"] == 0
    assert "took too long" not in bridge.logs()


@pytest.mark.parametrize("reader", ["there", "away"])
def test_statuses_survive_a_kill(sim, bridge, reader):
    bal = Bal("client1", bridge.port, filters=["client1/others/+"] if reader == "there" else ["none"]).connect()
    bal.push("a1", "phone")
    eventually(lambda: sim.stats()["receipts"]["acked"] == 1, "the bridge has the receipt")
    bridge.kill9()
    bridge.start()
    late = Bal("client1", bridge.port, client_id="client1:late").connect()
    words = eventually(lambda: (w := bal.words("a1") + late.words("a1"))[-1:] == ["delivered"] and w, "the statuses")
    assert list(dict.fromkeys(words)) == ["accepted", "sent", "delivered"]
    bal.close()
    late.close()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_statuses_on_a_response_topic_come_again_only_with_a_mark(sim, bridge, end):
    answers = mqtt.Properties(mqtt.PacketTypes.PUBLISH)
    answers.ResponseTopic, answers.CorrelationData = "client1/my/answers", b"c-1"
    # Its session is kept, and it acknowledges nothing by itself.
    bal = Bal("client1", bridge.port, filters=["client1/my/answers"])
    bal.client.manual_ack_set(True)
    bal.dup_is_mark = end == "stop"
    bal.connect()
    bal.publish({"id": "a1", "token": "phone", "data": {}}, properties=answers)
    bal.wait_words("a1", TOLD)
    bridge.kill9() if end == "kill" else bridge.stop()
    bridge.start()
    # Whatever comes of the former run is in front of what is told of this one.
    bal.publish({"id": "fence", "token": "phone", "data": {}}, properties=answers)
    bal.wait(lambda: "delivered" in bal.words("fence"), "the fence")
    again = bal.statuses("a1")[3:]
    assert [body["status"] for body in again] == TOLD
    mark = "redelivered" if end == "kill" else DUP
    assert all(mark in body for body in again) and {body["corr"] for body in again} == {"Yy0x"}
    bal.close()


@pytest.mark.parametrize("version", [mqtt.MQTTv5, mqtt.MQTTv311], ids=["mqtt5", "mqtt311"])
def test_what_is_published_again_after_a_kill_is_answered_again_with_a_mark(sim, bridge, version):
    bal = Bal("client1", bridge.port, version).connect()
    taken, refused = {"id": "a1", "token": "phone", "data": {}}, {"id": "a2", "data": {}}
    mids = [bal.publish(taken), bal.publish(refused)]
    bal.wait_acked(*mids)
    bal.wait(lambda: "delivered" in bal.words("a1") and bal.words("a2") == ["failed"], "the answers")
    bal.wait_on("errors", 1)
    eventually(lambda: bridge.counts()["outbox"] == {}, "the bridge has the acknowledgement of every document")
    connections = bal.connections
    bridge.kill9()
    bridge.start()
    eventually(lambda: bal.connections > connections, "the BAL is there again")
    # As if the PUBACKs had been lost with the bridge: the flag DUP is what paho sets on what it publishes once more.
    for mid, payload in zip(mids, [taken, refused]):
        bal.client._send_publish(mid, b"client1/self/messages", json.dumps(payload).encode(), 1, dup=True)
    told = bal.wait_on("receipts", 6)
    delivered = {field: value for field, value in bal.statuses("a1")[2].items() if field != "device_ts"}
    assert [body for body in told if "redelivered" in body] == [
        {**delivered, "redelivered": True},
        {**bal.statuses("a2")[0], "ts": told[-1]["ts"], "redelivered": True},
    ]
    first, again = bal.wait_on("errors", 2)
    assert again == {**first, "ts": again["ts"], "redelivered": True}
    bal.close()
