"""Ten situations as an operator meets them: `/readyz`, `/metrics`, `_bridge/stats` and `trace` agree, and name the cause."""

import json
import re

import pytest
from harness import Bal, Bridge, Sim, ccs_section, eventually, project, run
from test_operations import leave, small_disk  # noqa: F401: a fixture
from ways import FCM_V1

TOLD = ["accepted", "sent", "delivered"]
# Stats come every ten seconds.
STATS = 25.0
# After an outage of some seconds the next connection may be put off for so long: the longest back-off, and a bit.
BACK = 75.0


class Operator:
    """Looks at a bridge in four places."""

    def __init__(self, bridge: Bridge):
        self.bridge = bridge
        self.listener = Bal("ops", bridge.port, clean=True, filters=["_bridge/#"]).connect()

    def number(self, name: str, **labels) -> int:
        """A metric with these labels; 0 if it is not there."""
        wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        found = re.search(rf"^{name}{re.escape('{' + wanted + '}') if wanted else ''} (\S+)$", self.bridge.metrics(), re.M)
        return int(float(found[1])) if found else 0

    def stats(self) -> dict:
        told = [body for topic, body in list(self.listener.messages) if topic == "_bridge/stats"]
        return told[-1] if told else {"transports": {}}

    def trace(self, message_id: str) -> str:
        done = run("trace", message_id, "--config", self.bridge.config)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def agrees(self, way: str, state: str, cause: str, message_id: str):
        """All four say of a way that it stands so, for that cause; `trace` says it of a message that waits."""
        def readyz():
            told = self.bridge.readyz()[1]
            return told.get(way) == state and cause in told.get("why", {}).get(way, "")

        eventually(readyz, f"/readyz says {state}: {cause}")
        eventually(lambda: self.number("bridge_transport_state", state=state, transport=way) == 1, "/metrics says so")
        assert self.number("bridge_transport_up", transport=way) == (state == "up")
        waits = lambda: re.search(rf"now: .*{way} is {state}: .*{re.escape(cause)}", self.trace(message_id))
        eventually(waits, f"trace says {state}: {cause}")
        def stats():
            told = self.stats()["transports"].get(way, {})
            return told.get("state") == state and cause in told.get("why", "")

        eventually(stats, f"_bridge/stats says {state}: {cause}", STATS)

    def is_well(self, way: str):
        eventually(lambda: self.bridge.readyz()[0] == 200 and "why" not in self.bridge.readyz()[1], "/readyz is well")
        eventually(lambda: self.number("bridge_transport_state", state="up", transport=way) == 1, "/metrics says so")


@pytest.fixture
def watch():
    made = []

    def watch(bridge: Bridge) -> Operator:
        made.append(Operator(bridge))
        return made[-1]

    yield watch
    for operator in made:
        operator.listener.close()


@pytest.fixture
def v1(tmp_path):
    sim = Sim(tmp_path / "v1", way=FCM_V1)
    yield sim
    sim.close()


@pytest.fixture
def v1_bridge(tmp_path, v1):
    section = f'[transport]\ndefault = "fcm-v1"\n[fcm]\n{project(v1)}'
    bridge = Bridge(tmp_path / "v1-bridge", v1, back_door=section).start()
    yield bridge
    bridge.close()


@pytest.fixture
def v1_bal(v1_bridge):
    bal = Bal("client1", v1_bridge.port).connect()
    yield bal
    bal.close()


@pytest.mark.ccs_only("the sections are named by each test")
class TestCcs:
    @pytest.mark.long(40)
    def test_the_peer_is_down(self, sim, bridge, bal, watch):
        operator = watch(bridge)
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        sim.stop()
        bridge.wait_ready(503)
        bal.push("a2", "phone")
        bal.wait_words("a2", ["accepted"])
        operator.agrees("ccs", "down", f"127.0.0.1:{sim.ccs_port} (ccs.host): ", "a2")
        assert operator.number("bridge_transport_reconnects_total", transport="ccs") == 1
        eventually(lambda: operator.stats()["transports"]["ccs"]["due"] == 1, "the queue is counted", STATS)
        eventually(lambda: operator.number("bridge_queue_messages", state="due", transport="ccs") == 1, "and in /metrics")
        sim.start()
        bal.wait_words("a2", TOLD, BACK)
        operator.is_well("ccs")

    def test_the_key_is_wrong(self, tmp_path, sim, make_bridge, watch):
        key = tmp_path / "ccs.key"
        key.write_text("AIza-a-wrong-key\n")
        bridge = make_bridge(back_door=ccs_section(sim).replace(f'"{sim.key}"', f'"{key}"')).start(ready=False)
        eventually(lambda: bridge.readyz()[1].get("ccs") == "auth_failed", "the key is refused")
        operator = watch(bridge)
        bal = Bal("client1", bridge.port).connect()
        bal.push("a1", "phone")
        bal.wait_words("a1", ["accepted"])
        operator.agrees("ccs", "auth_failed", "not-authorized", "a1")
        assert operator.number("bridge_transport_auth_failures_total", transport="ccs") >= 1
        assert 0 < operator.number("bridge_transport_next_try_seconds", transport="ccs") <= 40
        bal.close()

    def test_connections_are_drained_one_after_the_other(self, sim, bridge, bal, watch):
        operator = watch(bridge)
        sim.faults(drain_after=10, drain={"close_ms": 60_000})
        ids = [f"m{n}" for n in range(45)]
        for message_id in ids:
            bal.push(message_id, f"phone-{message_id}")
        bal.wait_final(ids)
        drains = lambda: operator.number("bridge_transport_drains_total", transport="ccs")
        eventually(lambda: drains() >= 4, "the drains are counted")
        draining = operator.number("bridge_transport_connections", state="draining", transport="ccs")
        assert draining >= 2 and operator.number("bridge_transport_connections", state="up", transport="ccs") == 1
        def stats():
            told = operator.stats()["transports"].get("ccs", {})
            return told.get("drains", 0) >= 4 and told["connections"].get("draining", 0) >= 2 and told["state"] == "up"

        eventually(stats, "_bridge/stats says so", STATS)
        assert bridge.readyz()[0] == 200
        assert "sent: the push service has taken it" in operator.trace(ids[-1])

    def test_the_window_is_full(self, sim, bridge, bal, watch):
        operator = watch(bridge)
        sim.faults(latency_ms=50_000)
        ids = [f"m{n}" for n in range(150)]
        for message_id in ids:
            bal.push(message_id, f"phone-{message_id}")
        operator.agrees("ccs", "up", "the window is full: 100 of 100 messages are unanswered", ids[-1])
        assert operator.number("bridge_transport_unanswered", transport="ccs") == 100
        assert operator.number("bridge_transport_window", transport="ccs") == 100
        assert bridge.readyz()[0] == 200

    @pytest.mark.long(17)
    def test_the_push_service_puts_everybody_off(self, sim, bridge, bal, watch):
        operator = watch(bridge)
        sim.faults(nack=[{"code": "SERVICE_UNAVAILABLE"}])
        ids = [f"m{n}" for n in range(300)]
        for message_id in ids:
            bal.push(message_id, f"phone-{message_id}")
        cause = "refused with SERVICE_UNAVAILABLE: nothing is sent for a while"
        # The pauses become longer, and there is a moment between them.
        eventually(lambda: operator.number("bridge_transport_pause_seconds", transport="ccs") >= 16, "it pauses", 60)
        operator.agrees("ccs", "up", cause, ids[-1])
        assert bridge.refusals()[("ccs", "SERVICE_UNAVAILABLE")] >= 20
        told = operator.trace(ids[0])
        assert re.search(r"attempt 1: refused for now \(SERVICE_UNAVAILABLE.*\); next at \S+ \(in \d", told), told

    def test_a_bal_is_away(self, sim, make_bridge, watch):
        bridge = make_bridge().start(log="info,message_log=debug")
        operator = watch(bridge)
        for n in range(3):
            sim.upstream("phone", {"n": str(n)})
        eventually(lambda: operator.number("bridge_spool_rows") == 3, "/metrics counts them")
        eventually(lambda: operator.stats().get("spool") == 3, "_bridge/stats counts them", STATS)
        assert bridge.readyz()[0] == 200 and bridge.counts()["spool"] == 3
        [sid, *_] = re.findall(r"message of a device: to disk.*sid=(\w{16})", bridge.logs())
        assert "now: waits for client1 to read it" in operator.trace(sid)

    def test_the_disk_is_full(self, sim, make_bridge, small_disk, watch):  # noqa: F811
        bridge = make_bridge(db=small_disk / "bridge.db").start()
        operator = watch(bridge)
        bal = Bal("client1", bridge.port).connect()
        sim.stop()
        bridge.wait_ready(503)
        bal.push("first", "phone")
        bal.wait_words("first", ["accepted"])
        leave(small_disk, 100 * 1024)
        for n in range(200):
            bal.publish({"id": f"m{n}", "token": "phone", "data": {"k": "v" * 3000}})
        eventually(lambda: "full" in bridge.readyz()[1].get("store", ""), "/readyz says so")
        eventually(lambda: operator.number("bridge_store_blocked") == 1, "/metrics says so")
        eventually(lambda: "full" in operator.stats().get("store", ""), "_bridge/stats says so", STATS)
        assert re.search(r"now: .*the store is blocked: .*full", operator.trace("first"))
        bal.close()

    def test_one_message_is_poisoned(self, sim, bridge, bal, watch):
        operator = watch(bridge)
        sim.set_device("odd", refuse={"code": "INVALID_JSON", "times": 9})
        bal.push("bad", "odd")
        bal.push("good", "phone")
        bal.wait_words("bad", ["accepted", "failed"])
        bal.wait_words("good", TOLD)
        assert "failed: INVALID_JSON" in operator.trace("bad")
        assert bridge.refusals() == {("ccs", "INVALID_JSON"): 1}
        eventually(lambda: operator.stats().get("nacks") == {"INVALID_JSON": 1}, "_bridge/stats counts it", STATS)
        operator.is_well("ccs")


@pytest.mark.ccs_only("the sections are named by each test")
class TestV1:
    def test_the_quota_of_the_project_is_used_up(self, v1, v1_bridge, v1_bal, watch):
        operator = watch(v1_bridge)
        v1.call("PUT", "/v1/faults", {"rules": [{"then": "project-quota", "times": 1, "retry_after": {"seconds": 45}}]})
        v1_bal.push("a1", "phone")
        operator.agrees("fcm-v1", "quota_exceeded", f"127.0.0.1:{v1.fcm_port} (fcm.base_url): ", "a1")
        assert "given back untried" in operator.trace("a1")
        assert 0 < operator.number("bridge_transport_next_try_seconds", transport="fcm-v1") <= 45

    @pytest.mark.long(15)
    def test_one_device_has_had_its_share_of_a_minute(self, v1, v1_bridge, v1_bal, watch):
        operator = watch(v1_bridge)
        ids = [f"m{n}" for n in range(400)]
        for message_id in ids:
            v1_bal.push(message_id, "phone")
        eventually(lambda: len(v1.got("phone")) > 62, "the first go at once")
        waits = re.compile(r"now: .*behind an earlier message of its recipient; fcm-v1 is up: held: 240/min of this device \(next try at ")
        eventually(lambda: waits.search(operator.trace(ids[-1])), "trace says what holds it")
        held = lambda: "held: 240/min of this device" in v1_bridge.readyz()[1].get("why", {}).get("fcm-v1", "")
        eventually(held, "/readyz says so")

    @pytest.mark.long(15)
    def test_the_token_server_is_down(self, v1, v1_bridge, v1_bal, watch):
        operator = watch(v1_bridge)
        age = operator.number("bridge_transport_access_token_age_seconds", transport="fcm-v1")
        assert age < 60 and "bridge_transport_access_token_age_seconds{" in v1_bridge.metrics()
        v1.call("PUT", "/v1/faults", {"authority": "unavailable"})
        v1.call("DELETE", "/v1/tokens")
        v1_bal.push("a1", "phone")
        operator.agrees("fcm-v1", "no_access_token", "no access token: ", "a1")
        told = operator.trace("a1")
        assert re.search(r"no access token: 127\.0\.0\.1:\d+ \(token_uri in .*\(since \d{4}-", told), told
        v1.call("PUT", "/v1/faults", {})
        v1_bal.wait_words("a1", TOLD)
        operator.is_well("fcm-v1")

    def test_the_breaker_is_open(self, v1, v1_bridge, v1_bal, watch):
        operator = watch(v1_bridge)
        v1.call("PUT", "/v1/faults", {"rules": [{"then": "permission-denied"}]})
        v1_bal.push("a1", "phone")
        operator.agrees("fcm-v1", "permission_denied", f"127.0.0.1:{v1.fcm_port} (fcm.base_url): ", "a1")
        assert "given back untried" in operator.trace("a1") and "permission_denied" in operator.trace("a1")

    @pytest.mark.long(15)
    def test_a_cut_is_no_refusal_and_every_attempt_has_its_time(self, v1, v1_bridge, v1_bal, watch):
        operator = watch(v1_bridge)
        v1.set_device("phone", receipts=False)
        v1.call("PUT", "/v1/faults", {"rules": [{"then": "accept-reset-stream", "times": 1}]})
        v1_bal.push("a1", "phone")
        v1_bal.wait(lambda: "sent" in v1_bal.words("a1"), "it goes again", 60)
        told = operator.trace("a1")
        assert re.search(r"attempt 1: no answer: .*; next at \S+ \(in 1\d\.\d s\)", told) and "refused" not in told, told
        times = re.findall(r"^  (\S+Z)  ", told, re.M)
        assert len(times) == 5 and times == sorted(times), told
        [log] = v1_bridge.trace("a1")["log"]
        assert (log["attempt"], log["code"]) == (1, "AMBIGUOUS") and log["from"] <= log["at"] < log["due"]

    def test_where_an_app_cannot_confirm_sent_is_the_last_word(self, v1, v1_bridge, v1_bal, watch):
        v1_bal.publish({"id": "a1", "token": "phone", "data": {"mid": "my own", "k": "v"}})
        last = v1_bal.wait_words("a1", ["accepted", "sent"])
        assert "its confirmation do not travel" in last["detail"]
        assert "final_at" in v1_bridge.trace("a1") and "now:" not in watch(v1_bridge).trace("a1")
        assert json.loads(run("outbox", "--store", v1_bridge.db, "--json").stdout)["counts"]["deliveries"] == {"sent": 1}
