"""A disk that is full, read-only, broken, or slow. Nothing is acknowledged that is not on it; what needs no disk goes on;
and when it works again everything goes on without a restart, and nothing is lost."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from flows import Publisher, Reader, judge, judge_documents, retained, settle
from harness import Bal, eventually
from raw import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Raw

LIMITS = "broker_publish_rate = 1000000\nbroker_queued_messages = 1000000"
# Messages of each publisher before the trouble, and again in it.
MESSAGES = 40
# How long nothing may come that must not come, in seconds.
SILENCE = 1.0


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("disk") / "disk.so"
    source = Path(__file__).parent / "disk.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", out, source, "-ldl"], check=True)
    return out


class Disk:
    """A folder whose files can be made to refuse what is written to them."""

    def __init__(self, folder: Path, library: Path):
        self.folder, self.control = folder / "disk", folder / "control"
        self.folder.mkdir()
        self.env = {"LD_PRELOAD": str(library), "DISK_BELOW": str(self.folder), "DISK_CONTROL": str(self.control)}
        self.say("works")

    def say(self, word: str):
        """At once for all: the file is replaced as a whole."""
        new = self.control.with_suffix(".new")
        new.write_text(word)
        os.replace(new, self.control)


@pytest.fixture
def disk(tmp_path, library):
    disk = Disk(tmp_path, library)
    yield disk
    disk.say("works")


@pytest.fixture
def bridge(make_bridge, disk):
    return make_bridge(db=disk.folder / "bridge.db", limits=LIMITS).start(env=disk.env)


def leave_session(port: int, name: str, filters: dict[str, int]):
    """A session that is away."""
    raw = Raw(port, name, clean=False, expiry=3600)
    raw.subscribe(filters)
    raw.disconnect()


def resume(readers: list[Reader]) -> list[Reader]:
    for reader in readers:
        # Its session is there before its first connection.
        reader.connections = 1
        reader.start()
    return readers


def nothing_needs_the_disk_here(port: int, reader: Raw):
    """A clean session: its CONNECT, a subscription, PING, and a message at QoS 0 to a reader who is there."""
    fresh = Raw(port, patience=10)
    assert fresh.code == 0
    fresh.subscribe({"free/other": 1})
    fresh.publish("free/x", b"0")
    assert reader.until(PUBLISH) == []
    assert fresh.ping() == []
    fresh.disconnect()


@pytest.mark.parametrize("trouble", ["ENOSPC", "EROFS", "wait"])
def test_while_the_disk_refuses_only_what_needs_it_waits_and_nothing_is_lost(sim, bridge, disk, trouble):
    port, both = bridge.port, {"chat/#": 2}
    for name in ("away", "later"):
        leave_session(port, name, both)
    leave_session(port, "client1", {"client1/others/messages": 1})
    there = Reader(port, "there", both)
    there.start()
    assert there.subscribed.wait(30)
    publishers = [
        Publisher(port, "p1", "chat/p1", limit=MESSAGES),
        Publisher(port, "p2", "chat/p2", lambda n: 2, limit=MESSAGES),
        Publisher(port, "p311", "chat/p311", lambda n: 1 + n % 2, version=4, limit=MESSAGES),
    ]
    for publisher in publishers:
        publisher.start()
    eventually(lambda: all(p.number == MESSAGES and not p.open for p in publishers), "all is acknowledged")
    probe, listener = Raw(port, patience=10), Raw(port, patience=10)
    listener.subscribe({"free/x": 0})

    disk.say(trouble)
    before = [publisher.acknowledged for publisher in publishers]
    for publisher in publishers:
        publisher.limit += MESSAGES
    sim.upstream("phone", {"k": "v"})
    probe.publish("chat/probe", b"0", qos=1, id=1)
    probe.publish("chat/probe", b"1", qos=2, id=2)
    probe.publish("keep/probe", b"kept", qos=1, id=3, retain=True)
    # Of a disk that does not answer it is known after a while.
    bridge.wait_ready(503)
    said = {"wait": "the disk has not answered for "}.get(trouble, "")
    assert bridge.readyz()[1]["store"].startswith(said) and bridge.readyz()[1]["store"] != "ok"
    began = time.monotonic()
    nothing_needs_the_disk_here(port, listener)
    assert probe.ping() == [], "an acknowledgement before the commit"
    assert probe.poll(max(SILENCE - (time.monotonic() - began), 0.01)) == []
    nothing_needs_the_disk_here(port, listener)
    assert [publisher.acknowledged for publisher in publishers] == before
    assert sim.stats()["upstream"]["acked"] == 0

    disk.say("works")
    bridge.wait_ready()
    answers = sorted((packet.id, packet.kind) for packet in (probe.read(), probe.read(), probe.read()))
    assert answers == [(1, PUBACK), (2, PUBREC), (3, PUBACK)]
    for publisher in publishers:
        eventually(lambda: publisher.number == 2 * MESSAGES, "the rest is published")
        publisher.stop()
    readers = [there, *resume([Reader(port, "away", both)])]
    complete = lambda: all(r.has_all_of(p) for r in readers for p in publishers)  # noqa: E731
    settle(readers, complete)
    eventually(lambda: sim.stats()["upstream"]["acked"] == 1, "the message of the device is taken")
    # What is said to be safe now is safe.
    bridge.kill9()
    bridge.start(env=disk.env)
    readers += resume([Reader(port, "later", both)])
    [bal] = resume([Reader(port, "client1", {"client1/others/messages": 1})])
    settle([*readers, bal], lambda: complete() and bal.documents)
    kept = retained(port, "keep/probe", 1)
    for reader in [*readers, bal]:
        reader.stop()
    faults, figures = judge(publishers, readers)
    faults += judge_documents(bal, 1)
    assert kept == {"keep/probe": b"kept"} and not faults, "\n".join(["", *faults, f"retained: {kept}", str(figures)])


@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_that_only_clean_sessions_read_needs_no_disk(bridge, disk, qos):
    port = bridge.port
    reader, publisher = Raw(port, patience=10), Raw(port, patience=10)
    reader.subscribe({"free/x": 1})
    disk.say("ENOSPC")
    publisher.publish("free/x", b"0", qos=qos, id=1)
    assert publisher.read().kind == (PUBACK if qos == 1 else PUBREC)
    if qos == 2:
        publisher.ack(PUBREL, 1)
        assert publisher.read().kind == PUBCOMP
    assert reader.until(PUBLISH) == []
    disk.say("works")


@pytest.mark.parametrize("trouble", ["ENOSPC", "wait"])
def test_a_lasting_session_is_taken_over_while_the_disk_refuses(bridge, disk, trouble):
    port = bridge.port
    client = lambda: Raw(port, "laptop", clean=False, expiry=3600, patience=10)  # noqa: E731
    before, publisher = client(), Raw(port, patience=10)
    before.subscribe({"chat/#": 1, "$share/g/other": 1})
    publisher.publish("chat/x", b"0", qos=1, id=1)
    assert publisher.read().kind == PUBACK
    had = before.read()
    disk.say(trouble)
    before.ack(PUBACK, had.id)
    assert before.ping() == []
    for _ in range(2):
        # Well before a take-over is given up.
        began = time.monotonic()
        after = client()
        assert (after.code, after.present) == (0, True) and time.monotonic() - began < 4
        assert after.ping() == []
    publisher.publish("chat/x", b"1", qos=1, id=2)
    disk.say("works")
    assert publisher.read().kind == PUBACK
    # What was acknowledged before does not come again.
    assert after.read().payload == b"1"


def test_a_push_waits_for_a_disk_that_is_read_only(sim, bridge, disk):
    bal = Bal("client1", bridge.port).connect()
    bal.push("first", "phone")
    bal.wait_words("first", ["accepted", "sent", "delivered"])
    disk.say("EROFS")
    mids = [bal.push(f"m{n:03}", "phone") for n in range(20)]
    bridge.wait_ready(503)
    assert not any(mid in bal.acked for mid in mids)
    disk.say("works")
    bal.wait_acked(*mids)
    bal.wait_final([f"m{n:03}" for n in range(20)])
    assert [message["data"]["mine"] for message in sim.got("phone")[1:]] == [f"m{n:03}" for n in range(20)]
    bal.close()


def test_a_slow_disk_slows_only_what_waits_for_it(bridge, disk):
    port = bridge.port
    leave_session(port, "away", {"chat/#": 1})
    listener = Raw(port, patience=10)
    listener.subscribe({"free/x": 0})
    disk.say("slow")
    publishers = [Publisher(port, f"p{n}", f"chat/{n}", limit=100, window=50) for n in range(3)]
    began = time.monotonic()
    for publisher in publishers:
        publisher.start()
    slowest = 0.0
    while any(publisher.acknowledged < 100 for publisher in publishers):
        assert time.monotonic() < began + 30, [publisher.acknowledged for publisher in publishers]
        start = time.monotonic()
        nothing_needs_the_disk_here(port, listener)
        slowest = max(slowest, time.monotonic() - start)
    print(f"300 messages over a disk of 100 ms: {time.monotonic() - began:.2f} s; slowest without it {slowest:.3f} s")
    # Many share a commit: one at a time would take half a minute.
    assert slowest < 5
    for publisher in publishers:
        publisher.stop()
    [away] = resume([Reader(port, "away", {"chat/#": 1})])
    settle([away], lambda: all(away.has_all_of(publisher) for publisher in publishers))
    disk.say("works")
    away.stop()
    faults, figures = judge(publishers, [away])
    assert not faults, "\n".join(["", *faults, str(figures)])
