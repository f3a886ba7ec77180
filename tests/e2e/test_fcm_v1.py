"""What only FCM HTTP v1 has: the words of its statuses, its faults, its credentials, several projects at once."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from apps import Apps
from harness import Bal, Sim, ccs_section, eventually, finals, mine, project
from ways import FCM_V1, VERDICTS

TOLD = ["accepted", "sent", "delivered"]
PROVIDER_ID = re.compile(r"projects/demo-project/messages/\S+")
# Longer than the first wait of the breaker, and than that for a message of which nobody knows what became of it.
LONG = 60.0


@pytest.fixture
def sim(tmp_path):
    sim = Sim(tmp_path / "sim", way=FCM_V1)
    yield sim
    sim.close()


@pytest.fixture
def listener(bridge):
    listener = Bal("ops", bridge.port, clean=True, filters=["_bridge/#"]).connect()
    yield listener
    listener.close()


def v1_only(sim: Sim, more: str = "") -> str:
    """Without any CCS."""
    return f'[transport]\ndefault = "fcm-v1"\n[fcm]\n{project(sim)}{more}'


def rules(sim: Sim, *rules: dict, **more):
    sim.call("PUT", "/v1/faults", {"rules": list(rules), **more})


def figures(sim: Sim) -> dict:
    return sim.call("GET", "/v1/stats")


def raw(sim: Sim, token: str) -> list[dict]:
    """What a device got, with nothing taken off."""
    return sim.call("GET", f"/devices/{token}")["messages"]


def events(listener: Bal, word: str) -> list[dict]:
    return [body for topic, body in list(listener.messages) if topic == "_bridge/events" and body["event"] == word]


class TestStatuses:
    def test_sent_has_the_name_that_google_gave_and_delivered_is_the_word_of_the_app(self, sim, bridge, bal):
        bridge.apps.silent.set()
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD[:2])
        bridge.apps.silent.clear()
        bal.wait_words("a1", TOLD)
        accepted, sent, delivered = bal.statuses("a1")
        assert "transport" not in accepted and "provider_id" not in accepted
        assert (sent["transport"], sent["source"]) == ("fcm-v1", "provider")
        assert PROVIDER_ID.fullmatch(sent["provider_id"])
        assert (delivered["transport"], delivered["source"]) == ("fcm-v1", "app")
        [message] = raw(sim, "phone")
        assert message["data"] == {"mine": "a1", "mid": message["message_id"], "ack": "self/receipts"}

    def test_without_a_word_of_the_app_a_message_stays_sent(self, sim, bal):
        sim.set_device("mute", receipts=False)
        bal.push("a1", "mute")
        bal.push("fence", "phone")
        bal.wait_words("fence", TOLD)
        bal.wait_words("a1", ["accepted", "sent"])

    def test_an_app_that_confirms_before_the_answer_leaves_no_step_back(self, sim, bal):
        rules(sim, confirm_before_answer=True, latency_ms=500)
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        assert "provider_id" not in bal.statuses("a1")[1], "what was delivered was sent; Google has not said so yet"
        rules(sim)
        bal.push("a2", "phone")
        bal.wait_words("a2", TOLD)
        assert bal.words("a1") == TOLD

    def test_where_the_apps_do_not_confirm_sent_is_the_last_word(self, sim, make_bridge):
        bridge = make_bridge(back_door=v1_only(sim, "app_receipts = false\n")).start()
        bal = Bal("client1", bridge.port).connect()
        bal.push("a1", "phone")
        bal.wait_words("a1", ["accepted", "sent"])
        assert "ack" not in raw(sim, "phone")[0]["data"] and figures(sim)["confirmations"] == 0
        assert bridge.trace("a1")["state"] == "sent"
        bal.close()

    def test_each_verdict_says_what_to_do_with_the_token(self, sim, bal, listener):
        for word in VERDICTS:
            bal.push(word, f"sim-{word}:phone")
        for word, verdict in VERDICTS.items():
            last = bal.wait_words(word, ["accepted", "failed"])
            assert (last["code"], last["token_action"]) == verdict, word
            assert (last["transport"], last["source"], last["attempt"]) == ("fcm-v1", "provider", 1)
            assert "dup_possible" not in last and word not in last.get("detail", "")
        listener.wait(lambda: len(events(listener, "token_removed")) == 2, "two tokens are removed")
        listener.wait(lambda: len(events(listener, "refused")) == 2, "two want an operator")
        assert {event["code"] for event in events(listener, "refused")} == {"SENDER_ID_MISMATCH", "INVALID_APNS_CREDENTIAL"}
        assert figures(sim)["requests"] == len(VERDICTS)

    def test_topics_and_conditions_are_sent_without_a_word_on_tokens(self, sim, bridge, bal):
        bridge.apps.silent.set()
        sim.set_device("reader", topics=["news", "sport"])
        sim.set_device("quiet", topics=["news", "quiet"])
        bal.publish({"id": "t1", "topic": "news", "data": {"n": 1}})
        bal.publish({"id": "t2", "condition": "'sport' in topics && !('quiet' in topics)", "data": {"n": 2}})
        bal.publish({"id": "t3", "topic": "nobody", "data": {"n": 3}})
        for message_id in ("t1", "t2", "t3"):
            bal.wait(lambda i=message_id: "sent" in bal.words(i), message_id)
            sent = bal.statuses(message_id)[1]
            assert PROVIDER_ID.fullmatch(sent["provider_id"]) and "token_action" not in sent
        assert [m["data"]["n"] for m in sim.got("reader")] == ["1", "2"]
        assert [m["data"]["n"] for m in sim.got("quiet")] == ["1"]

    def test_what_is_for_apple_arrives_as_it_was_said(self, sim, bal):
        apple = {"headers": {"apns-priority": "5"}, "payload": {"aps": {"thread-id": "t-7", "sound": "bell"}, "mine": [1, {"k": None}]}}
        bal.push("a1", "iphone", notification={"title": "Hello", "badge": "3"}, collapse="x", fcm={"mutable_content": True, "apns": apple})
        bal.wait_words("a1", TOLD)
        [message] = raw(sim, "iphone")
        shown = message["apns"]
        assert shown["headers"]["apns-priority"] == "5" and shown["headers"]["apns-collapse-id"] == "x"
        assert int(shown["headers"]["apns-expiration"]) > message["at"] / 1000
        aps = shown["payload"]["aps"]
        assert (aps["thread-id"], aps["sound"], aps["badge"], aps["mutable-content"]) == ("t-7", "bell", 3, 1)
        assert shown["payload"]["mine"] == [1, {"k": None}]

    def test_what_is_handed_through_arrives_as_fcm_wants_it_and_is_confirmed(self, sim, bal):
        android = {"ttl": 3600, "data": {"count": 1}, "notification": {"channelId": "news", "notificationCount": "2"}}
        bal.push("a1", "phone", fcm={"android": android, "webpush": {"headers": {"TTL": 60}, "data": {"n": [1]}}})
        bal.wait_words("a1", TOLD)
        [message] = raw(sim, "phone")
        assert message["data"] == {"count": "1", "mid": message["message_id"], "ack": "self/receipts"}
        assert "detail" not in bal.statuses("a1")[1]
        bal.push("a2", "phone", fcm={"android": {"ttl": "soon"}})
        last = bal.wait_words("a2", ["accepted", "failed"])
        assert (last["code"], last["token_action"]) == ("INVALID_JSON", "keep") and "`android.ttl`" in last["detail"]
        assert not {"attempt", "transport", "source"} & last.keys(), "FCM was not asked"

    def test_what_wakes_an_app_of_apple_shows_nothing_and_is_not_urgent(self, sim, bal):
        bal.push("a1", "iphone", priority="high", fcm={"content_available": True})
        bal.wait_words("a1", TOLD)
        [message] = raw(sim, "iphone")
        headers, aps = message["apns"]["headers"], message["apns"]["payload"]["aps"]
        assert (headers["apns-push-type"], headers["apns-priority"]) == ("background", "5")
        assert aps["content-available"] == 1 and "alert" not in aps

    def test_a_message_without_anything_to_show_costs_no_iphone_its_token(self, sim, bridge, bal, listener):
        bridge.apps.silent.set()
        bal.push("plain", "iphone", priority="high", collapse="c", ttl=600)
        bal.push("own", "iphone", priority="high", fcm={"apns": {"headers": {"apns-priority": "10"}}})
        bal.wait_words("plain", TOLD[:2])
        bal.wait_words("own", TOLD[:2])
        plain, own = raw(sim, "iphone")
        assert plain["apns"] is None
        assert own["apns"]["headers"]["apns-priority"] == "5" and own["apns"]["payload"]["aps"]["content-available"] == 1
        assert "priority 5" in bal.statuses("own")[1]["detail"] and "detail" not in bal.statuses("plain")[1]
        assert events(listener, "token_removed") == []


class TestWays:
    def test_a_bridge_without_ccs_neither_has_nor_names_it(self, sim, make_bridge):
        bridge = make_bridge(back_door=v1_only(sim)).start()
        assert bridge.readyz() == (200, {"ready": True, "fcm-v1": "up", "mqtt": "open", "store": "ok", "intake": "taking"})
        assert bridge.transports_up() == {"fcm-v1": 1}, "no word of what is not configured"
        assert "ccs" not in bridge.metrics()
        bal = Bal("client1", bridge.port, filters=["client1/others/+", "_bridge/status"]).connect()
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        # A retained one may come once more when it changes, so the last one counts.
        said = lambda: [body for topic, body in list(bal.messages) if topic == "_bridge/status"]
        bal.wait(lambda: said() and said()[-1]["transports"] == {"fcm-v1": "up"}, "the status names the transport as up")
        assert all("ccs" not in status for status in said())
        assert sim.call("GET", "/stats")["logins"] == 0
        sim.stop()
        bridge.wait_ready(503)
        assert bridge.readyz()[1]["fcm-v1"] == "down"
        bal.push("a2", "phone")
        sim.start()
        bal.wait_words("a2", TOLD, LONG)
        bal.close()
        assert bridge.stop() == 0

    def test_one_bridge_speaks_ccs_and_with_two_projects(self, tmp_path, sim, make_bridge):
        shop = Sim(tmp_path / "shop", "--project", "shop-project", way=FCM_V1)
        ways = (
            f'{ccs_section(sim)}[transport]\ndefault = "ccs"\n[transport.categories]\n"com.example.chat" = "fcm-v1"\n'
            f'"com.example.shop" = "fcm-v1:shop"\n[fcm]\n{project(sim)}[fcm.projects.shop]\n{project(shop)}'
        )
        bridge = make_bridge(back_door=ways).start()
        assert {"ccs": "up", "fcm-v1": "up", "fcm-v1:shop": "up"}.items() <= bridge.readyz()[1].items()
        bridge.apps.close()
        bal = Bal("client1", bridge.port).connect()
        for n in range(20):
            bal.push(f"o{n}", "old", category="com.example.old")
            bal.push(f"c{n}", "chat", category="com.example.chat")
            bal.push(f"s{n}", "shop", category="com.example.shop")
        # The word of an app may overtake FCM's answer, and with it the name that FCM gives: the apps wait.
        for n in range(20):
            bal.wait_words(f"c{n}", TOLD[:2])
            bal.wait_words(f"s{n}", TOLD[:2])
        bridge.apps, customers = Apps(sim, bridge.port), Apps(shop, bridge.port)
        for n in range(20):
            assert bal.wait_words(f"o{n}", TOLD)["transport"] == "ccs"
            assert bal.wait_words(f"c{n}", TOLD)["transport"] == "fcm-v1"
            assert bal.wait_words(f"s{n}", TOLD)["transport"] == "fcm-v1"
            assert "provider_id" not in bal.statuses(f"o{n}")[1]
            assert PROVIDER_ID.fullmatch(bal.statuses(f"c{n}")[1]["provider_id"])
            assert bal.statuses(f"s{n}")[1]["provider_id"].startswith("projects/shop-project/messages/")
        assert (sim.call("GET", "/stats")["messages"], figures(sim)["requests"], figures(shop)["requests"]) == (20, 20, 20)
        assert (mine(sim.got("old")), mine(sim.got("chat")), mine(shop.got("shop"))) == tuple(
            [f"{kind}{n}" for n in range(20)] for kind in "ocs"
        )
        assert bridge.transports_up() == {"ccs": 1, "fcm-v1": 1, "fcm-v1:shop": 1}
        bal.push("gone", "sim-unregistered:shop", category="com.example.shop")
        bal.wait_words("gone", ["accepted", "failed"])
        assert bridge.refusals() == {("fcm-v1:shop", "DEVICE_UNREGISTERED"): 1}
        # One of them in trouble is no trouble for the others.
        shop.stop()
        bridge.wait_ready(503)
        bal.push("s20", "shop", category="com.example.shop")
        bal.push("o20", "old", category="com.example.old")
        bal.push("c20", "chat", category="com.example.chat")
        bal.wait_words("o20", TOLD)
        bal.wait_words("c20", TOLD)
        assert bal.words("s20") == ["accepted"]
        assert bridge.transports_up() == {"ccs": 1, "fcm-v1": 1, "fcm-v1:shop": 0}
        shop.start()
        bal.wait_words("s20", TOLD, LONG)
        customers.close()
        bal.close()
        shop.close()

    def test_no_connection_has_more_streams_than_fcm_takes(self, sim, bal):
        rules(sim, latency_ms=1500)
        ids = [f"m{n}" for n in range(300)]
        for message_id in ids:
            bal.push(message_id, f"phone-{message_id}")
        bal.wait_final(ids, LONG)
        assert all(bal.words(message_id) == TOLD for message_id in ids)
        stats = figures(sim)
        assert (stats["accepted"], stats["duplicates"], set(stats["violations"].values())) == (300, 0, {0})
        assert stats["streams_peak"] <= 100 and stats["connections"] >= 2


class TestOperatorsFaults:
    """Nothing gets through until somebody mends something: nothing fails, no token is lost, and it goes on by itself."""

    def stopped(self, bridge, bal, listener, word: str) -> list[str]:
        ids = [f"m{n}" for n in range(20)]
        for message_id in ids:
            bal.push(message_id, f"phone-{message_id}")
        eventually(lambda: bridge.readyz()[1]["fcm-v1"] == word, f"/readyz says {word}")
        assert bridge.readyz()[0] == 503
        listener.wait(lambda: events(listener, "auth_failed"), "the event auth_failed")
        [event] = events(listener, "auth_failed")
        assert event["transport"] == "fcm-v1" and event["detail"].startswith(word)
        # Each is told on a topic of its own, in no order.
        def said():
            status = [body for topic, body in list(listener.messages) if topic == "_bridge/status"][-1]
            return (status["state"], status["transports"]["fcm-v1"], status["ccs"]) == ("degraded", word, "up")

        listener.wait(said, "_bridge/status says so as well")
        return ids

    def mended(self, sim, bridge, bal, listener, ids: list[str]):
        bal.wait_final(ids, LONG)
        bridge.wait_ready()
        assert all(bal.words(message_id) == TOLD for message_id in ids)
        assert all(mine(sim.got(f"phone-{message_id}")) == [message_id] for message_id in ids)
        assert not events(listener, "token_removed") and not events(listener, "refused")
        assert len(events(listener, "auth_failed")) == 1
        states = lambda: [body["state"] for topic, body in list(listener.messages) if topic == "_bridge/status"]
        listener.wait(lambda: states()[-1] == "online", "_bridge/status says that it works again")
        assert "degraded" in states()

    @pytest.mark.parametrize(
        ("fault", "word"),
        [("api-disabled", "api_disabled"), ("no-project", "unknown_project"), ("permission-denied", "permission_denied")],
    )
    def test_a_fault_of_the_project_stops_everything_until_it_is_mended(self, sim, bridge, bal, listener, fault, word):
        rules(sim, {"then": fault})
        ids = self.stopped(bridge, bal, listener, word)
        asked = figures(sim)["requests"]
        assert asked < len(ids) * 2, "a project that is not there is not asked again and again"
        rules(sim)
        self.mended(sim, bridge, bal, listener, ids)

    def test_credentials_that_buy_no_token_stop_everything_until_they_do(self, sim, bridge, bal, listener):
        rules(sim, authority="invalid-grant")
        assert sim.call("DELETE", "/v1/tokens")["revoked"] == 1
        ids = self.stopped(bridge, bal, listener, "no_access_token")
        assert "invalid_grant" in events(listener, "auth_failed")[0]["detail"]
        rules(sim)
        self.mended(sim, bridge, bal, listener, ids)

    def test_a_key_of_another_project_costs_no_token(self, sim, bridge, bal, listener):
        rules(sim, {"then": "sender-id-mismatch"})
        ids = self.stopped(bridge, bal, listener, "sender_mismatch")
        rules(sim)
        bal.wait_final(ids, LONG)
        bridge.wait_ready()
        # Those that were refused before it was clear that it is not about tokens are few, and their tokens are kept.
        failed = [message_id for message_id in ids if finals(bal, message_id) == ["failed"]]
        assert len(failed) < 8 and all(bal.statuses(i)[-1]["token_action"] == "quarantine" for i in failed)
        assert all(bal.words(message_id) == TOLD for message_id in ids if message_id not in failed)
        assert not events(listener, "token_removed")

    def test_a_message_that_alone_meets_such_a_fault_stops_nobody_for_long(self, sim, bridge, bal, listener):
        rules(sim, {"then": "no-project", "prefix": "odd"})
        bal.push("odd", "odd-phone")
        bridge.wait_ready(503)
        ids = [f"m{n}" for n in range(20)]
        for message_id in ids:
            bal.push(message_id, f"phone-{message_id}")
        for message_id in ids:
            bal.wait_words(message_id, TOLD)
        bridge.wait_ready()
        assert bal.words("odd") == ["accepted"]
        eventually(lambda: [e for e in bridge.trace("odd")["log"] if e["event"] == "retry"], "it waits by itself", LONG)
        assert bridge.readyz()[0] == 200 and len(events(listener, "auth_failed")) == 1
        rules(sim)
        bal.wait_final(["odd"], LONG)
        assert bal.words("odd") == TOLD and not events(listener, "token_removed")


class TestCredentials:
    """The service account is read again while the bridge runs."""

    # Before the wait after a second refusal of the credentials can be over.
    SOON = 8.0

    def account(self, sim, folder: Path, **change) -> Path:
        file = folder / "account.json"
        file.write_text(json.dumps(json.loads(sim.credentials.read_text()) | change))
        return file

    def a_key(self) -> str:
        made = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
        return subprocess.run(made, capture_output=True, text=True, check=True).stdout

    @pytest.mark.parametrize("named_by", ["configuration", "environment"])
    @pytest.mark.parametrize("told_by", ["SIGHUP", "change"])
    def test_with_a_new_service_account_what_waited_goes_at_once(self, tmp_path, sim, make_bridge, named_by, told_by):
        account = self.account(sim, tmp_path, private_key=self.a_key())
        ways = v1_only(sim)
        if named_by == "environment":
            ways = re.sub("credentials_file = .*", "", ways)
        else:
            ways = re.sub("credentials_file = .*", f'credentials_file = "{account}"', ways)
        bridge = make_bridge(back_door=ways)
        bridge.start(ready=False, env={"GOOGLE_APPLICATION_CREDENTIALS": str(account)} if named_by == "environment" else None)
        listener = Bal("ops", bridge.port, clean=True, filters=["_bridge/#"])
        eventually(lambda: "bridge started" in bridge.logs(), "it starts")
        listener.connect()
        bal = Bal("client1", bridge.port).connect()
        bal.push("a1", "phone")
        eventually(lambda: bridge.readyz()[1].get("fcm-v1") == "no_access_token", "the key is refused")
        # The waits between two attempts become longer than the test is patient.
        eventually(lambda: bridge.logs().count("no access token: ") >= 5, "it is refused again and again", LONG)
        server = f"127.0.0.1:{sim.token_port} (token_uri in {account}, fcm.credentials_file)"
        assert server in bridge.logs()
        self.account(sim, tmp_path)
        if told_by == "SIGHUP":
            bridge.hang_up()
        bal.wait_words("a1", TOLD, self.SOON)
        assert bridge.transports_up() == {"fcm-v1": 1}
        listener.close()
        bal.close()

    def test_a_broken_service_account_is_told_without_quoting_it_and_the_old_one_holds(self, tmp_path, sim, make_bridge):
        account = self.account(sim, tmp_path)
        ways = re.sub("credentials_file = .*", f'credentials_file = "{account}"', v1_only(sim))
        bridge = make_bridge(back_door=ways).start()
        told = lambda: bridge.logs().count("cannot be used as they are now")
        for n, broken in enumerate(['{"type": "service_account", "private_key": "hush-hush"', "hush-hush", '{"type": "hush-hush"}']):
            account.write_text(broken)
            bridge.hang_up()
            eventually(lambda: told() > n, "it is told")
        self.account(sim, tmp_path, project_id="hush-hush")
        bridge.hang_up()
        eventually(lambda: "that of another project" in bridge.logs(), "so is another project")
        assert "hush-hush" not in bridge.logs() and str(account) in bridge.logs()
        assert sim.call("DELETE", "/v1/tokens")["revoked"] == 1
        bal = Bal("client1", bridge.port).connect()
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        bal.close()

    def test_credentials_that_may_not_send_are_tried_again_at_once_when_they_are_read_again(self, sim, bridge, bal):
        rules(sim, {"then": "permission-denied"})
        bal.push("a1", "phone")
        eventually(lambda: bridge.readyz()[1]["fcm-v1"] == "permission_denied", "/readyz says so")
        rules(sim)
        bridge.hang_up()
        bal.wait_words("a1", TOLD, self.SOON)


def test_errors_of_connections_name_the_server_and_the_key_of_the_configuration(sim, bridge, listener):
    api, ccs = f"127.0.0.1:{sim.fcm_port} (fcm.base_url)", f"127.0.0.1:{sim.ccs_port} (ccs.host)"
    sim.stop()
    bridge.wait_ready(503)
    for server in (api, ccs):
        eventually(lambda: re.search(rf"WARN.*{re.escape(server)}.*cannot connect", bridge.logs()), f"{server} in the log")
        listener.wait(lambda: [e for e in events(listener, "reconnect") if e["detail"].startswith(server)], f"{server} in an event")


class TestRetries:
    def test_an_access_token_that_ended_is_renewed_and_nobody_notices(self, sim, bridge, bal):
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        sold = figures(sim)["tokens"]
        assert sim.call("DELETE", "/v1/tokens")["revoked"] == 1
        ids = [f"m{n}" for n in range(20)]
        for message_id in ids:
            bal.push(message_id, f"phone-{message_id}")
        for message_id in ids:
            last = bal.wait_words(message_id, TOLD)
            assert last["attempt"] <= 2 and "dup_possible" not in last
        assert (figures(sim)["tokens"], figures(sim)["duplicates"]) == (sold + 1, 0)
        assert bridge.readyz()[0] == 200

    def test_a_used_up_quota_of_a_device_delays_it_for_as_long_as_fcm_says(self, sim, bridge, bal):
        rules(sim, {"then": "device-quota", "times": 1, "prefix": "slow", "retry_after": {"seconds": 3}})
        bal.push("s1", "slow")
        eventually(lambda: figures(sim)["mishaps"], "the refusal")
        bal.push("s2", "slow")
        bal.push("f1", "fast")
        bal.wait_words("f1", TOLD)
        assert bal.words("s1") == bal.words("s2") == ["accepted"]
        assert bal.wait_words("s1", TOLD)["attempt"] == 2
        bal.wait_words("s2", TOLD)
        [wait] = [entry["due"] - entry["at"] for entry in bridge.trace("s1")["log"] if entry["event"] == "retry"]
        # Up to a fifth more by chance, so that not all come at once.
        assert 2_950 <= wait <= 3_650
        assert mine(sim.got("slow")) == ["s1", "s2"]

    def test_a_used_up_quota_of_the_project_delays_everybody_for_as_long_as_fcm_says(self, sim, bridge, bal):
        rules(sim, {"then": "project-quota", "times": 1, "retry_after": {"seconds": 3}})
        bal.push("a1", "phone")
        eventually(lambda: bridge.readyz()[1]["fcm-v1"] == "quota_exceeded", "/readyz says quota_exceeded")
        bal.push("a2", "tablet")
        bal.wait_words("a2", TOLD)
        bal.wait_words("a1", TOLD)
        bridge.wait_ready()
        first, second = raw(sim, "phone")[0]["at"], raw(sim, "tablet")[0]["at"]
        assert min(first, second) - bal.statuses("a1")[0]["ts"] >= 2_900

    @pytest.mark.long(15)
    def test_what_was_unanswered_at_a_cut_is_sent_again_and_marked_unless_the_app_has_it(self, sim, bal):
        rules(sim, latency_ms=3_000)
        mute, frank = [f"mute{n}" for n in range(25)], [f"frank{n}" for n in range(25)]
        for token in mute:
            sim.set_device(token, receipts=False)
        for token in [*mute, *frank]:
            bal.push(token, token)
        eventually(lambda: figures(sim)["requests"] == 50, "50 are unanswered")
        rules(sim)
        sim.call("POST", "/reset", {})
        for token in frank:
            bal.wait_words(token, TOLD)
        for token in mute:
            bal.wait(lambda i=token: "sent" in bal.words(i), token, LONG)
            assert bal.statuses(token)[-1]["dup_possible"] is True
        assert all(mine(sim.got(token)) == [token, token] for token in mute)
        assert all(mine(sim.got(token)) == [token] for token in frank)

    def test_where_no_duplicate_is_wanted_an_unanswered_message_fails(self, sim, make_bridge):
        bridge = make_bridge(back_door=v1_only(sim, 'on_ambiguous = "report"\n')).start()
        bal = Bal("client1", bridge.port).connect()
        for token in ("a", "b"):
            sim.set_device(token, receipts=False)
        rules(sim, {"then": "accept-reset-stream", "prefix": "a"}, {"then": "reset-connection", "prefix": "b"})
        for token in ("a", "b"):
            bal.push(token, token)
            last = bal.wait_words(token, ["accepted", "failed"])
            assert (last["code"], last["dup_possible"], last["token_action"]) == ("AMBIGUOUS", True, "keep")
        assert (mine(sim.got("a")), mine(sim.got("b")), figures(sim)["requests"]) == (["a"], [], 2)
        bal.close()

    @pytest.mark.parametrize("fault", ["refuse-stream", "goaway", "unauthenticated", "unauthenticated-page"])
    def test_what_was_certainly_not_processed_goes_again_at_once_and_unmarked(self, sim, bal, fault):
        # The app's word may overtake that of FCM, with which the tries are counted.
        sim.set_device("phone", receipts=False)
        rules(sim, {"then": fault, "times": 1})
        bal.push("a1", "phone")
        bal.wait(lambda: "sent" in bal.words("a1"), "a1 is sent", LONG)
        last = bal.statuses("a1")[-1]
        assert last["attempt"] == 2 and not any("dup_possible" in status for status in bal.statuses("a1"))
        assert mine(sim.got("phone")) == ["a1"]


def test_neither_key_nor_token_is_ever_shown(tmp_path, sim, make_bridge):
    key = json.loads(sim.credentials.read_text())["private_key"]
    lines = [line for line in key.splitlines() if line and not line.startswith("-")]
    assert len(lines) > 20
    # What access tokens and signed assertions begin with.
    secrets = [*lines, "ya29.", "eyJ", "BEGIN PRIVATE"]
    bridge = make_bridge().start(log="trace")
    reader = Bal("ops", bridge.port, clean=True, filters=["#"]).connect()
    bal = Bal("client1", bridge.port).connect()
    bal.push("a1", "phone")
    bal.wait_words("a1", TOLD)
    sim.call("DELETE", "/v1/tokens")
    bal.push("a2", "sim-unregistered:phone")
    bal.wait_words("a2", ["accepted", "failed"])
    rules(sim, {"then": "unauthenticated", "times": 2}, authority="invalid-grant")
    sim.call("DELETE", "/v1/tokens")
    bal.push("a3", "phone")
    eventually(lambda: bridge.readyz()[1]["fcm-v1"] == "no_access_token", "/readyz says so")
    rules(sim)
    bal.wait_words("a3", TOLD, LONG)
    assert figures(sim)["tokens"] >= 3 and figures(sim)["token_refusals"]
    told = "".join(str(message.payload) for message in reader.packets)
    reader.close()
    bal.close()
    assert bridge.stop() == 0
    disk = b"".join(path.read_bytes() for path in bridge.folder.rglob("bridge.db*")).decode(errors="replace")
    logs = bridge.logs()
    assert "transport stopped" in logs and "a1" in told and disk
    for name, text in {"log": logs, "topics": told, "disk": disk}.items():
        shown = [secret for secret in secrets if secret in text]
        assert not shown, f"{name} shows {shown[:3]}"
