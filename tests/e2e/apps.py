"""The apps on the simulated devices, as far as they speak MQTT."""

from __future__ import annotations

import json
import threading
from collections import deque

import paho.mqtt.client as mqtt

# How often the simulator is asked what its apps have to say.
LOOK = 0.025
# Confirmations that are made again when the connection is there again: a broker that crashed may have lost what it
# acknowledged just before.
REPEATED = 1000
# Seconds before the next attempt to connect, at first and at last.
RECONNECT = (0.1, 1)


class Apps:
    """A chat user whose apps confirm what they get, where the push service does not: a real client on a real topic."""

    def __init__(self, sim, port: int, login: tuple[str, str] | None = None):
        self.sim = sim
        self.user = login[0] if login else "phones"
        self.seen = 0
        self.life = sim.runs
        self.guard = threading.Lock()
        # Packet to message, until the broker has acknowledged it; then it counts as confirmed.
        self.flying: dict[int, str] = {}
        self.confirmed: set[str] = set()
        self.recent: deque[str] = deque(maxlen=REPEATED)
        self.stopped = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"{self.user}:apps", protocol=mqtt.MQTTv5)
        if login:
            self.client.username_pw_set(*login)
        self.client.max_inflight_messages_set(1000)
        self.client.max_queued_messages_set(0)
        self.client.reconnect_delay_set(*RECONNECT)
        self.client.on_connect = self._connected
        self.client.on_publish = self._published
        self.client.connect_async("127.0.0.1", port, keepalive=60)
        self.client.loop_start()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        while not self.stopped.wait(LOOK):
            try:
                if self.life != self.sim.runs:
                    # A new simulator counts from the start.
                    self.life, self.seen = self.sim.runs, 0
                said = self.sim.call("GET", f"/v1/acks?after={self.seen}")
            except OSError:
                continue
            for one in said:
                self.seen = one["seq"]
                self._confirm(one["topic"], one["id"])

    def _confirm(self, topic: str, message: str):
        assert topic == "self/receipts", topic
        with self.guard:
            document = json.dumps({"id": message, "status": "received"})
            packet = self.client.publish(f"{self.user}/{topic}", document, 1)
            self.flying[packet.mid] = message

    def _connected(self, _client, _userdata, _flags, reason, _properties):
        if reason.is_failure:
            return
        with self.guard:
            again = list(self.recent)
            self.recent.clear()
        for message in again:
            self._confirm("self/receipts", message)

    def _published(self, _client, _userdata, packet, _reason, _properties):
        with self.guard:
            message = self.flying.pop(packet)
            self.confirmed.add(message)
            self.recent.append(message)

    def close(self):
        self.stopped.set()
        self.thread.join()
        self.client.disconnect()
        self.client.loop_stop()
