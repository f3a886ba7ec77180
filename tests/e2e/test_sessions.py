"""Many persistent sessions with unacknowledged messages, and the bridge stops under them."""

import json
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import paho.mqtt.client as mqtt
import pytest
from harness import PATIENCE, break_off, eventually

CLIENTS = 200
PER_CLIENT = 12
# Of these the client acknowledges nothing before the stop.
BEFORE = 5


class Reader:
    """One BAL with a persistent session that acknowledges by hand: nothing at first, later everything."""

    def __init__(self, n: int, port: int):
        self.name = f"bal{n}"
        self.port = port
        self.acks = False
        self.present = None
        self.client = None
        self.seen: list[tuple[int, str, bool, bool]] = []

    def connect(self, arrived: threading.Condition):
        ready = threading.Event()

        def connected(client, _userdata, flags, reason, _properties):
            assert not reason.is_failure, reason
            self.present = flags.session_present
            if flags.session_present:
                ready.set()
            else:
                client.subscribe(f"{self.name}/others/messages", 1)

        def message(client, _userdata, packet):
            body = json.loads(packet.payload)
            with arrived:
                self.seen.append((int(body["ccs_id"]), body["id"], bool(packet.dup), bool(body.get("redelivered"))))
                arrived.notify_all()
            if self.acks:
                client.ack(packet.mid, packet.qos)

        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, f"{self.name}:one", protocol=mqtt.MQTTv5, manual_ack=True
        )
        self.client.on_connect, self.client.on_message = connected, message
        self.client.on_subscribe = lambda *_: ready.set()
        properties = mqtt.Properties(mqtt.PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self.client.connect("127.0.0.1", self.port, keepalive=60, clean_start=False, properties=properties)
        self.client.loop_start()
        assert ready.wait(PATIENCE), self.name
        return self

    def vanish(self):
        break_off(self.client)


def all_of(action, readers):
    """Each ends a thread of its own."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(action, readers))


@pytest.mark.long(20)
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_persistent_clients_get_what_they_missed(sim, make_bridge, end):
    routes = "".join(f'"app{n}" = "bal{n}"\n' for n in range(CLIENTS))
    bridge = make_bridge(routes=routes).start()
    arrived = threading.Condition()
    readers = [Reader(n, bridge.port).connect(arrived) for n in range(CLIENTS)]

    def send(numbers):
        for number in numbers:
            for n in range(CLIENTS):
                sim.upstream(f"phone{n}", category=f"app{n}", message_id=str(number))

    def wait(count):
        with arrived:
            done = arrived.wait_for(lambda: all(len({i for i, *_ in r.seen}) >= count for r in readers), PATIENCE)
        few = {r.name: len(r.seen) for r in readers if len({i for i, *_ in r.seen}) < count}
        assert done, f"{len(few)} have less than {count}: {dict(list(few.items())[:5])}"

    send(range(BEFORE))
    wait(BEFORE)
    # Half of them are gone when the rest of the messages comes; these wait on the bridge's disk.
    all_of(Reader.vanish, readers[::2])
    send(range(BEFORE, PER_CLIENT))
    eventually(lambda: sim.stats()["now"]["unacked"] == 0, "the bridge has all messages")
    bridge.kill9() if end == "kill" else bridge.stop()
    all_of(Reader.vanish, readers[1::2])
    first = {reader.name: list(reader.seen) for reader in readers}
    bridge.start()
    for reader in readers:
        reader.seen, reader.acks = [], True
        reader.connect(arrived)
    wait(PER_CLIENT)

    figures = defaultdict(int)
    for reader in readers:
        assert reader.present, f"{reader.name}: its session is gone"
        before = {i for i, *_ in first[reader.name]}
        seen = set()
        for number, _, dup, redelivered in reader.seen:
            if number in seen:
                figures["copies"] += 1
                assert end == "kill" and redelivered, f"{reader.name}: {number} came twice without a mark"
            elif number in before:
                figures["again"] += 1
                assert dup or redelivered, f"{reader.name}: {number} came again without a mark"
            elif end == "stop":
                assert not dup and not redelivered, f"{reader.name}: {number} is marked and was never sent"
            seen.add(number)
        order = list(dict.fromkeys(number for number, *_ in reader.seen))
        assert order == list(range(PER_CLIENT)), f"{reader.name}: {order}"
        if end == "stop":
            assert all(dup and redelivered for number, _, dup, redelivered in reader.seen if number in before), reader.name
    print(f"{end}: {CLIENTS} clients, {dict(figures)}")
    all_of(Reader.vanish, readers)
