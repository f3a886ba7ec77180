"""What topics.md promises, one behaviour to a test, seen from outside."""

import base64
import hashlib
import json
import socket
import time

import paho.mqtt.client as mqtt
import pytest
from harness import PATIENCE, Bal, Bridge, Sim, ccs_section, eventually, mine

TOLD = ["accepted", "sent", "delivered"]


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:8]


@pytest.fixture
def listener(bridge):
    """Somebody who reads what the bridge says about itself."""
    listener = Bal("ops", bridge.port, clean=True, filters=["_bridge/#"]).connect()
    yield listener
    listener.close()


def events(listener: Bal, word: str) -> list[dict]:
    return [body for topic, body in list(listener.messages) if topic == "_bridge/events" and body["event"] == word]


class TestUpstream:
    def test_a_message_of_a_device_is_one_json_object(self, sim, bal):
        before = time.time() * 1000
        sim.upstream("phone", {"body": "hello", "k": "v"}, category="com.example.chat")
        [message] = bal.wait_on("messages", 1)
        assert before - 1000 <= message.pop("ts") <= time.time() * 1000 + 1000
        assert len(message.pop("id")) == 16
        assert message == {
            "token": "phone",
            "category": "com.example.chat",
            "ccs_id": "1",
            "type": "message",
            "body": "hello",
            "data": {"body": "hello", "k": "v"},
        }

    def test_ccs_gets_its_acknowledgement_while_no_bal_is_there(self, sim, bridge):
        sim.upstream("phone", count=20)
        eventually(lambda: sim.stats()["upstream"]["acked"] == 20, "CCS has 20 acknowledgements")
        assert sim.stats()["violations"]["foreign_ack"] == 0
        eventually(lambda: bridge.metric("bridge_spool_rows") == 20, "20 wait")

    def test_a_message_that_ccs_repeats_is_acknowledged_again_and_told_once(self, sim, bal):
        sim.faults(duplicate_upstream=1.0)
        sim.upstream("phone", count=10)
        bal.wait_on("messages", 10)
        eventually(lambda: sim.stats()["now"]["unacked"] == 0, "every copy is acknowledged")
        sim.faults()
        sim.upstream("phone", message_id="last")
        bal.wait(lambda: bal.on("messages")[-1]["ccs_id"] == "last", "the last one")
        assert [message["ccs_id"] for message in bal.on("messages")] == [*map(str, range(1, 11)), "last"]

    def test_a_thousand_messages_wait_for_a_bal_that_is_away(self, sim, bridge):
        sim.upstream("phone", count=1000)
        eventually(lambda: sim.stats()["upstream"]["acked"] == 1000, "CCS has 1000 acknowledgements")
        bal = Bal("client1", bridge.port).connect()
        bal.wait_on("messages", 1000)
        sim.upstream("phone", message_id="last")
        bal.wait(lambda: bal.on("messages")[-1]["ccs_id"] == "last", "the last one")
        assert [message["ccs_id"] for message in bal.on("messages")] == [*map(str, range(1, 1001)), "last"]
        bal.close()

    def test_what_was_acknowledged_survives_a_kill_before_it_is_published(self, sim, bridge):
        sim.upstream("phone", {"k": "v"})
        eventually(lambda: sim.stats()["upstream"]["acked"] == 1, "CCS has its acknowledgement")
        bridge.kill9()
        bridge.start()
        bal = Bal("client1", bridge.port).connect()
        [message] = bal.wait_on("messages", 1)
        assert message["data"] == {"k": "v"}
        bal.close()

    def test_apps_go_to_their_bals_and_the_unknown_one_to_the_default(self, sim, bridge, bal):
        second = Bal("client2", bridge.port).connect()
        sim.upstream("phone", {"n": "1"}, category="com.example.second")
        sim.upstream("phone", {"n": "2"}, category="com.example.unknown")
        assert [m["data"]["n"] for m in second.wait_on("messages", 1)] == ["1"]
        assert [m["data"]["n"] for m in bal.wait_on("messages", 1)] == ["2"]
        second.close()

    def test_without_a_route_a_message_waits_until_there_is_one(self, sim, make_bridge):
        bridge = make_bridge(routes="").start()
        listener = Bal("ops", bridge.port, clean=True, filters=["_bridge/events"]).connect()
        sim.upstream("phone", {"k": "v"}, category="com.example.lost")
        listener.wait(lambda: events(listener, "no_route"), "the event no_route")
        [event] = events(listener, "no_route")
        assert (event["code"], event["category"]) == ("NO_ROUTE", "com.example.lost")
        eventually(lambda: sim.stats()["upstream"]["acked"] == 1, "CCS has its acknowledgement")
        listener.close()
        assert bridge.stop() == 0
        bridge.configure('"com.example.lost" = "client1"')
        bridge.start()
        bal = Bal("client1", bridge.port).connect()
        [message] = bal.wait_on("messages", 1)
        assert (message["id"], message["data"]) == (event["id"], {"k": "v"})
        bal.close()

    def test_awkward_characters_arrive_unchanged(self, sim, bal):
        data = {"a": 'say "hi"', "b": "😀 ü", "c": "</gcm>]]>&amp;<!--", "d": "line\nline\ttab", "e": "back\\slash\u2028", "&k": ""}
        sim.upstream("phone", data)
        assert bal.wait_on("messages", 1)[0]["data"] == data

    def test_explicit_acknowledgements_keep_a_message_until_they_come(self, sim, make_bridge):
        bridge = make_bridge(extra='[bals.client1]\nack = "explicit"').start()
        bal = Bal("client1", bridge.port).connect()
        sim.upstream("phone", count=6)
        ids = [message["id"] for message in bal.wait_on("messages", 6)]
        assert not any("redelivered" in message for message in bal.on("messages"))
        bal.wait_acked(bal.publish({"id": ids[0], "status": "received"}, "client1/self/receipts"))
        bal.wait_acked(bal.publish({"ids": [ids[4]], "status": "read"}, "client1/self/receipts"))
        bal.wait_acked(bal.publish({"id": ids[2], "status": "received", "up_to": True}, "client1/self/receipts"))
        bal.close()
        bridge.kill9()
        bridge.start()
        bal = Bal("client1", bridge.port).connect()
        again = bal.wait_on("messages", 2)
        assert [(m["id"], m["redelivered"]) for m in again] == [(ids[3], True), (ids[5], True)]
        bal.wait_acked(bal.publish({"ids": [ids[3], ids[5]], "status": "received"}, "client1/self/receipts"))
        eventually(lambda: bridge.counts()["spool"] == 0, "nothing is kept any more")
        bal.close()

    def test_an_explicit_bal_gets_unacknowledged_messages_again_after_a_reconnect(self, sim, make_bridge):
        bridge = make_bridge(extra='[bals.client1]\nack = "explicit"').start()
        bal = Bal("client1", bridge.port).connect()
        sim.upstream("phone", count=2)
        ids = [message["id"] for message in bal.wait_on("messages", 2)]
        bal.wait_acked(bal.publish({"id": ids[0], "status": "received"}, "client1/self/receipts"))
        bal.close()

        def comes_again():
            # The bridge gives a reader some seconds before a newcomer gets the message again.
            back = Bal("client1", bridge.port, clean=True).connect()
            try:
                back.wait_on("messages", 1, patience=2)
                return back.on("messages")
            except AssertionError:
                return None
            finally:
                back.close()

        again = eventually(comes_again, "the unacknowledged message comes again")
        assert [(m["id"], m["redelivered"]) for m in again] == [(ids[1], True)]


class TestPushes:
    def test_a_push_is_accepted_sent_and_delivered(self, sim, bal):
        bal.publish({"id": "a1", "token": "phone", "data": {"k": "v"}})
        last = bal.wait_words("a1", TOLD)
        assert [m["data"] for m in sim.got("phone")] == [{"k": "v"}]
        assert sim.stats()["messages"] == 1
        assert (last["transport"], last["source"], last["attempt"]) == (sim.way.name, sim.way.witness, 1)
        assert bal.statuses("a1")[1]["source"] == "provider"
        assert not any("dup_possible" in status or "code" in status for status in bal.statuses("a1"))

    def test_delivered_is_told_only_when_it_was_asked_for(self, sim, bal):
        bal.push("quiet", "phone", receipt=False)
        bal.push("loud", "phone")
        bal.wait_words("loud", TOLD)
        assert bal.words("quiet") == ["accepted", "sent"]
        assert sim.stats()["receipts"]["made"] == 1

    def test_a_dead_token_fails_and_is_to_be_removed(self, sim, bal, listener):
        sim.set_device("phone", state="uninstalled")
        bal.push("a1", "phone")
        last = bal.wait_words("a1", ["accepted", "failed"])
        assert (last["code"], last["token_action"]) == ("DEVICE_UNREGISTERED", "remove")
        listener.wait(lambda: events(listener, "token_removed"), "the event token_removed")
        [event] = events(listener, "token_removed")
        assert (event["token_hash"], event["code"]) == (token_hash("phone"), "DEVICE_UNREGISTERED")
        assert '"phone"' not in json.dumps(event)

    @pytest.mark.parametrize(
        ("code", "action"),
        [("BAD_REGISTRATION", "remove"), ("INVALID_JSON", "keep"), ("SENDER_ID_MISMATCH", "quarantine")],
    )
    def test_a_final_refusal_fails_with_its_code(self, sim, bal, code, action):
        sim.set_device("phone", refuse={"code": code})
        bal.push("a1", "phone")
        last = bal.wait_words("a1", ["accepted", "failed"])
        assert last["code"] == code
        assert last.get("token_action", "keep") in {action, "keep"} if action == "quarantine" else last["token_action"] == action
        assert sim.stats()["messages"] == 1

    def test_a_code_that_nobody_knows_is_tried_again(self, sim, bal):
        sim.set_device("phone", refuse={"code": "SOMETHING_NEW"})
        bal.push("a1", "phone")
        assert bal.wait_words("a1", TOLD)["attempt"] == 2
        assert len(sim.got("phone")) == 1

    def test_a_push_service_that_is_busy_twice_is_asked_three_times_ever_later(self, sim, bridge, bal):
        sim.set_device("phone", refuse={"code": "SERVICE_UNAVAILABLE", "times": 2})
        bal.push("a1", "phone")
        assert bal.wait_words("a1", TOLD)["attempt"] == 3
        waits = [entry["due"] - entry["at"] for entry in bridge.trace("a1")["log"] if entry["event"] == "retry"]
        assert len(waits) == 2 and 900 <= waits[0] < waits[1]

    def test_a_rate_limit_delays_that_device_and_no_other(self, sim, bridge, bal):
        sim.set_device("slow", refuse={"code": "DEVICE_MESSAGE_RATE_EXCEEDED"})
        bal.push("s1", "slow")
        eventually(lambda: sim.stats()["nacks"], "the refusal")
        bal.push("s2", "slow")
        for n in range(20):
            bal.push(f"f{n}", "fast")
        for n in range(20):
            bal.wait_words(f"f{n}", TOLD)
        assert bal.words("s1") == bal.words("s2") == ["accepted"]
        trace = bridge.trace("s1")
        assert trace["state"] == "due" and trace["due_at"] - trace["accepted_at"] >= 59_000
        assert sim.got("slow") == [], "the second message must not overtake the first"

    def test_the_same_id_again_sends_nothing_and_tells_the_last_status_again(self, sim, bal):
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        bal.push("a1", "phone")
        bal.wait_words("a1", [*TOLD, "delivered"])
        bal.push("fence", "phone")
        bal.wait_words("fence", TOLD)
        assert mine(sim.got("phone")) == ["a1", "fence"]

    def test_the_same_id_of_two_bals_is_two_messages(self, sim, bridge, bal):
        other = Bal("client2", bridge.port).connect()
        bal.push("a1", "phone-a")
        other.push("a1", "phone-b")
        bal.wait_words("a1", TOLD)
        other.wait_words("a1", TOLD)
        assert mine(sim.got("phone-a")) == mine(sim.got("phone-b")) == ["a1"]
        assert {trace["bal"] for trace in bridge.traces("a1")} == {"client1", "client2"}
        other.close()

    @pytest.mark.parametrize("word", ["dry_run", "dryRun", "validate_only", "validateOnly"])
    def test_what_is_only_to_be_checked_reaches_no_device(self, sim, bal, word):
        bal.push("a1", "phone", fcm={word: True})
        bal.wait_words("a1", ["accepted", "sent"])
        bal.push("fence", "phone")
        bal.wait_words("fence", TOLD)
        assert mine(sim.got("phone")) == ["fence"]

    def test_a_message_whose_time_is_over_while_ccs_is_away_expires_unsent(self, sim, bridge, bal):
        sim.stop()
        bridge.wait_ready(503)
        began = time.monotonic()
        bal.push("short", "phone", ttl=2)
        bal.push("text", "phone", ttl="2")
        bal.push("long", "phone", ttl=600)
        for late in ("short", "text"):
            last = bal.wait_words(late, ["accepted", "expired"])
            assert (last["code"], last["transport"]) == ("EXPIRED", sim.way.name) and "time to live ended" in last["detail"]
        assert 1.5 < time.monotonic() - began < 15
        sim.start()
        bal.wait_words("long", TOLD, patience=60)
        assert mine(sim.got("phone")) == ["long"]

    def test_a_retry_that_expires_lets_the_next_one_go(self, sim, bal):
        sim.set_device("phone", refuse={"code": "SERVICE_UNAVAILABLE", "times": 1})
        bal.push("old", "phone", ttl=1)
        assert "SERVICE_UNAVAILABLE" in bal.wait_words("old", ["accepted", "expired"])["detail"]
        bal.push("new", "phone")
        bal.wait_words("new", TOLD)
        assert mine(sim.got("phone")) == ["new"]

    def test_a_receipt_that_overtakes_its_ack_leaves_no_step_back(self, sim, bal):
        sim.faults(receipt_before_ack=True, latency_ms=50)
        ids = [f"m{n}" for n in range(20)]
        for message_id in ids:
            bal.push(message_id, "phone")
        bal.wait_final(ids)
        sim.faults()
        bal.push("fence", "phone")
        bal.wait_words("fence", TOLD)
        for message_id in ids:
            assert bal.words(message_id) in (TOLD, ["accepted", "delivered"])

    @pytest.mark.ccs_only("v1 never names a new token")
    def test_a_new_token_is_told(self, sim, bal):
        sim.set_device("old")
        sim.set_device("old", canonical="new")
        bal.push("a1", "old")
        bal.wait_words("a1", TOLD)
        told = [status for status in bal.statuses("a1") if "new_token" in status]
        assert told and all((s["new_token"], s["token_action"]) == ("new", "replace") for s in told)
        bal.push("a2", "new")
        bal.wait_words("a2", TOLD)
        assert mine(sim.got("new")) == ["a1", "a2"]

    @pytest.mark.ccs_only("over v1 each request has a time limit of its own")
    def test_a_push_that_is_never_answered_expires_and_its_order_group_goes_on(self, sim, make_bridge):
        bridge = make_bridge(back_door=ccs_section(sim) + "answer_seconds = 1\n").start()
        bal = Bal("client1", bridge.port).connect()
        operator = Bal("ops", bridge.port, clean=True, filters=["_bridge/#"]).connect()
        sim.faults(lose_ack=1.0, lose_ack_reset_ms=600_000)
        bal.push("never", "phone", ttl=8, order="chat-7", receipt=False)
        bal.push("next", "tablet", order="chat-7")
        # Nothing is answered, so nothing fails; and readiness says so.
        eventually(lambda: bridge.readyz()[1].get("ccs") == "unanswered", "/readyz says unanswered")
        assert bridge.readyz()[0] == 503
        operator.wait(lambda: events(operator, "reconnect"), "the event reconnect")
        assert events(operator, "reconnect")[0]["detail"].endswith("(ccs.host): no answer to a message within 1 s")
        sim.faults()
        last = bal.wait_words("never", ["accepted", "expired"])
        assert last["dup_possible"] and last["detail"] == "the time to live ended before the push service answered"
        bal.wait_words("next", TOLD)
        bridge.wait_ready(200)
        bal.close()
        operator.close()

    @pytest.mark.ccs_only("the window of one XMPP session; over v1 a recipient's messages go one at a time")
    def test_never_more_than_a_hundred_are_unanswered(self, sim, bal):
        sim.faults(latency_ms=200)
        ids = [f"m{n}" for n in range(250)]
        for n, message_id in enumerate(ids):
            bal.push(message_id, f"phone{n % 10}")
        bal.wait_final(ids)
        assert all(bal.words(message_id) == TOLD for message_id in ids)
        stats = sim.stats()
        assert stats["most_unanswered"] == 100 and stats["violations"]["window"] == 0

    @pytest.mark.parametrize("notice", ["control", "nack"])
    def test_a_drain_loses_nothing_and_repeats_nothing(self, sim, bal, notice):
        sim.faults(latency_ms=100)
        ids = [f"m{n}" for n in range(400)]
        for n, message_id in enumerate(ids):
            bal.push(message_id, f"phone{n % 20}")
        eventually(lambda: sim.stats()["acks"] > 50, "the flow is on")
        assert sim.call("POST", "/drain", {"notice": notice})["connections"] == 1
        bal.wait_final(ids)
        stats = sim.stats()
        assert stats["logins"] >= 2 and stats["duplicates"] == 0 and stats["delivered"] == 400
        assert all(bal.words(message_id) == TOLD for message_id in ids)
        for token in (f"phone{n}" for n in range(20)):
            assert mine(sim.got(token)) == sorted(mine(sim.got(token)), key=lambda i: int(i[1:]))

    @pytest.mark.ccs_only("fifty to one device at a time; over v1 a recipient's messages go one at a time")
    def test_what_was_unanswered_at_a_cut_is_sent_again_and_marked(self, sim, bal):
        # The first copies' answers, and with them their receipts, would have come after this time.
        sim.faults(latency_ms=3_000)
        ids = [f"m{n}" for n in range(50)]
        for message_id in ids:
            bal.push(message_id, "phone")
        eventually(lambda: sim.stats()["messages"] == 50, "50 are unanswered")
        sim.faults()
        sim.call("POST", "/reset", {})
        bal.wait_final(ids)
        assert sim.stats()["messages"] == 100
        for message_id in ids:
            assert bal.words(message_id) in (TOLD, ["accepted", "delivered"])
            assert bal.statuses(message_id)[-1]["dup_possible"] is True
        assert mine(sim.got("phone")) == [*ids, *ids]

    def test_numbers_and_booleans_arrive_as_text(self, sim, bal):
        bal.publish({"id": "a1", "token": "phone", "data": {"i": 7, "f": 1.5, "b": True, "s": "x", "big": 123456789012345678}})
        bal.wait_words("a1", TOLD)
        assert sim.got("phone")[0]["data"] == {"i": "7", "f": "1.5", "b": "true", "s": "x", "big": "123456789012345678"}

    @pytest.mark.parametrize("value", [None, [1], {"a": 1}])
    def test_other_values_in_data_are_refused(self, sim, bal, value):
        bal.publish({"id": "a1", "token": "phone", "data": {"k": value}})
        assert bal.wait_words("a1", ["failed"])["code"] == "BAD_FIELD"
        assert bal.wait_on("errors", 1)[0]["ref"] == "a1"

    @pytest.mark.parametrize(("target", "limit"), [("token", 4096), ("topic", 2048)])
    def test_one_byte_over_the_limit_is_too_big(self, sim, bal, target, limit):
        bal.publish({"id": "big", target: "x", "data": {"k": "v" * limit}})
        assert bal.wait_words("big", ["failed"])["code"] == "TOO_BIG"
        assert sim.stats()["messages"] == 0
        bal.publish({"id": "fits", target: "x", "data": {"k": "v" * (limit - 1)}, "receipt": False})
        bal.wait_words("fits", ["accepted", "sent"])

    @pytest.mark.parametrize("key", ["from", "message_type", "google.x", "gcm_y"])
    def test_reserved_keys_are_refused(self, bal, key):
        bal.publish({"id": "a1", "token": "phone", "data": {key: "v"}})
        assert bal.wait_words("a1", ["failed"])["code"] == "RESERVED_KEY"

    def test_exactly_one_target_is_needed(self, bal):
        bal.publish({"id": "none", "data": {}})
        bal.publish({"id": "two", "token": "phone", "topic": "news", "data": {}})
        bal.publish({"id": "name", "to": "alice", "data": {}})
        assert bal.wait_words("none", ["failed"])["code"] == "BAD_TARGET"
        assert bal.wait_words("two", ["failed"])["code"] == "BAD_TARGET"
        assert bal.wait_words("name", ["failed"])["code"] == "NOT_FOUND"

    def test_topics_and_conditions_reach_their_subscribers(self, sim, bal):
        sim.set_device("reader", topics=["news"])
        sim.set_device("quiet", topics=["news", "quiet"])
        bal.publish({"id": "t1", "topic": "news", "data": {"n": 1}})
        bal.publish({"id": "t2", "topic": "/topics/news", "body": "two"})
        bal.publish({"id": "t3", "condition": "'news' in topics && !('quiet' in topics)", "data": {"n": 3}})
        for message_id in ("t1", "t2", "t3"):
            bal.wait(lambda i=message_id: "sent" in bal.words(i), message_id)
        eventually(lambda: len(sim.got("reader")) == 3, "the reader got all")
        got = [m["data"] for m in sim.got("reader")]
        assert [data for data in got if data != {"n": "3"}] == [{"n": "1"}, {"body": "two"}], "the order of one topic"
        assert {"n": "3"} in got
        assert len(sim.got("quiet")) == 2

    def test_order_of_one_device_is_kept_across_a_reconnect_and_a_retry(self, sim, bal):
        ids = [f"m{n}" for n in range(10)]
        sim.faults(latency_ms=100)
        for message_id in ids[:5]:
            bal.push(message_id, "phone")
        bal.wait_final(ids[:5])
        sim.call("POST", "/reset", {})
        sim.faults()
        sim.set_device("phone", refuse={"code": "SERVICE_UNAVAILABLE"})
        bal.push(ids[5], "phone")
        bal.wait_acked(bal.push("other", "tablet"))
        eventually(lambda: sim.stats()["nacks"], "the refusal")
        for message_id in ids[6:]:
            bal.push(message_id, "phone")
        bal.wait_final(ids)
        assert mine(sim.got("phone")) == ids

    def test_messages_with_an_order_word_go_strictly_one_after_the_other(self, sim, bal):
        sim.faults(latency_ms=50)
        sim.set_device("p1", refuse={"code": "SERVICE_UNAVAILABLE"})
        ids = [f"m{n}" for n in range(9)]
        for n, message_id in enumerate(ids):
            bal.push(message_id, f"p{n % 3}", order="chat-7")
        bal.wait_final(ids)
        arrived = sorted((m["at"], m["seq"], m["data"]["mine"]) for n in range(3) for m in sim.got(f"p{n}"))
        assert [i for _, _, i in arrived] == ids
        # The next one left only after the final word on the one before.
        told = [(s["id"], s["status"]) for s in bal.on("receipts") if s["status"] != "accepted"]
        assert told == [(i, word) for i in ids for word in ("sent", "delivered")]

    def test_collapse_and_notification_arrive_in_the_words_of_the_push_service(self, sim, bal):
        sim.set_device("phone", state="offline")
        notification = {"title": "Hello", "body": "you", "badge": "3"}
        for message_id, collapse in [("c1", "x"), ("c2", "x")]:
            bal.push(message_id, "phone", collapse=collapse, notification=notification, priority="normal", fcm={"content_available": True})
            bal.wait_words(message_id, ["accepted", "sent"])
        sim.set_device("phone", state="online")
        bal.wait_words("c2", TOLD)
        [got] = sim.got("phone")
        assert (got["data"]["mine"], got["notification"]) == ("c2", notification)


class TestInput:
    def test_what_is_no_json_is_answered_and_the_bridge_lives_on(self, sim, bal):
        bal.publish("this is not JSON é")
        [error] = bal.wait_on("errors", 1)
        assert (error["code"], error["topic"]) == ("BAD_JSON", "client1/self/messages")
        assert error["sample"].startswith("this is not JSON") and "ref" not in error
        bal.publish("[1]")
        assert bal.wait_on("errors", 2)[1]["code"] == "NOT_OBJECT"
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)

    def test_without_an_id_the_bridge_makes_one(self, sim, bal):
        bal.publish({"token": "phone", "data": {"k": "v"}})
        bal.wait(lambda: bal.by_id, "accepted")
        [message_id] = bal.by_id
        assert len(message_id) == 16
        bal.wait_words(message_id, TOLD)

    def test_a_message_with_nothing_in_it_misses_a_field(self, bal):
        bal.publish({"id": "a1", "token": "phone"})
        assert bal.wait_words("a1", ["failed"])["code"] == "MISSING_FIELD"

    @pytest.mark.parametrize("bad", ["a/b", "a+b", "a#b", "a b", "x" * 65, "", 7])
    def test_a_bad_id_is_refused_and_not_repeated_as_a_reference(self, bal, bad):
        bal.publish({"id": bad, "token": "phone", "data": {}})
        [error] = bal.wait_on("errors", 1)
        assert error["code"] == "BAD_ID" and "ref" not in error
        assert bal.on("receipts") == []

    def test_only_version_one_is_taken_and_unknown_fields_are(self, sim, bal):
        bal.publish({"v": 2, "id": "two", "token": "phone", "data": {}})
        assert bal.wait_words("two", ["failed"])["code"] == "VERSION"
        bal.publish({"v": 1, "id": "one", "token": "phone", "data": {}, "new_field": [1, {"a": None}], "delay_while_idle": True})
        bal.wait_words("one", TOLD)

    def test_a_flood_of_bad_messages_gets_ten_errors_and_a_summary(self, bal):
        for _ in range(1000):
            bal.publish("{")

        def all_told():
            errors = bal.on("errors")
            singles = [e for e in errors if e["code"] == "BAD_JSON"]
            left_out = sum(e["count"] for e in errors if e["code"] == "RATE_LIMITED")
            return len(singles) + left_out == 1000

        bal.wait(all_told, "every bad message is told or counted")
        # The flood may take more than one second; each has its ten and its summary.
        errors = bal.on("errors")
        seconds = len([e for e in errors if e["code"] == "RATE_LIMITED"])
        assert 1 <= seconds <= 5 and len(errors) <= seconds * 11 + 10

    def test_qos_0_works_and_retained_outbox_messages_are_not_kept(self, sim, bridge, bal):
        bal.publish({"id": "q0", "token": "phone", "data": {"mine": "q0"}}, qos=0)
        bal.wait_words("q0", TOLD)
        bal.publish({"id": "kept", "token": "phone", "data": {"mine": "kept"}}, retain=True)
        bal.wait_words("kept", TOLD)
        late = Bal("client1", bridge.port, client_id="client1:late", clean=True, filters=["client1/self/messages"]).connect()
        bal.push("fence", "phone")
        late.wait(lambda: late.messages, "the new message")
        assert [body["id"] for _, body in late.messages] == ["fence"]
        late.close()

    def test_a_payload_over_the_limit_is_refused_and_the_connection_stays(self, bal):
        bal.publish({"id": "big", "token": "phone", "data": {"k": "v" * 70_000}})
        assert bal.wait_on("errors", 1)[0]["code"] == "TOO_BIG"
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        assert bal.connections == 1 and bal.words("big") == []

    def test_a_topic_that_the_bridge_does_not_have_is_an_error_that_names_the_nearest_one(self, bridge, bal):
        no_matching_subscribers = 0x10
        for suffix, hint in [("message", "did you mean `self/messages`?"), ("receipts/x", "`self/receipts`"), ("foo", "below `self/`")]:
            mid = bal.publish('{"id":"a0","token":"phone","data":{}}', f"client1/self/{suffix}")
            bal.wait_acked(mid)
            assert bal.acked[mid].value == no_matching_subscribers
            error = bal.wait_on("errors", 1)[-1]
            assert (error["code"], error["topic"]) == ("UNKNOWN_TOPIC", f"client1/self/{suffix}") and hint in error["detail"]
            bal.messages.clear()
        # What is kept for a later release is no error.
        bal.wait_acked(bal.publish('{"call":"x"}', "client1/self/history"))
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        assert bal.on("errors") == [] and bal.words("a0") == []
        assert bridge.metric("bridge_unknown_topics_total") == 3

    def test_a_document_in_the_form_of_ccs_moves_over_as_it_is(self, sim, bal):
        bal.publish('{"to":"phone","message_id":"m-1","data":{"hello":"world"},"time_to_live":600,"delivery_receipt_requested":true}')
        bal.wait_words("m-1", TOLD)
        assert [got["data"]["hello"] for got in sim.got("phone")] == ["world"]
        bal.publish('{"to":"phone","message_id":"m-2","message_type":"ack"}')
        assert "self/receipts" in bal.wait_on("errors", 1)[0]["detail"] and bal.words("m-2") == []

    def test_fields_that_nobody_knows_are_named_when_the_message_is_accepted(self, bal):
        bal.publish('{"id":"a1","token":"phone","data":{},"time_to_live":600}')
        bal.wait_words("a1", TOLD)
        accepted = next(body for body in bal.by_id["a1"] if body["status"] == "accepted")
        assert accepted["detail"] == 'unknown and ignored: "time_to_live"'

    def test_a_publish_that_comes_again_with_dup_is_one_message(self, sim, bridge, bal):
        payload = b'{"id":"d1","token":"phone","data":{"mine":"d1"}}'
        topic = b"client1/self/messages"

        def publish(dup: int) -> bytes:
            body = len(topic).to_bytes(2, "big") + topic + b"\x00\x07" + payload
            return bytes([0x32 | dup << 3, len(body)]) + body

        for dup in (0, 1):
            with socket.create_connection(("127.0.0.1", bridge.port), PATIENCE) as raw:
                name = b"client1:raw"
                connect = b"\x00\x04MQTT\x04\x00\x00\x3c" + len(name).to_bytes(2, "big") + name
                raw.sendall(bytes([0x10, len(connect)]) + connect)
                assert raw.recv(4)[:2] == b"\x20\x02"
                raw.sendall(publish(dup))
                assert raw.recv(4) == b"\x40\x02\x00\x07"
            # A status that is not published yet when the message comes again is told once.
            bal.wait(lambda: "delivered" in bal.words("d1"), "the final status")
        bal.wait(lambda: "delivered" in bal.words("d1") and len(bal.words("d1")) >= 4, "the status is told again")
        assert mine(sim.got("phone")) == ["d1"]


class TestMqtt5:
    def properties(self, **values):
        properties = mqtt.Properties(mqtt.PacketTypes.PUBLISH)
        for name, value in values.items():
            setattr(properties, name, value)
        return properties

    def test_statuses_go_to_the_response_topic_with_the_correlation_data(self, bridge, bal):
        reader = Bal("client1", bridge.port, client_id="client1:r", filters=["client1/my/answers"]).connect()
        wish = self.properties(ResponseTopic="client1/my/answers", CorrelationData=b"c-\x00\xff")
        bal.publish({"id": "a1", "token": "phone", "data": {}}, properties=wish)
        reader.wait_words("a1", TOLD)
        corr = base64.b64encode(b"c-\x00\xff").decode()
        assert {status["corr"] for status in reader.statuses("a1")} == {corr}
        assert {packet.properties.CorrelationData for packet in reader.packets} == {b"c-\x00\xff"}
        assert bal.on("receipts") == []
        reader.close()

    @pytest.mark.parametrize("topic", ["other/x", "client1/self/messages", "client1/self/x"])
    def test_a_response_topic_elsewhere_is_forbidden(self, sim, bal, topic):
        bal.publish({"id": "a1", "token": "phone", "data": {}}, properties=self.properties(ResponseTopic=topic))
        assert bal.wait_words("a1", ["failed"])["code"] == "FORBIDDEN"
        assert sim.stats()["messages"] == 0

    def test_message_expiry_ends_a_message_like_its_ttl(self, sim, bridge, bal):
        sim.stop()
        bridge.wait_ready(503)
        bal.publish({"id": "a1", "token": "phone", "data": {}}, properties=self.properties(MessageExpiryInterval=2))
        assert bal.wait_words("a1", ["accepted", "expired"])["code"] == "EXPIRED"
        sim.start()
        bridge.wait_ready()
        assert sim.got("phone") == []

    def test_user_properties_of_a_publish_are_ignored(self, bal):
        bal.publish({"id": "a1", "token": "phone", "data": {}}, properties=self.properties(UserProperty=("id", "b2")))
        bal.wait_words("a1", TOLD)


class TestBridge:
    def states(self, listener: Bal) -> list[tuple[str, str]]:
        return [(body["state"], body["ccs"]) for topic, body in list(listener.messages) if topic == "_bridge/status"]

    def test_the_status_is_retained_and_follows_the_push_service(self, sim, bridge, listener):
        # The bridge may be ready a moment before its retained status says so: whoever comes after that finds it retained.
        listener.wait(lambda: self.states(listener)[-1:] == [("online", "up")], "online")
        late = Bal("late", bridge.port, clean=True, filters=["_bridge/status"]).connect()
        late.wait(lambda: late.packets, "the retained status")
        assert late.packets[0].retain and self.states(late)[0] == ("online", "up")
        late.close()
        status = [body for topic, body in list(listener.messages) if topic == "_bridge/status"][-1]
        assert status["broker"] == "embedded" and status["version"] and status["started"] <= status["ts"]
        sim.stop()
        listener.wait(lambda: self.states(listener)[-1] == ("degraded", "down"), "degraded")
        sim.start()
        listener.wait(lambda: self.states(listener)[-1] == ("online", "up"), "online again", patience=60)

    def test_a_stop_says_offline_first(self, bridge, listener):
        listener.wait(lambda: self.states(listener), "online")
        assert bridge.stop() == 0
        listener.wait(lambda: self.states(listener)[-1] == ("offline", "down"), "offline")

    def test_the_counters_come_every_ten_seconds(self, sim, bridge, bal, listener):
        sim.set_device("gone", state="uninstalled")
        bal.push("a1", "phone")
        bal.push("a2", "gone")
        sim.upstream("phone", count=3)
        bal.wait_words("a1", TOLD)
        bal.wait_words("a2", ["accepted", "failed"])
        bal.wait_on("messages", 3)

        def told():
            stats = [body for topic, body in list(listener.messages) if topic == "_bridge/stats"]
            return [s for s in stats if s["downstream"] == 2]

        listener.wait(told, "_bridge/stats")
        stats = told()[0]
        assert (stats["upstream"], stats["acks"], stats["receipts"]) == (3, 1, 1)
        assert stats["nacks"] == {"DEVICE_UNREGISTERED": 1}
        assert (stats["spool"], stats["queue"], stats["duplicates"]) == (0, 0, 0)
        assert stats["sessions"] == 2 + (bridge.apps is not None)

    def test_events_tell_of_connections(self, sim, bridge, listener):
        def connected_after(word: str):
            """A connection that is younger than the one that `word` tells of: the first may be told late."""
            ended = max(body["connection"] for body in events(listener, word))
            return any(body["connection"] > ended for body in events(listener, "connected"))

        sim.call("POST", "/reset", {})
        listener.wait(lambda: events(listener, "reconnect"), "the event reconnect")
        listener.wait(lambda: connected_after("reconnect"), "the next connection")
        assert sim.call("POST", "/drain", {})["connections"] == 1
        listener.wait(lambda: events(listener, "draining"), "the event draining")
        listener.wait(lambda: connected_after("draining"), "the connection after that")
        assert all("ts" in body for topic, body in listener.messages if topic == "_bridge/events")

    def test_refused_credentials_are_told(self, tmp_path, sim):
        other = Sim(tmp_path / "other")
        bridge = Bridge(tmp_path / "bridge", other)
        wrong = tmp_path / "wrong.key"
        wrong.write_text("not-the-key\n")
        bridge.config.write_text(bridge.config.read_text().replace(str(other.key), str(wrong)))
        bridge.start(ready=False)
        eventually(lambda: bridge.readyz()[1].get("ccs") == "auth_failed", "/readyz says auth_failed")
        assert bridge.readyz()[0] == 503 and "not-the-key" not in bridge.logs()
        bridge.close()
        other.close()
