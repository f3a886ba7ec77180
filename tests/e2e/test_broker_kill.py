"""The broker is killed at random moments. Nothing that it acknowledged is lost: messages between clients at QoS 1 and 2 both
ways, retained messages, subscriptions, sessions, and the documents of the bridge. `KILL_SEED` repeats a run."""

import os
import time

import pytest
from flows import Publisher, Reader, Retainer, Subscriber, judge, judge_documents, own_faults, seed_of, settle
from harness import eventually
from raw import Raw

LIMITS = """
broker_publish_rate = 1000000
broker_queued_messages = 10000000
broker_queued_bytes = 10000000000
"""
BOTH = {"chat/#": 2}
BAL, BACKLOG = "client1/others/messages", "client2/others/messages"
DEVICES = 10
# Documents of one round, for each of both BALs.
DOCUMENTS = 50
# Messages of each publisher in one round.
MESSAGES = 150


class Away:
    """A reader that is there only now and then, and takes a random part of what waits for it."""

    def __init__(self, dice, port, name, filters, **more):
        self.dice, self.reader = dice, Reader(port, name, filters, **more)
        self.port = port
        raw = Raw(port, name, clean=False, expiry=3600)
        raw.subscribe(filters)
        raw.disconnect()

    def look_in(self):
        """A thread runs once: each visit is a new one over the same state."""
        before, self.reader = self.reader, Reader(self.port, self.reader.name, self.reader.filters)
        for kept in ("tracks", "documents", "incoming", "received", "faults", "sessions_lost", "connections"):
            setattr(self.reader, kept, getattr(before, kept))
        # Its session is there from the start.
        self.reader.connections = max(self.reader.connections, 1)
        self.reader.budget = lambda: self.dice.randint(0, 200)
        self.reader.start()

    def leave(self):
        self.reader.stop()


class Clients:
    """The clients of a run: publishers and readers of each kind."""

    def __init__(self, dice, port):
        self.dice, self.port = dice, port
        self.publishers = [
            Publisher(port, "p1", "chat/p1", limit=0),
            Publisher(port, "p2", "chat/p2", qos_of=lambda n: 2, limit=0),
            Publisher(port, "p12", "chat/p12", qos_of=lambda n: 1 + n % 2, limit=0),
            Publisher(port, "p311", "chat/p311", qos_of=lambda n: 1 + n // 10 % 2, version=4, limit=0),
        ]
        some = lambda: dice.randint(0, 60)  # noqa: E731
        self.there = Reader(port, "there", BOTH)
        self.readers = [self.there, Reader(port, "there1", {"chat/#": 1}, version=4), Reader(port, "half", BOTH, some)]
        self.bals = [Reader(port, "client1", {BAL: 1}), Reader(port, "client1:half", {BAL: 1}, some)]
        self.away, self.away_bal = Away(dice, port, "away", BOTH), Away(dice, port, "client1:away", {BAL: 1})
        self.steps = [Retainer(port, "retainer"), Subscriber(port, "subscriber")]
        for reader in [*self.readers, *self.bals]:
            reader.start()
        for reader in [*self.readers, *self.bals]:
            assert reader.subscribed.wait(30), reader.name
        for client in [*self.publishers, *self.steps]:
            client.start()

    def acknowledged(self) -> int:
        return sum(publisher.acknowledged for publisher in self.publishers)

    def check_steps(self) -> list[str]:
        for client in self.steps:
            client.pause()
        faults = [fault for client in self.steps for fault in client.check()]
        for client in self.steps:
            client.resume()
        return faults

    def finish(self) -> tuple[list[Reader], list[Reader]]:
        """All that is open is acknowledged, everybody reads everything. Yields the readers of messages and of documents."""
        for client in [*self.publishers, *self.steps]:
            client.stop()
        for away in (self.away, self.away_bal):
            away.look_in()
        readers, bals = [*self.readers, self.away.reader], [*self.bals, self.away_bal.reader]
        for reader in readers + bals:
            reader.budget = lambda: None
            reader.hang_up()
        return readers, bals


def crash(dice, bridge, clients):
    """Kills it after some acknowledgements, at any moment of what it does then; now and then once more while it starts."""
    for publisher in clients.publishers:
        publisher.limit += MESSAGES
    goal = clients.acknowledged() + dice.randint(1, MESSAGES * len(clients.publishers))
    eventually(lambda: clients.acknowledged() >= goal, f"{goal} acknowledgements; {own_faults(clients.publishers)}")
    time.sleep(dice.random() * 0.02)
    bridge.kill9()
    while dice.random() < 0.25:
        bridge.start(ready=False)
        time.sleep(dice.random() * 0.5)
        bridge.kill9()
    bridge.start()


def documents(sim):
    for prefix, category in (("phone", "com.example.first"), ("tablet", "com.example.second")):
        wave = {"devices": DEVICES, "per_device": DOCUMENTS // DEVICES, "prefix": prefix, "category": category}
        sim.call("POST", "/upstream", wave)


def kills(sim, make_bridge, rounds: int, quiet: float):
    dice = seed_of("kills", os.environ.get("KILL_SEED"))
    bridge = make_bridge(limits=LIMITS).start(log="warn")
    clients = Clients(dice, bridge.port)
    faults: list[str] = []
    for turn in range(rounds):
        documents(sim)
        away = [away for away in (clients.away, clients.away_bal) if dice.random() < 0.3]
        for one in away:
            one.look_in()
        crash(dice, bridge, clients)
        for one in away:
            one.leave()
        faults += [f"round {turn}: {fault}" for fault in clients.check_steps()]
    eventually(lambda: sim.stats()["now"]["unacked"] == 0, "the bridge has all messages of devices")
    readers, bals = clients.finish()
    # Nobody has read the other BAL's documents so far.
    bals.append(Reader(bridge.port, "client2", {BACKLOG: 1}))
    bals[-1].start()
    expected = rounds * DOCUMENTS

    def complete():
        full = all(reader.has_all_of(publisher) for reader in readers for publisher in clients.publishers)
        return full and all(len({body["id"] for body, _ in bal.documents}) >= expected for bal in bals)

    settle(readers + bals, complete, quiet)
    for client in readers + bals:
        client.stop()
    more, figures = judge(clients.publishers, readers)
    faults += more + own_faults([*clients.steps, *bals])
    faults += [fault for bal in bals for fault in judge_documents(bal, expected)]
    figures |= {"kills": rounds, "documents": expected * len(bals), "steps": [client.step for client in clients.steps]}
    print(figures)
    assert not faults, "\n".join(["", *faults, str(figures)])


def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(sim, make_bridge):
    kills(sim, make_bridge, rounds=3, quiet=3)


@pytest.mark.campaign
def test_a_hundred_kills_at_random_moments_lose_nothing_that_was_acknowledged(sim, make_bridge):
    kills(sim, make_bridge, rounds=100, quiet=20)
