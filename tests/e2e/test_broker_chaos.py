"""Clients that come and go, read slowly, take sessions over and run into every limit, for some minutes: nothing that was
acknowledged is lost, and memory stays where it was. `CHAOS_MINUTES` is how long (10), `CHAOS_SEED` repeats a run."""

import os
import random
import re
import threading
import time
from pathlib import Path

import pytest
from flows import Client, Publisher, Reader, judge, own_faults, seed_of, settle
from raw import PUBACK, Raw, packet, text

MINUTES = float(os.environ.get("CHAOS_MINUTES", "10"))
LIMITS = """
broker_publish_rate = 1000000
broker_queued_messages = 10000000
broker_queued_bytes = 10000000000
broker_connections_per_user = 500
broker_subscriptions = 50
broker_packet_bytes = 131072
"""
# Messages of each publisher in a second.
RATE = 60
# What a publisher has open at most.
WINDOW = 20
# Between two things that the chaos does, in seconds, at most.
PAUSE = 0.1
# Memory at the end over memory after this part of the time.
EARLY, MOST = 1 / 6, 1.1


class Sampler(threading.Thread):
    """Looks at the memory of a process each second."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.status = Path(f"/proc/{pid}/status")
        self.began = time.monotonic()
        self.kib: list[int] = []
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.wait(1):
            try:
                self.kib.append(int(re.search(r"VmRSS:\s+(\d+)", self.status.read_text())[1]))
            except (OSError, TypeError):
                # It has ended; whoever waits for it says so.
                return

    def around(self, part: float) -> int:
        """The median of some seconds about that part of the time, in KiB."""
        width = max(1, len(self.kib) // 30)
        at = min(len(self.kib) - width, max(0, int(len(self.kib) * part) - width // 2))
        return sorted(self.kib[at : at + width])[width // 2]


class Clean(Reader):
    """A reader with a clean session. What it gets in one connection has no hole, and it may be thrown out when it is slow."""

    def arrived(self, raw):
        self.look()
        self.tracks = {}
        super().arrived(raw)

    def look(self):
        for topic, track in self.tracks.items():
            # Of what a publisher had open when this reader came, some may have been taken before.
            holes = [number for number in track.missing if number >= track.first + WINDOW]
            if holes:
                self.faults.append(f"{self.name}: holes in {topic}, such as {sorted(holes)[:5]}")


class Abuser(Client):
    """Goes over one limit after the other, with a new connection each time."""

    def __init__(self, port, name, dice):
        super().__init__(port, name, clean=True, expiry=0)
        self.dice = dice
        self.abused = 0

    def live(self, raw):
        self.dice.choice([self.filters, self.big, self.deep, self.nonsense, self.unread, self.sessions, self.will])(raw)
        self.abused += 1
        raw.vanish()

    def filters(self, raw):
        for turn in range(3):
            asked = b"".join(text(f"abuse/{turn}/{n}") + b"\1" for n in range(40))
            raw.send(packet(0x82, b"\0\1" + raw.none() + asked))
            raw.read()

    def big(self, raw):
        raw.publish("abuse/big", b"x" * 200_000, qos=1, id=1)
        raw.read()

    def deep(self, raw):
        raw.publish("a/" * 200 + "a", b"x", qos=1, id=1)
        raw.read()

    def nonsense(self, raw):
        raw.send(self.dice.randbytes(200))
        # It may be the beginning of a packet, whose end the broker awaits.
        raw.poll(0.2)

    def unread(self, raw):
        """Subscribes to what it sends itself and never reads."""
        raw.subscribe({"abuse/unread": 1})
        message = raw.publish_packet("abuse/unread", b"x" * 10_000)
        raw.patience = 2
        raw.socket.settimeout(2)
        try:
            for _ in range(300):
                raw.send(message)
        except TimeoutError:
            pass

    def sessions(self, raw):
        name = f"abuse-{self.name}-{self.dice.randrange(50)}"
        lasting = Raw(self.port, name, clean=self.dice.random() < 0.5, expiry=30)
        lasting.subscribe({"abuse/kept/+": 1})
        lasting.vanish()
        raw.publish("abuse/kept/x", b"x" * 1000, qos=1, id=1, retain=self.dice.random() < 0.3)
        raw.until(PUBACK)

    def will(self, raw):
        Raw(self.port, f"will-{self.dice.randrange(20)}", expiry=1, will=("abuse/kept/will", b"gone", 1)).vanish()


def take_over(port: int, reader: Reader):
    """Another connection takes the reader's session, and goes; the reader comes again."""
    raw = Raw(port, reader.name, reader.version, clean=False, expiry=3600)
    assert raw.present, f"{reader.name}: its session is gone"
    raw.vanish()


def freeze(dice, reader: Reader):
    """It reads nothing for a while."""
    reader.delay = dice.random() * 3
    threading.Timer(dice.random() * 2, lambda: setattr(reader, "delay", 0.0)).start()


def chaos(dice, port, publishers, lasting, clean, until: float) -> dict[str, int]:
    """Does something to somebody until the time has come. Yields how often it did what."""
    did = dict.fromkeys(["hang-up of a publisher", "hang-up of a reader", "take-over", "freeze"], 0)
    while time.monotonic() < until:
        time.sleep(dice.random() * PAUSE)
        what = dice.choice(list(did))
        did[what] += 1
        if what == "hang-up of a publisher":
            dice.choice(publishers).hang_up()
        elif what == "hang-up of a reader":
            dice.choice(lasting + clean).hang_up()
        elif what == "take-over":
            take_over(port, dice.choice(lasting))
        else:
            freeze(dice, dice.choice(lasting + clean))
    return did


@pytest.mark.campaign
def test_chaos_among_clients_loses_nothing_and_takes_no_memory(make_bridge):
    dice = seed_of("chaos", os.environ.get("CHAOS_SEED"))
    bridge = make_bridge(limits=LIMITS).start(log="warn")
    port = bridge.port
    some = lambda: dice.choice([None, None, dice.randint(0, 300)])  # noqa: E731
    both = {"chat/#": 2}
    lasting = [
        Reader(port, "there", both),
        Reader(port, "there1", {"chat/#": 1}, version=4),
        Reader(port, "some", both, some, window=30),
        Reader(port, "some1", {"chat/+": 1}, some),
    ]
    clean = [Clean(port, f"clean{qos}", {"chat/#": qos}, clean=True, expiry=0) for qos in (1, 2)]
    publishers = [
        Publisher(port, "p1", "chat/p1", rate=RATE, window=WINDOW, size=500),
        Publisher(port, "p2", "chat/p2", lambda n: 2, rate=RATE, window=WINDOW),
        Publisher(port, "p12", "chat/p12", lambda n: 1 + n % 2, rate=RATE, window=WINDOW),
        Publisher(port, "p311", "chat/p311", lambda n: 1 + n // 10 % 2, version=4, rate=RATE, window=WINDOW),
    ]
    abusers = [Abuser(port, f"abuser{n}", random.Random(dice.random())) for n in range(2)]
    for reader in lasting + clean:
        reader.start()
    for reader in lasting + clean:
        assert reader.subscribed.wait(30), reader.name
    sampler = Sampler(bridge.process.child.pid)
    for client in [*publishers, *abusers, sampler]:
        client.start()
    did = chaos(dice, port, publishers, lasting, clean, time.monotonic() + MINUTES * 60)
    sampler.stopping.set()
    assert bridge.process.alive(), bridge.logs()[-2000:]
    for client in abusers + publishers:
        client.stop(60)
    for reader in lasting:
        reader.delay, reader.budget = 0.0, lambda: None
        reader.hang_up()
    settle(lasting, lambda: all(r.has_all_of(p) for r in lasting for p in publishers), quiet=20)
    for reader in lasting + clean:
        reader.stop()

    for reader in clean:
        reader.look()
    faults, figures = judge(publishers, lasting)
    faults += own_faults(clean + abusers)
    early, end = sampler.around(EARLY), sampler.around(1.0)
    told = {client.name: dict(client.told) for client in lasting + clean if client.told}
    figures |= {"minutes": MINUTES, **did, "abused": sum(abuser.abused for abuser in abusers), "disconnects": told}
    figures |= {"connections": {client.name: client.connections for client in lasting + clean + publishers}}
    figures |= {"MB early": early // 1024, "MB at the end": end // 1024, "MB most": max(sampler.kib) // 1024}
    print("chaos:", figures)
    if end > early * MOST:
        faults.append(f"memory grew from {early} to {end} KiB")
    assert not faults, "\n".join(["", *faults, str(figures)])
