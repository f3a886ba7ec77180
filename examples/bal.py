"""A backend application (BAL) that answers each message of a device with a push to that device.

    python3 bal.py HOST USER PASSWORD_FILE

Needs paho-mqtt (Debian: python3-paho-mqtt). The topics and documents are in topics.md.
"""

import json
import signal
import sys
from pathlib import Path

import paho.mqtt.client as mqtt

host, user, password_file = sys.argv[1:]


def connected(client, _userdata, _flags, reason, *_):
    print("connected:", reason, flush=True)
    client.subscribe(f"{user}/others/+", qos=1)


def arrived(client, _userdata, message):
    print(message.topic, message.payload.decode(), flush=True)
    if message.topic == f"{user}/others/messages":
        told = json.loads(message.payload)
        # The answer's id is made of the message's: what comes again, with `redelivered`, is answered once.
        answer = {"id": f"re-{told['id']}", "token": told["token"], "data": {"answer_to": told["id"], **told["data"]}}
        client.publish(f"{user}/self/messages", json.dumps(answer), qos=1)


# Version 2 of paho asks which callbacks are meant; version 1 has only these.
callbacks = [mqtt.CallbackAPIVersion.VERSION1] if hasattr(mqtt, "CallbackAPIVersion") else []
# A session that is kept: what arrives meanwhile waits in the broker.
client = mqtt.Client(*callbacks, client_id=user, clean_session=False)
client.username_pw_set(user, Path(password_file).read_text())
client.on_connect = connected
client.on_message = arrived
signal.signal(signal.SIGTERM, lambda *_: client.disconnect())
client.connect_async(host)
client.loop_forever(retry_first_connection=True)
