"""An MQTT client on a bare socket: it says what a test tells it, at once, and nothing by itself."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 2, 3, 4, 5, 6, 7
SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 9, 11, 13, 14
DUP, RETAIN = 8, 1
# Longest wait for a packet that must come, in seconds.
PATIENCE = 30.0


@dataclass
class Packet:
    """What came. `reason` is the code of CONNACK, SUBACK, of an acknowledgement or DISCONNECT."""

    kind: int
    qos: int = 0
    dup: bool = False
    retain: bool = False
    topic: str = ""
    payload: bytes = b""
    id: int = 0
    reason: int = 0
    present: bool = False


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """A whole packet: first byte, remaining length, body."""
    length, head = len(body), bytearray([first])
    while True:
        head.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes(head) + body


class Raw:
    """One connection. Each call says one packet; `read` yields what came."""

    def __init__(
        self,
        port: int,
        client: str = "",
        version: int = 5,
        clean: bool = True,
        expiry: int = 0,
        window: int = 0,
        will: tuple[str, bytes, int] | None = None,
        receive_buffer: int = 0,
        patience: float = PATIENCE,
    ):
        """Connects, and takes the CONNACK: its code is `code`. `expiry`, `window` (the receive maximum) and the delay in
        `will` (topic, payload, seconds) are of MQTT 5."""
        self.version = version
        self.buffer = bytearray()
        self.patience = patience
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(patience)
        try:
            self.socket.connect(("127.0.0.1", port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.send(self.connect_packet(client, clean, expiry, window, will))
            ack = self.read()
        except BaseException:
            self.socket.close()
            raise
        self.code, self.present = ack.reason, ack.present

    def connect_packet(self, client, clean, expiry, window, will) -> bytes:
        flags = clean << 1 | (0b1100 if will else 0)
        body = text("MQTT") + bytes([self.version, flags, 0, 0])
        if self.version == 5:
            properties = struct.pack(">BI", 0x11, expiry) + (struct.pack(">BH", 0x21, window) if window else b"")
            body += bytes([len(properties)]) + properties
        body += text(client)
        if will:
            topic, payload, delay = will
            body += struct.pack(">BBI", 5, 0x18, delay) if self.version == 5 else b""
            body += text(topic) + text(payload)
        return packet(0x10, body)

    def send(self, data: bytes):
        self.socket.sendall(data)

    def none(self) -> bytes:
        """The properties of a packet that has none."""
        return b"\0" if self.version == 5 else b""

    def publish_packet(self, topic: str, payload: bytes, qos=0, id=0, dup=False, retain=False) -> bytes:
        body = text(topic) + (struct.pack(">H", id) if qos else b"") + self.none() + payload
        return packet(0x30 | qos << 1 | (DUP if dup else 0) | (RETAIN if retain else 0), body)

    def publish(self, topic: str, payload: bytes, qos=0, id=0, dup=False, retain=False):
        self.send(self.publish_packet(topic, payload, qos, id, dup, retain))

    def ack_packet(self, kind: int, id: int) -> bytes:
        return packet(kind << 4 | (2 if kind == PUBREL else 0), struct.pack(">H", id))

    def ack(self, kind: int, id: int):
        self.send(self.ack_packet(kind, id))

    def subscribe(self, filters: dict[str, int], id=1) -> list[Packet]:
        """Subscribes and takes the SUBACK. Yields what came before it."""
        asked = b"".join(text(name) + bytes([qos]) for name, qos in filters.items())
        self.send(packet(0x82, struct.pack(">H", id) + self.none() + asked))
        return self.until(SUBACK)

    def unsubscribe(self, name: str, id=2) -> list[Packet]:
        self.send(packet(0xA2, struct.pack(">H", id) + self.none() + text(name)))
        return self.until(UNSUBACK)

    def ping(self) -> list[Packet]:
        """What comes before the PINGRESP."""
        self.send(b"\xc0\0")
        return self.until(PINGRESP)

    def until(self, kind: int) -> list[Packet]:
        before = []
        while (came := self.read()).kind != kind:
            before.append(came)
        assert came.reason < 0x80, came
        return before

    def read(self) -> Packet:
        """The next packet. `TimeoutError` if none comes in time, `EOFError` where the broker hung up."""
        deadline = time.monotonic() + self.patience
        while not (came := self.cut()):
            self.fill(max(deadline - time.monotonic(), 0.001))
        return came

    def poll(self, seconds: float) -> list[Packet]:
        """What is there, or comes within the time."""
        came = list(iter(self.cut, None))
        if not came:
            try:
                self.fill(max(seconds, 0.001))
            except TimeoutError:
                return []
            came = list(iter(self.cut, None))
        return came

    def fill(self, seconds: float):
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        finally:
            self.socket.settimeout(self.patience)
        if not data:
            raise EOFError("the broker hung up")
        self.buffer += data

    def cut(self) -> Packet | None:
        length = 0
        for at in range(1, min(len(self.buffer), 5)):
            length |= (self.buffer[at] & 0x7F) << 7 * (at - 1)
            if self.buffer[at] < 0x80:
                end = at + 1 + length
                if len(self.buffer) < end:
                    return None
                first, body = self.buffer[0], bytes(self.buffer[at + 1 : end])
                del self.buffer[:end]
                return self.parse(first, body)
        return None

    def parse(self, first: int, body: bytes) -> Packet:
        kind = first >> 4
        if kind == PUBLISH:
            return self.parse_publish(first, body)
        if kind == CONNACK:
            return Packet(kind, present=bool(body[0] & 1), reason=body[1])
        if kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
            return Packet(kind, id=struct.unpack_from(">H", body)[0], reason=body[2] if len(body) > 2 else 0)
        if kind in (SUBACK, UNSUBACK):
            # UNSUBACK of MQTT 3.1.1 has no codes.
            return Packet(kind, id=struct.unpack_from(">H", body)[0], reason=body[-1] if len(body) > 2 else 0)
        return Packet(kind, reason=body[0] if body else 0)

    def parse_publish(self, first: int, body: bytes) -> Packet:
        size, qos, id = struct.unpack_from(">H", body)[0], first >> 1 & 3, 0
        topic, at = body[2 : 2 + size].decode(), 2 + size
        if qos:
            id, at = struct.unpack_from(">H", body, at)[0], at + 2
        if self.version == 5:
            properties, shift = 0, 0
            while True:
                properties |= (body[at] & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if body[at - 1] < 0x80:
                    break
            at += properties
        return Packet(PUBLISH, qos, bool(first & DUP), bool(first & RETAIN), topic, body[at:], id)

    def disconnect(self):
        """An orderly end."""
        try:
            self.send(b"\xe0\0")
            while True:
                self.read()
        except (EOFError, OSError):
            self.vanish()

    def vanish(self):
        """An end without a word."""
        self.socket.close()
