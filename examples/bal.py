"""A backend application (BAL) that answers devices by pushes, and chat users by messages.

    python3 bal.py HOST PORT USER PASSWORD_FILE

USER is the name of the BAL, and PASSWORD_FILE holds its password. Needs paho-mqtt, version 1 or 2 (Debian: python3-paho-mqtt).
The topics and documents are in topics.md.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

try:
    import paho.mqtt.client as mqtt
    from paho.mqtt.properties import PacketTypes, Properties
except ImportError:
    sys.exit("paho-mqtt is missing: pip install paho-mqtt")

# Reason codes of MQTT 5. After these it would be in vain to try again.
WRONG_LOGIN, TAKEN_OVER = (0x86, 0x87), 0x8E


def reply(told: dict) -> dict | None:
    """The answer to a message, if it gets one."""
    data = told.get("data")
    # Two programs that answer each other's answers would never end.
    if isinstance(data, dict) and "answer_to" in data:
        return None
    # The answer's id is made of the message's: what comes again, with `redelivered`, is answered once.
    answer = {"id": f"re-{told['id']}", "data": {"answer_to": told["id"]}}
    if "token" in told:
        return {**answer, "token": told["token"], "data": {**answer["data"], **(data or {})}}
    # Of what users write, edits and retracts have no `n`.
    if "n" not in told:
        return None
    said = f"You wrote: {told['body'][:1000]}" if "body" in told else "Thank you."
    return {**answer, "to": told["from"], "reply_to": told["sid"], "body": said}


def main(host: str, port: str, user: str, password_file: str):
    def connected(client, _userdata, _flags, reason, _properties):
        if reason.value in WRONG_LOGIN:
            sys.exit(f"{host}:{port} does not let `{user}` in with the password of {password_file}: {reason}")
        print("connected:", reason, flush=True)
        if not reason.value:
            client.subscribe(f"{user}/others/+", qos=1)

    def disconnected(*told):
        # Version 2 of paho tells more than version 1, and both tell the reason last but one.
        if told[-2] is not None and getattr(told[-2], "value", told[-2]) == TAKEN_OVER:
            sys.exit(f"another client has connected as `{user}`: this one stops, for they would throw each other out for ever")

    def arrived(client, _userdata, message):
        print(message.topic, message.payload.decode(), flush=True)
        if message.topic == f"{user}/others/messages":
            answer = reply(json.loads(message.payload))
            if answer:
                client.publish(f"{user}/self/messages", json.dumps(answer), qos=1)

    try:
        password = Path(password_file).read_text().strip()
    except (OSError, ValueError) as fault:
        sys.exit(f"cannot read the password file {password_file}: {fault}")
    # Version 2 of paho asks which callbacks are meant; version 1 has only its own.
    callbacks = [mqtt.CallbackAPIVersion.VERSION2] if hasattr(mqtt, "CallbackAPIVersion") else []
    client = mqtt.Client(*callbacks, client_id=user, protocol=mqtt.MQTTv5)
    client.username_pw_set(user, password)
    client.on_connect, client.on_disconnect, client.on_message = connected, disconnected, arrived
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: client.disconnect())
    # A session that is kept for a day: what arrives meanwhile waits in the broker.
    kept = Properties(PacketTypes.CONNECT)
    kept.SessionExpiryInterval = 86_400
    try:
        client.connect(host, int(port), clean_start=False, properties=kept)
    except OSError as fault:
        sys.exit(f"no broker at {host}:{port}: {fault}")
    client.loop_forever()


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) != 4 or not all(words) or not words[1].isdecimal() or not 0 < int(words[1]) < 65536:
        print(__doc__.strip(), file=sys.stderr)
        sys.exit(64)
    main(*words)
