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
        # What the broker has acknowledged, the last of it, and what is on its way with the number of its packet.
        self.confirmed: set[str] = set()
        self.recent: deque[str] = deque(maxlen=REPEATED)
        self.flying: deque[tuple[str, int]] = deque()
        self.acked: set[int] = set()
        self.connected = threading.Event()
        self.stopped = threading.Event()
        # While it is set the apps say nothing: their word may overtake the push service's answer, and what it brings.
        self.silent = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"{self.user}:apps", protocol=mqtt.MQTTv5)
        if login:
            self.client.username_pw_set(*login)
        self.client.max_inflight_messages_set(1000)
        self.client.max_queued_messages_set(0)
        self.client.reconnect_delay_set(*RECONNECT)
        self.client.on_connect = self._connected
        self.client.on_publish = lambda _client, _userdata, packet, *_: self.acked.add(packet)
        self.client.connect_async("127.0.0.1", port, keepalive=60)
        self.client.loop_start()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        """Nearly all in one thread: paho's callbacks come while it holds locks of its own."""
        while not self.stopped.wait(LOOK):
            if self.connected.is_set():
                self.connected.clear()
                again = list(self.recent)
                self.recent.clear()
                self._confirm(again)
            if not self.silent.is_set():
                self._confirm([one["id"] for one in self._said()])
            while self.flying and self.flying[0][1] in self.acked:
                message, packet = self.flying.popleft()
                self.acked.remove(packet)
                self.confirmed.add(message)
                self.recent.append(message)

    def _said(self) -> list[dict]:
        """What the apps on the devices have to say since the last time."""
        if self.life != self.sim.runs:
            # A new simulator counts from the start.
            self.life, self.seen = self.sim.runs, 0
        try:
            said = self.sim.call("GET", f"/v1/acks?after={self.seen}")
        except OSError:
            return []
        assert all(one["topic"] == "self/receipts" for one in said)
        self.seen = said[-1]["seq"] if said else self.seen
        return said

    def _confirm(self, messages: list[str]):
        for message in messages:
            document = json.dumps({"id": message, "status": "received"})
            self.flying.append((message, self.client.publish(f"{self.user}/self/receipts", document, 1).mid))

    def _connected(self, _client, _userdata, _flags, reason, _properties):
        if not reason.is_failure:
            self.connected.set()

    def close(self):
        self.stopped.set()
        self.thread.join()
        self.client.disconnect()
        self.client.loop_stop()
