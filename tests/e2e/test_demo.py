"""The demo as a newcomer meets it: with the passwords that it prints, from the shell and from a browser."""

import http.server
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

import pytest
from harness import PATIENCE, Process, eventually
from test_clients import HERE, NODE_PATH

MQTT_JS = Path(NODE_PATH) / "mqtt/dist/mqtt.min.js"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Demo:
    def __init__(self, folder: Path, *more):
        ports = [a for flag in ("listen", "ws-listen", "ops-listen", "control-listen") for a in (f"--{flag}", "127.0.0.1:0")]
        self.out = folder / "demo.out"
        self.process = Process(["demo", *ports, *more], folder / "demo.err", stdout=open(self.out, "wb"))
        self.text = eventually(lambda: "Each step" in (t := self.out.read_text()) and t, "the demo says what to do")
        self.passwords = dict(re.findall(r"^  (\w+) +(\w{16}) ", self.text, re.M))
        self.websocket = re.search(r"ws://\S+/mqtt", self.text).group()

    def line(self, *words: str) -> list[str]:
        """The printed command line that has all these words in it."""
        [line] = [line for line in self.text.splitlines() if line.startswith("  mosquitto") and all(w in line for w in words)]
        return shlex.split(line)


WAYS = {"ccs": {"client1", "alice", "bob"}, "fcm-v1": {"client1", "alice", "bob", "carol"}}


@pytest.fixture(params=WAYS)
def demo(request, tmp_path):
    demo = Demo(tmp_path, "--transport", request.param)
    demo.way = request.param
    yield demo
    demo.process.close()


def test_the_printed_lines_work_as_they_are(demo, tmp_path):
    assert set(demo.passwords) == WAYS[demo.way]
    inbox = tmp_path / "inbox"
    subscriber = subprocess.Popen(demo.line("mosquitto_sub", "client1/others"), stdout=open(inbox, "wb"))
    push = demo.line("mosquitto_pub", "client1")

    def told():
        subprocess.run(push, check=True, timeout=PATIENCE)
        return '"delivered"' in inbox.read_text()

    eventually(told, "the push is delivered")
    eventually(lambda: "client1/others/messages" in inbox.read_text(), "the phone answers")
    told = [json.loads(line.split(" ", 1)[1]) for line in inbox.read_text().splitlines() if line.startswith("client1/others/receipts ")]
    witness = {"ccs": "device", "fcm-v1": "app"}[demo.way]
    assert {(body["transport"], body["source"]) for body in told if body["status"] == "delivered"} == {(demo.way, witness)}
    wrong = ["wrong" if word == demo.passwords["client1"] else word for word in push]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0 and "not authorised" in done.stderr.lower(), done.stderr
    subscriber.kill()
    subscriber.wait()
    assert demo.process.terminate() == 0
    for secret in demo.passwords.values():
        assert secret not in demo.process.text(), "a password is in the log"


def test_the_printed_line_plays_groups_and_calls(tmp_path):
    demo = Demo(tmp_path)
    [line] = [line for line in demo.text.splitlines() if "examples/group.py" in line]
    program, *words = shlex.split(line)
    assert program == "python3"
    done = subprocess.run([sys.executable, *words], cwd=HERE.parents[1], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ["both ring", "49 phones were pushed once each", "['created', 'first', 'second, for you']"]:
        assert said in done.stdout, done.stdout
    assert done.stdout.count("messages, each once") == 3, done.stdout
    assert demo.process.terminate() == 0


def test_the_lines_of_the_readme_play_the_python_client_against_the_demo(tmp_path):
    demo = Demo(tmp_path)
    readme = (HERE.parents[1] / "README.md").read_text()
    [lines] = [block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "examples/chat.py" in block]
    for user in ("alice", "bob"):
        lines = lines.replace(f"PASSWORD_OF_{user.upper()}", demo.passwords[user])
    port = re.search(r"broker on 127\.0\.0\.1:(\d+)", demo.text).group(1)
    lines = lines.replace(" 1883 ", f" {port} ").replace("examples/", f"{HERE.parents[1]}/examples/").replace("python3", sys.executable)
    done = subprocess.run(["sh", "-ec", lines], cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "messages on bob's phone, each once" in done.stdout, done.stdout
    assert "I am here" in eventually(lambda: re.findall("gets a push .*", demo.out.read_text()), "bob's phone is pushed")[-1]
    assert demo.process.terminate() == 0


def test_the_readme_has_lines_as_the_demo_prints_them(tmp_path):
    def plain(text: str) -> set[str]:
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("mosquitto_")]
        return {re.sub(r"-P \S+", "-P PASSWORD", re.sub(r"-p \d+", "-p 1883", line)) for line in lines}

    demo = Demo(tmp_path)
    shown = plain((HERE.parents[1] / "README.md").read_text())
    assert len(shown) >= 4 and shown <= plain(demo.text), shown - plain(demo.text)
    assert demo.process.terminate() == 0


def test_the_printed_lines_let_alice_write_to_bob_whose_sleeping_phone_is_pushed(demo, tmp_path):
    laptop, phone, presence = (tmp_path / name for name in ("laptop", "phone", "presence"))
    reading = subprocess.Popen(demo.line("mosquitto_sub", "alice/others/+"), stdout=open(laptop, "wb"))
    eventually(lambda: subprocess.run(demo.line("mosquitto_pub", "alice"), timeout=PATIENCE).returncode == 0 and "alice/others/messages" in laptop.read_text(), "alice's laptop has the copy")
    eventually(lambda: '"status":"sent"' in laptop.read_text(), "alice is told that it is sent")
    said = [json.loads(line.split(" ", 1)[1]) for line in laptop.read_text().splitlines() if line.startswith("alice/others/messages ")]

    def pushed():
        shown = re.findall(r"bob's phone sleeps, and gets a push +push=(.*)", demo.out.read_text())
        return next((push for push in map(json.loads, shown) if push["sid"] == said[0]["sid"]), None)

    push = eventually(pushed, "the push is shown")
    assert (push["type"], push["account"], push["with"], push["body"]) == ("message", "bob", "alice", "hi")
    assert said[0]["from"] == "alice"
    assert ("mid" in push) == (demo.way == "fcm-v1")
    woken = subprocess.Popen(demo.line("mosquitto_sub", "bob:phone"), stdout=open(phone, "wb"))
    eventually(lambda: f'"sid":"{push["sid"]}"' in phone.read_text(), "bob's phone has the message when it wakes")
    watcher = subprocess.Popen(demo.line("mosquitto_sub", "alice/self/presence"), stdout=open(presence, "wb"))
    alice = subprocess.Popen(demo.line("mosquitto_sub", "alice:tablet"), stdout=subprocess.DEVNULL)
    eventually(lambda: '"online"' in presence.read_text(), "bob sees alice come")
    for client in (alice, reading):
        client.terminate()
    eventually(lambda: '"offline"' in presence.read_text(), "bob sees alice go")
    for client in (reading, woken, watcher, alice):
        client.kill()
        client.wait()
    assert demo.process.terminate() == 0
    assert "refused" not in demo.out.read_text().split("Each step")[1]
    assert "bobs-phone" not in demo.process.text() and '"hi"' not in demo.process.text(), "the log has neither token nor text"


@pytest.mark.parametrize("way", WAYS)
def test_without_passwords_the_printed_lines_push_as_well(tmp_path, way):
    demo = Demo(tmp_path, "--anonymous", "--transport", way)
    assert not demo.passwords
    inbox = tmp_path / "inbox"
    subscriber = subprocess.Popen(demo.line("mosquitto_sub", "client1/others"), stdout=open(inbox, "wb"))

    def told():
        subprocess.run(demo.line("mosquitto_pub", "client1"), check=True, timeout=PATIENCE)
        return '"delivered"' in inbox.read_text()

    eventually(told, "the push is delivered")
    subscriber.kill()
    subscriber.wait()
    assert demo.process.terminate() == 0
    assert not list(Path(tempfile.gettempdir()).glob(f"fcm-mqtt-bridge-demo-{demo.process.child.pid}"))


def test_a_push_whose_own_ack_is_no_place_for_confirmations_stops_no_other(tmp_path):
    demo = Demo(tmp_path, "--transport", "fcm-v1")
    inbox = tmp_path / "inbox"
    subscriber = subprocess.Popen(demo.line("mosquitto_sub", "client1/others"), stdout=open(inbox, "wb"))
    [*push, _] = demo.line("mosquitto_pub", "client1")
    own = {"id": "own", "token": "phone-1", "data": {"mid": "x", "ack": "y"}}
    subprocess.run([*push, json.dumps(own)], check=True, timeout=PATIENCE)
    eventually(lambda: "a push is not confirmed" in demo.process.text(), "it is told")
    for number in range(3):
        usual = {"id": f"usual-{number}", "token": "phone-1", "data": {}}
        subprocess.run([*push, json.dumps(usual)], check=True, timeout=PATIENCE)
    eventually(lambda: inbox.read_text().count('"delivered"') >= 3, "the others are confirmed")
    subscriber.kill()
    subscriber.wait()
    demo.process.terminate()
    assert "reason=publish_denied" not in demo.out.read_text()
    assert demo.process.text().count("a push is not confirmed") == 1
    assert "\x1b" not in demo.process.text(), "colours are for screens"


def test_whoever_is_refused_is_told_on_the_screen(tmp_path):
    demo = Demo(tmp_path)
    push = demo.line("mosquitto_pub", "client1")
    secret = demo.passwords["client1"]

    def run(words):
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)

    def told(reason, *words):
        lines = [line for line in demo.out.read_text().splitlines() if f"reason={reason} " in line]
        return bool(lines) and all(word in lines[-1] for word in ["client refused", "address=127.0.0.1:", "rule=", *words])

    nobody = [word for word in push if word not in ["-u", "client1", "-P", secret]]
    refusals = [
        ("credentials", ["wrong" if word == secret else word for word in push], "user=client1"),
        ("no_user", nobody, "anonymous clients are not let in"),
        ("mqtt_3_1", [*push, "-V", "mqttv31"], "user=client1"),
    ]
    for reason, command, words in refusals:
        assert run(command).returncode != 0, reason
        eventually(lambda r=reason, w=words: told(r, w), f"{reason} is on the screen")
    denied = [
        ("publish_denied", [word.replace("client1/self/", "alice/self/") for word in push], "alice/self/messages"),
        ("subscribe_denied", [word.replace("client1/others/+", "alice/others/+") for word in demo.line("mosquitto_sub", "client1/others")], "alice/others/+"),
    ]
    for reason, command, topic in denied:
        # They try again and again.
        client = subprocess.Popen(command)
        eventually(lambda r=reason, t=topic: told(r, "user=client1", f"detail={t}"), f"{reason} is on the screen")
        client.kill()
        client.wait()
    assert demo.process.terminate() == 0
    for one in demo.passwords.values():
        assert one not in demo.out.read_text().split("Each step")[1] and one not in demo.process.text(), "a password is told"


class Page(http.server.BaseHTTPRequestHandler):
    """Serves the page and mqtt.js, and takes the result."""

    files = {"/chat.html": (HERE / "chat.html", "text/html"), "/mqtt.min.js": (MQTT_JS, "text/javascript")}

    def do_GET(self):
        path, kind = self.files.get(self.path, (None, None))
        self.send_response(200 if path else 404)
        if path:
            self.send_header("content-type", kind)
        self.end_headers()
        if path:
            self.wfile.write(path.read_bytes())

    def do_POST(self):
        self.server.result = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_mqtt_js_in_a_browser_connects_over_websocket_and_exchanges_messages(demo, tmp_path):
    assert BROWSER, "there is no Chromium; tests/run installs it"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.result = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = urllib.parse.quote(json.dumps({"url": demo.websocket, "passwords": demo.passwords}))
    page = f"http://127.0.0.1:{server.server_port}/chat.html#{told}"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile"]
    browser = Process([*options, page], tmp_path / "browser.log", program=BROWSER)
    result = eventually(lambda: server.result, "the page tells what happened", patience=90)
    browser.close()
    server.shutdown()
    assert "error" not in result, result
    words = [one["body"]["status"] for one in result["seen"] if one["topic"] == "client1/others/receipts"]
    assert words == ["accepted", "sent", "delivered"]
    [answer] = [one["body"]["data"] for one in result["seen"] if one["topic"] == "client1/others/messages"]
    assert answer["hello"] == "web"
    assert [one["body"]["body"] for one in result["seen"] if one["client"] == "laptop" and one["topic"] == "alice/others/messages"] == ["hi"]
    assert [one["body"]["body"] for one in result["seen"] if one["client"] == "bob" and one["topic"] == "bob/others/messages"] == ["hi"]
    assert [one["body"]["state"] for one in result["seen"] if one["topic"] == "alice/self/presence"][-1] == "online"
    assert (result["refused"], result["stranger"]) == ("refused", "refused")
