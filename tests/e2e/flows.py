"""Publishers that publish until each message is acknowledged, and readers that look whether all of it arrives: once, in
order, and a copy only with its mark. Both keep their sessions through whatever happens to the broker."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter, deque

from raw import DISCONNECT, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, Raw

# How long the sessions are kept, in seconds.
EXPIRY = 3600
# Between two tries to connect, in seconds.
RETRY = 0.02
# Codes of CONNACK after which a client tries again: server unavailable (both versions), server busy.
NOT_NOW = (3, 0x88, 0x89)


class Client(threading.Thread):
    """A client with a lasting session that connects again whenever its connection ends."""

    def __init__(self, port: int, name: str, version: int = 5, **connect):
        super().__init__(daemon=True, name=name)
        self.port, self.version = port, version
        self.connect = {"clean": False, "expiry": EXPIRY, **connect}
        self.stopping = threading.Event()
        self.raw: Raw | None = None
        self.connections = 0
        # The session was not there any more when the client returned.
        self.sessions_lost = 0
        # Reasons of DISCONNECT.
        self.told: Counter[int] = Counter()
        self.faults: list[str] = []

    def run(self):
        while not self.over():
            try:
                self.raw = raw = Raw(self.port, self.name, self.version, **self.connect)
                if raw.code in NOT_NOW:
                    time.sleep(RETRY)
                    continue
                assert raw.code == 0, f"CONNACK {raw.code:#x}"
                self.connections += 1
                self.arrived(raw)
                self.live(raw)
            except TimeoutError as silence:
                self.faults.append(f"{self.name}: {silence!r}")
            except (OSError, EOFError):
                time.sleep(RETRY)
            except Exception as fault:  # noqa: BLE001 - the test hears of it in its own thread
                self.faults.append(f"{self.name}: {fault!r}")
                return
            finally:
                if self.raw:
                    self.raw.vanish()

    def arrived(self, raw: Raw):
        """After each CONNACK."""
        if self.connections > 1 and not raw.present and not self.connect["clean"]:
            self.sessions_lost += 1

    def over(self) -> bool:
        return self.stopping.is_set()

    def live(self, raw: Raw):
        raise NotImplementedError

    def hang_up(self):
        """The connection breaks; the client comes again by itself."""
        if self.raw:
            try:
                self.raw.socket.shutdown(2)
            except OSError:
                pass

    def stop(self, patience: float = 30.0):
        self.stopping.set()
        self.join(patience)
        if self.is_alive():
            self.faults.append(f"{self.name}: did not come to its end within {patience} s")
        return self


class Publisher(Client):
    """Publishes numbers on one topic, below `limit`. `qos_of` says with which QoS each goes; `rate` is the most in a second."""

    def __init__(self, port, name, topic, qos_of=lambda n: 1, window=20, rate=None, limit=None, size=60, **more):
        super().__init__(port, name, **more)
        self.limit = limit
        self.topic, self.qos_of, self.window, self.rate = topic, qos_of, window, rate
        self.padding = b" " + b"." * size
        self.number = 0
        # By packet identifier, in the order of the numbers: number, QoS, whether PUBREC came.
        self.open: dict[int, tuple[int, int, bool]] = {}
        self.ids = itertools.cycle(range(1, 65536))
        # Acknowledged by PUBACK or PUBREC.
        self.acknowledged = 0
        # Numbers that were published more than once: no copy of them is the broker's doing.
        self.again: set[int] = set()
        self.began = time.monotonic()

    def over(self):
        return self.stopping.is_set() and not self.open

    def arrived(self, raw):
        super().arrived(raw)
        if not raw.present:
            # What was released is done; the rest is published as if it was new.
            left = [(number, qos) for number, qos, released in self.open.values() if not released]
            self.open = {self.fresh(): (number, qos, False) for number, qos in left}
        again = bytearray()
        for id, (number, qos, released) in self.open.items():
            if released:
                again += raw.ack_packet(PUBREL, id)
                continue
            if qos == 1 or not raw.present:
                self.again.add(number)
            again += raw.publish_packet(self.topic, self.payload(number), qos, id, dup=raw.present)
        raw.send(bytes(again))

    def payload(self, number: int) -> bytes:
        return b"%d" % number + self.padding

    def fresh(self) -> int:
        return next(id for id in self.ids if id not in self.open)

    def room(self) -> int:
        if self.stopping.is_set():
            return 0
        room = self.window - len(self.open)
        if self.limit is not None:
            room = min(room, self.limit - self.number)
        if self.rate:
            room = min(room, int((time.monotonic() - self.began) * self.rate) - self.number)
        return max(room, 0)

    def live(self, raw):
        while not self.over():
            out = bytearray()
            for _ in range(self.room()):
                id, qos = self.fresh(), self.qos_of(self.number)
                self.open[id] = (self.number, qos, False)
                out += raw.publish_packet(self.topic, self.payload(self.number), qos, id)
                self.number += 1
            if out:
                raw.send(bytes(out))
            for packet in raw.poll(0.02):
                self.take(raw, packet)

    def take(self, raw, packet: Packet):
        if packet.kind == DISCONNECT:
            self.told[packet.reason] += 1
            return
        if packet.kind not in (PUBACK, PUBREC, PUBCOMP) or packet.id not in self.open:
            self.faults.append(f"{self.name}: {packet} answers nothing")
            return
        # "Packet identifier not found" answers a PUBREL that was said again after its PUBCOMP was lost (MQTT 5, 3.7.2.1).
        if packet.reason >= 0x80 and (packet.kind, packet.reason) != (PUBCOMP, 0x92):
            self.faults.append(f"{self.name}: refused: {packet}")
        number, qos, released = self.open[packet.id]
        if (packet.kind == PUBACK) != (qos == 1) or packet.kind == PUBCOMP and not released:
            self.faults.append(f"{self.name}: {packet} answers {number} at QoS {qos}")
        if packet.kind != PUBREC:
            del self.open[packet.id]
            self.acknowledged += packet.kind == PUBACK
            return
        self.open[packet.id] = (number, qos, True)
        self.acknowledged += not released
        raw.ack(PUBREL, packet.id)


class Track:
    """What arrived of one publisher on one topic, by its numbers; of constant size as long as nothing is wrong."""

    def __init__(self, first: int = 0):
        self.first = self.next = first
        self.missing: set[int] = set()
        # Came after a younger one.
        self.late = 0
        self.marked = 0
        self.unmarked: list[int] = []

    def take(self, number: int, marked: bool):
        if number >= self.next:
            self.missing.update(range(self.next, number))
            self.next = number + 1
        elif number in self.missing:
            self.missing.remove(number)
            self.late += 1
        elif marked:
            self.marked += 1
        else:
            self.unmarked.append(number)


class Reader(Client):
    """Reads with a lasting session. `budget()` is asked at each connection how many messages it acknowledges there (`None`:
    all of them); `delay` is a pause after each message, in seconds."""

    def __init__(self, port, name, filters: dict[str, int], budget=lambda: None, delay=0.0, **more):
        super().__init__(port, name, **more)
        self.filters, self.budget, self.delay = filters, budget, delay
        self.tracks: dict[str, Track] = {}
        # Documents of the bridge, by topic: each as it came, with whether it was marked.
        self.documents: list[tuple[dict, bool]] = []
        # QoS 2: taken, and not released.
        self.incoming: dict[int, bytes] = {}
        self.left: int | None = None
        self.waiting: deque[bytes] = deque()
        self.subscribed = threading.Event()
        self.received = 0

    def arrived(self, raw):
        super().arrived(raw)
        self.left, self.waiting = self.budget(), deque()
        if not raw.present:
            self.incoming = {}
            for packet in raw.subscribe(self.filters):
                self.take(raw, packet)
        self.subscribed.set()

    def live(self, raw):
        while not self.stopping.is_set():
            out = bytearray()
            for packet in raw.poll(0.1):
                out += self.take(raw, packet)
                if self.delay:
                    raw.send(bytes(out))
                    out = bytearray()
                    self.stopping.wait(self.delay)
            if out:
                raw.send(bytes(out))

    def take(self, raw, packet: Packet) -> bytes:
        """Takes a packet. Yields what to answer."""
        if packet.kind == PUBREL:
            self.incoming.pop(packet.id, None)
            return self.answer(raw.ack_packet(PUBCOMP, packet.id), 0)
        if packet.kind == DISCONNECT:
            self.told[packet.reason] += 1
        if packet.kind != PUBLISH:
            return b""
        if packet.qos == 2:
            if packet.id in self.incoming:
                if not packet.dup or self.incoming[packet.id] != packet.payload:
                    self.faults.append(f"{self.name}: {packet} under an identifier that is open")
            else:
                self.incoming[packet.id] = packet.payload
                self.note(packet)
            return self.answer(raw.ack_packet(PUBREC, packet.id), 1)
        self.note(packet)
        return self.answer(raw.ack_packet(PUBACK, packet.id), 1) if packet.qos else b""

    def answer(self, ack: bytes, cost: int) -> bytes:
        """The acknowledgement, as long as this reader gives any; they go in order."""
        if self.left is None:
            return ack
        if self.left <= 0:
            return b""
        self.left -= cost
        return ack

    def note(self, packet: Packet):
        self.received += 1
        if "/others/" in packet.topic:
            body = json.loads(packet.payload)
            self.documents.append((body, packet.dup or bool(body.get("redelivered"))))
            return
        number = int(packet.payload.split(b" ", 1)[0])
        if packet.topic not in self.tracks:
            # A clean reader starts at what is published when it comes.
            self.tracks[packet.topic] = Track(number if self.connect["clean"] else 0)
        self.tracks[packet.topic].take(number, packet.dup)

    def has_all_of(self, publisher: Publisher) -> bool:
        track = self.tracks.get(publisher.topic)
        return bool(track) and track.next >= publisher.number and not track.missing


def settle(readers, condition, quiet: float = 5.0, patience: float = 120.0) -> bool:
    """Waits until the condition holds. Gives up when nothing has come to any reader for `quiet` seconds."""
    began = changed = time.monotonic()
    before = None
    while not condition():
        now, count = time.monotonic(), sum(reader.received for reader in readers)
        if count != before:
            before, changed = count, now
        if now - changed > quiet or now - began > patience:
            return False
        time.sleep(0.02)
    return True


def own_faults(clients: list[Client]) -> list[str]:
    """What the clients noticed by themselves; three of each at most."""
    faults = []
    for client in clients:
        faults += client.faults[:3]
        faults += [f"{client.name}: and {len(client.faults) - 3} more like that"] if len(client.faults) > 3 else []
        faults += [f"{client.name}: its session was lost {client.sessions_lost} times"] if client.sessions_lost else []
    return faults


def judge(publishers: list[Publisher], readers: list[Reader]) -> tuple[list[str], dict]:
    """What is wrong with what arrived, and figures."""
    faults = own_faults([*publishers, *readers])
    figures: Counter[str] = Counter(acknowledged=sum(publisher.acknowledged for publisher in publishers))
    for reader, publisher in itertools.product(readers, publishers):
        track = reader.tracks.get(publisher.topic, Track())
        missing = track.missing | set(range(track.next, publisher.number))
        unmarked = [n for n in track.unmarked if n not in publisher.again]
        name = f"{reader.name} of {publisher.name}"
        if missing:
            faults.append(f"{name}: {len(missing)} of {publisher.number} lost, such as {sorted(missing)[:5]}")
        if track.late:
            faults.append(f"{name}: {track.late} behind a younger one")
        if unmarked:
            faults.append(f"{name}: {len(unmarked)} came twice without a mark, such as {unmarked[:5]}")
        figures["lost"] += len(missing)
        figures["marked copies"] += track.marked
        figures["published twice"] += len(track.unmarked) - len(unmarked)
    return faults, dict(figures)


def judge_documents(reader: Reader, expected: int) -> list[str]:
    """What is wrong with the documents of one topic: all distinct ones, in the order of each device, copies marked."""
    first: dict[str, tuple[str, int]] = {}
    faults, unmarked = [], 0
    for body, marked in reader.documents:
        if body["id"] in first:
            unmarked += not marked
        else:
            first[body["id"]] = (body["token"], int(body["ccs_id"]))
    if len(first) != expected:
        faults.append(f"{reader.name}: {len(first)} of {expected} documents")
    if unmarked:
        faults.append(f"{reader.name}: {unmarked} documents came twice without a mark")
    by_device: dict[str, list[int]] = {}
    for token, number in first.values():
        by_device.setdefault(token, []).append(number)
    disorder = sum(numbers != sorted(numbers) for numbers in by_device.values())
    if disorder:
        faults.append(f"{reader.name}: the documents of {disorder} devices are out of order")
    return faults


class Steps(Client):
    """Does one thing after the other, each until it is acknowledged, with pauses at which the state is known."""

    def __init__(self, port, name, **more):
        super().__init__(port, name, **more)
        self.step, self.begun = 0, False
        self.free, self.go = threading.Event(), threading.Event()
        self.go.set()

    def live(self, raw):
        while not self.stopping.is_set():
            # What was cut is done once more first: else nobody knows whether the broker did it.
            if not self.begun and not self.go.is_set():
                self.free.set()
                self.go.wait(0.1)
                continue
            self.begun = True
            self.do(raw, self.step)
            self.begun = False
            self.step += 1

    def do(self, raw: Raw, step: int):
        raise NotImplementedError

    def pause(self, patience=30.0):
        self.free.clear()
        self.go.clear()
        assert self.free.wait(patience), f"{self.name} did not come to rest; {self.faults}"

    def resume(self):
        self.go.set()


def retained(port: int, name: str, count: int) -> dict[str, bytes]:
    """What a new subscriber of a filter is told, if it is told of that many topics, and what else is on its way."""
    reader = Raw(port)
    came, deadline = reader.subscribe({name: 0}), time.monotonic() + 5
    while sum(packet.kind == PUBLISH for packet in came) < count and time.monotonic() < deadline:
        came += reader.poll(0.1)
    came += reader.ping()
    reader.vanish()
    return {packet.topic: packet.payload for packet in came if packet.kind == PUBLISH}


class Retainer(Steps):
    """Keeps and clears retained messages, on ten topics in turn."""

    KEYS = 10

    def do(self, raw, step):
        topic, value = f"keep/{self.name}/{step % self.KEYS}", self.value(step)
        raw.publish(topic, value, qos=1, id=1 + step % 60000, retain=True)
        raw.until(PUBACK)

    @staticmethod
    def value(step: int) -> bytes:
        # Each third of a topic's messages clears it.
        return b"" if step // Retainer.KEYS % 3 == 2 else b"%d" % step

    def expected(self) -> dict[str, bytes]:
        steps = range(max(0, self.step - self.KEYS), self.step)
        last = {f"keep/{self.name}/{step % self.KEYS}": self.value(step) for step in steps}
        return {topic: value for topic, value in last.items() if value}

    def check(self) -> list[str]:
        """At rest: what a new subscriber is told."""
        expected = self.expected()
        found = retained(self.port, f"keep/{self.name}/#", len(expected))
        wrong = [topic for topic in found.keys() | expected.keys() if found.get(topic) != expected.get(topic)]
        return [f"retained {topic}: {found.get(topic)} for {expected.get(topic)}" for topic in sorted(wrong)]


class Subscriber(Steps):
    """Subscribes to one topic after the other, and leaves the one before the last."""

    def do(self, raw, step):
        came = raw.subscribe({f"subs/{self.name}/{step}": 1}, id=1 + step % 60000)
        if step >= 2:
            came += raw.unsubscribe(f"subs/{self.name}/{step - 2}")
        self.fresh(raw, came)

    @staticmethod
    def fresh(raw, packets: list[Packet]) -> list[str]:
        """The topics of new messages; all are acknowledged, also what comes again because the broker missed that."""
        messages = [packet for packet in packets if packet.kind == PUBLISH]
        for packet in messages:
            raw.ack(PUBACK, packet.id)
        return [packet.topic for packet in messages if not packet.dup]

    def check(self) -> list[str]:
        """At rest: of what is published on its last topics and on those that it has left, it gets what it is subscribed to."""
        last = [f"subs/{self.name}/{step}" for step in range(max(0, self.step - 5), self.step)]
        probe = Raw(self.port)
        for id, topic in enumerate(last, 1):
            probe.publish(topic, b"x", qos=1, id=id)
        for _ in last:
            probe.until(PUBACK)
        probe.vanish()
        expected = last[-2:]
        topics, deadline = [], time.monotonic() + 5
        while len(topics) < len(expected) and time.monotonic() < deadline:
            topics += self.fresh(self.raw, self.raw.poll(0.1))
        topics += self.fresh(self.raw, self.raw.ping())
        return [] if topics == expected else [f"{self.name}: got {topics}, is subscribed to {expected}"]


def seed_of(name: str, given: str | None) -> random.Random:
    """The dice of a test; which seed they have is printed, so that it can be given again."""
    seed = int(given) if given else random.SystemRandom().randrange(1 << 32)
    print(f"{name}: seed {seed}")
    return random.Random(seed)
