"""The clients in examples/, which app developers copy; group.py is played against the demo (test_demo.py)."""

import http.server
import json
import subprocess
import sys
import threading
import urllib.parse
from functools import partial
from pathlib import Path

from chat_clients import is_sid
from harness import Process
from test_demo import BROWSER, MQTT_JS

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "bobs-token"


def test_the_scene_of_the_python_client_ends_with_the_tick_read(chat, tmp_path):
    chat.sim.set_device(TOKEN, receipts=False)
    for user in ["alice", "bob"]:
        (tmp_path / user).write_text(chat.secret(user))
    words = [sys.executable, EXAMPLES / "chat.py", "127.0.0.1", chat.port, tmp_path / "alice", tmp_path / "bob", TOKEN]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 messages on bob's phone, each once" in done.stdout
    assert '"status":"read"' in done.stdout.replace(" ", "")
    [push] = chat.pushes(TOKEN, type="message")
    assert push["body"] == "I am here" and push["with"] == "alice"


class Folder(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_the_page_shows_a_conversation_and_reads_it(chat, tmp_path):
    chat.befriend("alice", "bob")
    alice = chat.device("alice")
    sid = alice.sent("bob", "before the page")
    login = {**of_page(chat, "bob"), "peer": "alice"}
    browser = browse(tmp_path, f"chat.html#{fragment(login)}")
    # What it missed it has asked for, and it says that it has been read; and so it does for what comes while it is there.
    alice.wait(lambda: "read" in alice.statuses(sid), "the page reads what it missed", 90)
    later = alice.sent("bob", "on the page")
    alice.wait(lambda: "read" in alice.statuses(later), "the page reads what comes")
    browser.close()


def test_two_pages_ring_each_other_and_one_of_them_answers_and_hangs_up(chat, tmp_path):
    chat.befriend("alice", "bob")
    alice, bob = chat.device("alice"), chat.device("bob")
    caller = {**of_page(chat, "alice"), "peer": "bob", "auto": "ring", "seconds": 1}
    callee = {**of_page(chat, "bob"), "peer": "alice", "auto": "answer"}
    frames = [f'<iframe src="call.html#{fragment(login)}"></iframe>' for login in (callee, caller)]
    (tmp_path / "pages.html").write_text("".join(frames))
    browser = browse(tmp_path, "pages.html")
    bob.wait(lambda: bob.on("calls", type="answer", dev="web"), "the page answers", 90)
    for device in (alice, bob):
        ended = device.wait_for("messages", type="call")
        assert (ended["from"], ended["outcome"]) == ("alice", "answered") and ended["seconds"] >= 1
    assert bob.on("calls", type="ringing", dev="web") and bob.on("calls", type="taken", dev="web")
    assert bob.on("calls", type="end", **{"from": "alice", "dev": "web"})
    browser.close()


def of_page(chat, user: str) -> dict:
    return {"url": f"ws://127.0.0.1:{chat.ws_port}/mqtt", "user": user, "password": chat.secret(user)}


def fragment(login: dict) -> str:
    return urllib.parse.quote(json.dumps(login))


def browse(tmp_path, page: str) -> Process:
    """A browser with one of the example pages, or with one of the test's own beside them."""
    assert BROWSER, "there is no Chromium; tests/run installs it"
    folder = tmp_path / "page"
    folder.mkdir()
    for source in [*EXAMPLES.glob("*.html"), *tmp_path.glob("*.html")]:
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "mqtt.min.js").write_bytes(MQTT_JS.read_bytes())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Folder, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile"]
    return Process([*options, f"http://127.0.0.1:{server.server_port}/{page}"], tmp_path / "browser.log", program=BROWSER)


def test_the_examples_make_ids_as_the_bridge_does(chat):
    python = "import sys; sys.path.insert(0, sys.argv[1]); sys.argv = ['']; import chat; print('\\n'.join(chat.new_id() for _ in range(1000)))"
    script, call = [
        text[text.index("let lastId") : text.index("\n  }\n", text.index("function newId")) + 4]
        for text in [(EXAMPLES / name).read_text() for name in ("chat.html", "call.html")]
    ]
    assert script == call, "both pages have the same"
    script += "for (let n = 0; n < 1000; n++) console.log(newId());"
    for words in [[sys.executable, "-c", python, str(EXAMPLES)], ["node", "-e", script]]:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        ids = done.stdout.split()
        assert len(ids) == 1000 and ids == sorted(set(ids)) and all(map(is_sid, ids)), done.stderr
        # Within a second or so of what the bridge makes.
        theirs = chat.write("alice", "bob")
        assert abs(when(ids[-1]) - when(theirs)) < 60_000


def when(one: str) -> int:
    """Unix milliseconds of an id."""
    number = 0
    for letter in one:
        number = number << 5 | "0123456789abcdefghjkmnpqrstvwxyz".index(letter)
    return number >> 38
