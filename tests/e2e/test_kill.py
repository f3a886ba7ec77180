"""The bridge is killed in mid-flow, again and again, and nothing that it acknowledged is lost."""

import pytest
from harness import Bal, check_settled, check_upstream, eventually

DEVICES = [f"phone{n}" for n in range(10)]
ROUNDS = 3
PER_ROUND = 300


def ids_of(turn: int) -> list[str]:
    return [f"r{turn}-{n:04}" for n in range(PER_ROUND)]


def push_all(bal: Bal, ids: list[str]):
    for n, message_id in enumerate(ids):
        bal.push(message_id, DEVICES[n % len(DEVICES)])


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
        push_all(bal, ids_of(turn))
        eventually(lambda: sim.stats()["delivered"] >= before + 60, "the flow is on")
        bridge.kill9()
        bridge.start()
    bal.wait_final(ids, patience=60)
    figures = check_settled(bal, sim, ids, DEVICES)
    assert figures["delivered"] == ROUNDS * PER_ROUND
    assert all(in_order_but_for_copies(sim.got(token)) for token in DEVICES)
    recoveries = [line for line in bridge.logs().splitlines() if "recovery=" in line]
    assert len(recoveries) == ROUNDS + 1 and any("crashed: 0" not in line for line in recoveries)


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
