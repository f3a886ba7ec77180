"""Every client library that a backend is likely to use does the main job against the embedded broker."""

import json
import os
import subprocess
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from harness import Bal, Process, eventually, mine

HERE = Path(__file__).parent
NODE_PATH = os.environ.get("NODE_PATH", str(HERE.parent / ".cache/node/node_modules"))


@pytest.fixture(params=[mqtt.MQTTv5, mqtt.MQTTv311], ids=["mqtt5", "mqtt311"])
def version(request):
    return request.param


def test_paho_pushes_and_hears_of_it_and_gets_what_a_device_sends(sim, bridge, version):
    bal = Bal("client1", bridge.port, version).connect()
    mid = bal.push("a1", "phone")
    bal.wait_acked(mid)
    bal.wait_words("a1", ["accepted", "sent", "delivered"])
    assert mine(sim.got("phone")) == ["a1"]
    sim.upstream("phone", {"hello": "world"})
    [message] = bal.wait_on("messages", 1)
    assert (message["token"], message["data"]) == ("phone", {"hello": "world"})
    bal.close()


@pytest.mark.parametrize("flag", ["5", "311"])
def test_the_mosquitto_clients_push_and_hear_of_it(tmp_path, sim, bridge, flag):
    options = ["-h", "127.0.0.1", "-p", bridge.port, "-V", flag, "-q", 1]
    reader = Process([*options, "-v", "-t", "client1/others/#"], tmp_path / "sub.log", program="mosquitto_sub")
    payload = '{"id":"a1","token":"phone","data":{"k":"v"}}'
    done = subprocess.run(
        ["mosquitto_pub", *map(str, options), "-t", "client1/self/messages", "-m", payload], timeout=20, check=False
    )
    assert done.returncode == 0

    def told():
        return [line.split(" ", 1) for line in reader.lines()]

    words = ["accepted", "sent", "delivered"]
    eventually(lambda: [json.loads(body)["status"] for _, body in told()] == words, "mosquitto_sub shows the statuses")
    sim.upstream("phone", {"k": "é"})
    eventually(lambda: len(told()) == 4, "mosquitto_sub shows the message of the device")
    topic, body = told()[3]
    assert topic == "client1/others/messages" and json.loads(body)["data"] == {"k": "é"}
    reader.close()


@pytest.mark.parametrize("protocol", [5, 4])
def test_mqtt_js_pushes_and_hears_of_it_and_gets_what_a_device_sends(tmp_path, sim, bridge, protocol):
    payload = json.dumps({"id": "a1", "token": "phone", "data": {"mine": "a1"}})
    args = [HERE / "bal.mjs", bridge.port, protocol, "client1", payload]
    bal = Process(args, tmp_path / "node.log", env={"NODE_PATH": NODE_PATH}, program="node")

    def said():
        assert bal.alive(), bal.text()
        return [json.loads(line) for line in bal.lines()]

    def statuses():
        return [line["body"]["status"] for line in said() if line.get("topic") == "client1/others/receipts"]

    eventually(lambda: statuses() == ["accepted", "sent", "delivered"], "mqtt.js gets the statuses")
    assert {"acked": True} in said()
    sim.upstream("phone", {"k": "v"})
    eventually(
        lambda: [line["body"]["data"] for line in said() if line.get("topic") == "client1/others/messages"]
        == [{"k": "v"}],
        "mqtt.js gets the message of the device",
    )
    assert not [line for line in said() if "error" in line]
    bal.close()


def test_both_mqtt_versions_talk_to_each_other_on_one_port(bridge):
    new = Bal("client1", bridge.port, mqtt.MQTTv5, "new", filters=["chat/+"]).connect()
    old = Bal("client2", bridge.port, mqtt.MQTTv311, "old", filters=["chat/+"]).connect()
    properties = mqtt.Properties(mqtt.PacketTypes.PUBLISH)
    properties.UserProperty = ("k", "v")
    properties.ContentType = "application/json"
    new.publish({"from": "new"}, "chat/a", properties=properties)
    old.wait(lambda: ("chat/a", {"from": "new"}) in old.messages, "3.1.1 reads what 5 wrote")
    old.publish({"from": "old"}, "chat/b")
    new.wait(lambda: ("chat/b", {"from": "old"}) in new.messages, "5 reads what 3.1.1 wrote")
    assert old.connections == new.connections == 1
    new.close()
    old.close()


def test_workers_with_a_shared_subscription_get_each_message_once(sim, bridge):
    filters = ["$share/client1-msg/client1/others/messages"]
    one = Bal("client1", bridge.port, client_id="client1:w1", filters=filters).connect()
    two = Bal("client1", bridge.port, client_id="client1:w2", filters=filters).connect()
    sim.upstream("phone", count=40)
    eventually(lambda: len(one.messages) + len(two.messages) >= 40, "all are with a worker")
    ids = [body["ccs_id"] for worker in (one, two) for _, body in worker.messages]
    assert sorted(map(int, ids)) == list(range(1, 41))
    assert one.messages and two.messages
    one.close()
    sim.upstream("phone", count=10)
    eventually(lambda: {str(n) for n in range(41, 51)} <= {body["ccs_id"] for _, body in two.messages}, "the other has the rest")
    two.close()
