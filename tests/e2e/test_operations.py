"""What an operator sees: logs, health, commands, exit codes, a full disk."""

import json
import os
import re
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from harness import BIN, SECRET_KEY, Bal, ccs_section, check_settled, eventually, free_port, http, run

TOLD = ["accepted", "sent", "delivered"]
TOKEN = "phone-with-a-secret-token"
BODY = "a body that nobody but the device reads"


class TestLogs:
    def test_a_normal_run_warns_of_nothing_and_shows_no_secret(self, tmp_path, sim, make_bridge):
        bridge = make_bridge().start(log="debug")
        bal = Bal("client1", bridge.port).connect()
        for n in range(5):
            bal.publish({"id": f"a{n}", "token": TOKEN, "data": {"k": BODY}})
            bal.wait_words(f"a{n}", TOLD)
        sim.upstream(TOKEN, {"k": BODY})
        [message] = bal.wait_on("messages", 1)
        shown = [run(*c, "--store", bridge.db, *j).stdout for j in ([], ["--json"]) for c in (["trace", "a1"], ["trace", message["id"]], ["outbox", "--list"])]
        shown.append(run("check-config", "--config", bridge.config).stdout)
        bal.close()
        assert bridge.stop() == 0
        logs = bridge.logs()
        assert "bridge stopped" in logs and not re.search(r"\b(WARN|ERROR)\b", logs), logs
        for text in [logs, *shown]:
            assert text and not [word for word in (SECRET_KEY, TOKEN, BODY) if word in text]

    def test_no_key_is_in_the_store(self, sim, bridge, bal):
        bal.push("a1", TOKEN)
        bal.wait_words("a1", TOLD)
        assert bridge.stop() == 0
        assert SECRET_KEY.encode() not in bridge.db.read_bytes()
        assert bridge.db.stat().st_mode & 0o077 == 0, "others cannot read the store"


class TestHealth:
    def test_health_and_readiness_and_metrics_are_served(self, sim, bridge, bal):
        url = f"http://127.0.0.1:{bridge.ops}"
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        assert http("GET", url + "/healthz") == "ok\n"
        ways = {"ccs": "up", sim.way.name: "up"}
        assert bridge.readyz() == (200, {"ready": True, **ways, "mqtt": "open", "store": "ok", "intake": "taking"})
        with urllib.request.urlopen(url + "/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain")
        assert bridge.metric("bridge_downstream_delivered_total") == 1
        assert bridge.transports_up() == {name: 1 for name in ways}
        assert run("health", "--ops", f"127.0.0.1:{bridge.ops}").returncode == 0

    def test_readiness_says_that_the_push_service_is_away(self, sim, bridge):
        sim.stop()
        bridge.wait_ready(503)
        for transport in {"ccs", sim.way.name}:
            eventually(lambda name=transport: bridge.readyz()[1][name] == "down", f"/readyz says that {transport} is down")
        assert bridge.readyz()[1]["ready"] is False
        assert http("GET", f"http://127.0.0.1:{bridge.ops}/healthz") == "ok\n", "the process lives"
        assert run("health", "--ops", f"127.0.0.1:{bridge.ops}").returncode == 1
        eventually(lambda: bridge.transports_up() == {"ccs": 0, sim.way.name: 0}, "the metric")


class TestFilesReadAgain:
    @pytest.mark.parametrize("told_by", ["SIGHUP", "change"])
    @pytest.mark.ccs_only("over v1 the service account is read again, see test_fcm_v1.py")
    def test_with_a_new_server_key_the_next_login_comes_at_once(self, tmp_path, sim, make_bridge, told_by):
        key = tmp_path / "ccs.key"
        key.write_text("AIza-a-wrong-key\n")
        section = ccs_section(sim).replace(f'"{sim.key}"', f'"{key}"')
        bridge = make_bridge(back_door=section).start(ready=False)
        eventually(lambda: bridge.readyz()[1].get("ccs") == "auth_failed", "the key is refused")
        assert f"127.0.0.1:{sim.ccs_port} (ccs.host)" in bridge.logs()
        key.write_text("\n")
        bridge.hang_up()
        eventually(lambda: f"ccs.api_key_file names {key}: the file is empty" in bridge.logs(), "a bad one is told")
        key.write_text(SECRET_KEY + "\n")
        if told_by == "SIGHUP":
            bridge.hang_up()
        bridge.wait_ready()
        bal = Bal("client1", bridge.port).connect()
        bal.push("a1", "phone")
        bal.wait_words("a1", TOLD)
        bal.close()
        assert SECRET_KEY not in bridge.logs() and "AIza-a-wrong-key" not in bridge.logs()


class TestCommands:
    @pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
    def test_trace_and_outbox_explain_messages(self, sim, bridge, bal, running):
        sim.set_device("gone", state="uninstalled")
        bal.push("a1", "phone")
        bal.push("a2", "gone")
        bal.wait_words("a1", TOLD)
        bal.wait_words("a2", ["accepted", "failed"])
        sim.upstream("phone", {"k": "v"})
        [message] = bal.wait_on("messages", 1)
        if not running:
            bal.close()
            assert bridge.stop() == 0
        store = ["--store", bridge.db]
        story = run("trace", "a1", *store).stdout
        assert all(word in story for word in ("a1 of client1", "accepted", "attempt 1", "sent", "delivered")), story
        assert "failed: DEVICE_UNREGISTERED" in run("trace", "a2", "--config", bridge.config).stdout
        assert "received" in run("trace", message["id"], *store).stdout
        trace = bridge.trace("a1")
        assert (trace["kind"], trace["state"], trace["attempt"]) == ("delivery", "delivered", 1)
        assert bridge.trace(message["id"])["kind"] == "upstream"
        listing = run("outbox", *store, "--list").stdout
        assert "client1/a1" in listing and "client1/a2" in listing
        assert bridge.counts()["deliveries"] == {"delivered": 1, "failed": 1}
        newest = json.loads(run("outbox", *store, "--list", "--limit", 1, "--json").stdout)["newest"]
        assert [m["id"] for m in newest] == ["a2"]
        unknown = run("trace", "nobody", *store)
        assert unknown.returncode == 1 and "nobody" in unknown.stderr

    @pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
    def test_sessions_and_retained_messages_are_listed(self, sim, bridge, running):
        alice = Bal("alice", bridge.port).connect()
        alice.client.publish("alice/self/profile", "about alice", qos=1, retain=True).wait_for_publish(10)
        if not running:
            alice.close()
            assert bridge.stop() == 0
        store = ["--store", bridge.db]
        sessions = json.loads(run("sessions", *store, "--json").stdout)
        assert "alice" in [session["client"] for session in sessions], sessions
        retained = json.loads(run("retained", *store, "--filter", "alice/#", "--json").stdout)
        assert [message["topic"] for message in retained] == ["alice/self/profile"]
        assert "alice/self/profile" in run("retained", *store).stdout
        assert "about alice" not in run("retained", *store, "--json").stdout
        assert "of 1 sessions" in run("sessions", *store, "--limit", 0).stdout
        if running:
            alice.close()

    def test_the_store_of_nobody_is_not_made_by_looking(self, tmp_path):
        done = run("outbox", "--store", tmp_path / "none.db")
        assert done.returncode == 1 and not (tmp_path / "none.db").exists()


class TestExitCodes:
    @pytest.mark.parametrize("args", [[], ["runn"], ["run", "--nothing"], ["trace"]])
    def test_wrong_usage_is_64(self, args):
        done = run(*args)
        assert done.returncode == 64 and "Usage" in done.stderr

    def test_a_key_that_does_not_exist_is_64_with_the_nearest_right_name(self, make_bridge):
        bridge = make_bridge(limits="queue_row = 5")
        for command in ("run", "check-config"):
            done = run(command, "--config", bridge.config)
            assert done.returncode == 64 and "queue_row" in done.stderr and "queue_rows" in done.stderr, done.stderr

    def test_a_key_file_that_is_missing_is_64_and_named(self, make_bridge):
        bridge = make_bridge()
        bridge.sim.key.unlink()
        done = run("run", "--config", bridge.config)
        assert done.returncode == 64 and "ccs.api_key_file" in done.stderr and "No such file" in done.stderr

    def test_a_setting_from_the_environment_counts(self, make_bridge):
        bridge = make_bridge()
        done = run("check-config", "--config", bridge.config, env={**os.environ, "BRIDGE__LIMITS__QUEUE_ROWS": "4711"})
        assert done.returncode == 0 and "4711" in done.stdout

    @pytest.mark.parametrize("which", ["port", "ops"])
    def test_a_port_that_is_taken_is_1_and_named(self, make_bridge, which):
        bridge = make_bridge()
        with socket.create_server(("127.0.0.1", getattr(bridge, which))):
            done = run("run", "--config", bridge.config)
        assert done.returncode == 1 and f"127.0.0.1:{getattr(bridge, which)}" in done.stderr.splitlines()[-1]

    def test_a_second_bridge_on_the_same_store_is_refused(self, make_bridge, bridge):
        second = make_bridge(db=bridge.db)
        done = run("run", "--config", second.config)
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and str(bridge.db) in last and re.search("another|in use|already", last), last
        assert bridge.readyz()[0] == 200

    def test_the_simulator_says_that_its_port_is_taken(self, sim):
        done = run("sim", "--listen", f"127.0.0.1:{sim.ccs_port}", "--control-listen", f"127.0.0.1:{free_port()}")
        assert done.returncode == 1 and str(sim.ccs_port) in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB: room for the write-ahead log, 32 MiB between checkpoints. To mount it the test must be
    root, as it is in CI; elsewhere a user namespace would hide it from the commands, so sudo without a password is asked
    for. Without either this is an error and not a skip."""
    folder = tmp_path / "small"
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size=64m,mode=700,uid={os.getuid()}"
    subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    yield folder
    subprocess.run([*sudo, "umount", "-l", folder], check=True)


def leave(folder: Path, room: int) -> Path:
    """Somebody else takes the disk but for `room` bytes."""
    disk = os.statvfs(folder)
    filler = folder / "filler"
    filler.write_bytes(b"x" * (disk.f_bavail * disk.f_frsize - room))
    return filler


def test_a_full_disk_stops_the_intake_and_loses_nothing(sim, make_bridge, small_disk):
    bridge = make_bridge(db=small_disk / "bridge.db").start()
    bal = Bal("client1", bridge.port).connect()
    bal.push("first", "phone")
    bal.wait_words("first", TOLD)
    filler = leave(small_disk, 100 * 1024)

    mids = {f"m{n:03}": bal.publish({"id": f"m{n:03}", "token": "phone", "data": {"mine": f"m{n:03}", "k": "v" * 3000}}) for n in range(200)}
    bridge.wait_ready(503)
    assert "full" in bridge.readyz()[1]["store"]
    eventually(lambda: bridge.metric("bridge_store_blocked") == 1, "the metric")
    acked = [message_id for message_id, mid in mids.items() if mid in bal.acked]
    assert len(acked) < len(mids), "what is not on disk is not acknowledged"
    sim.upstream("phone", {"k": "v"})
    assert len(re.findall(r" ERROR fcm_mqtt_bridge", bridge.logs())) == 1, "it is said once"
    assert sim.stats()["upstream"]["acked"] == 0

    filler.unlink()
    bridge.wait_ready()
    # Over v1 one device gets three of them in a second.
    bal.wait_final(["first", *mids], patience=120)
    bal.wait_acked(*mids.values())
    bal.wait_on("messages", 1)
    eventually(lambda: bridge.metric("bridge_store_blocked") == 0, "the metric")
    check_settled(bal, sim, list(mids), ["phone"])
    assert [m["data"]["mine"] for m in sim.got("phone")[1:]] == list(mids)
    assert "the store works again" in bridge.logs()
    bal.close()


def test_what_was_acknowledged_before_the_disk_was_full_survives_a_kill(sim, make_bridge, small_disk):
    bridge = make_bridge(db=small_disk / "bridge.db").start()
    sim.stop()
    bridge.wait_ready(503)
    bal = Bal("client1", bridge.port).connect()
    leave(small_disk, 2 << 20)
    def push(numbers):
        body = {"k": "v" * 3000}
        return {f"m{n:04}": bal.publish({"id": f"m{n:04}", "token": "phone", "data": body}) for n in numbers}

    # Some are surely on disk before a whole batch, which is rolled back as one, finds the disk full.
    mids = push(range(50))
    bal.wait_acked(*mids.values())
    mids |= push(range(50, 1500))
    eventually(lambda: bridge.metric("bridge_store_blocked") == 1, "the disk is full")
    acked = [message_id for message_id, mid in mids.items() if mid in bal.acked]
    assert len(acked) >= 50
    bal.close()
    bridge.kill9()
    known = bridge.counts()["deliveries"]["due"]
    assert known >= len(acked)
    for message_id in (acked[0], acked[len(acked) // 2], acked[-1]):
        assert bridge.trace(message_id)["state"] == "due"


def test_the_binary_says_its_version():
    assert re.fullmatch(r"fcm-mqtt-bridge \d+\.\d+\.\d+\n", run("--version").stdout), BIN
