"""The clients in examples/, which app developers copy; group.py is played against the demo (test_demo.py)."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from functools import partial
from pathlib import Path

import pytest
from chat_clients import is_sid
from harness import Process, eventually, free_port
from test_demo import BROWSER, MQTT_JS

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "bobs-token"


def test_the_scene_of_the_python_client_ends_with_the_tick_read_as_often_as_it_is_played(chat, tmp_path):
    chat.sim.set_device(TOKEN, receipts=False)
    for user in ["alice", "bob"]:
        (tmp_path / user).write_text(chat.secret(user))
    for turn in (1, 2):
        done = example("chat.py", "127.0.0.1", chat.port, tmp_path / "alice", tmp_path / "bob", TOKEN)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{2 * turn} messages on bob's phone, each once" in done.stdout
        assert '"status":"read"' in done.stdout.replace(" ", "")
        broken = [line for line in done.stdout.splitlines() if not re.match(r"(alice|bob):(phone |laptop) |\d messages", line)]
        assert not broken, "each line is whole"
        pushes = chat.pushes(TOKEN, type="message")
        assert [(push["body"], push["with"]) for push in pushes] == [("I am here", "alice")] * turn


def example(name: str, *words, **options) -> subprocess.CompletedProcess:
    """One of the programs, to its end. What Python warns of ends it as well."""
    command = [sys.executable, "-B", "-W", "error", EXAMPLES / name, *words]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def sample(chat, tmp_path):
    """Starts the sample BAL, as a user with a password that came from `echo`."""
    (tmp_path / "secret").write_text(chat.secret("bal1") + "\n")
    made = []

    def start() -> Process:
        words = ["-W", "error", EXAMPLES / "bal.py", "127.0.0.1", chat.port, "bal1", tmp_path / "secret"]
        made.append(Process(words, tmp_path / f"bal{len(made)}.log", program=sys.executable))
        eventually(lambda: "connected: Success" in made[-1].text(), "the sample BAL is connected")
        return made[-1]

    yield start
    for process in made:
        process.close()


def test_the_sample_bal_answers_a_device_by_a_push_and_a_user_by_a_message(chat, sample):
    process = sample()
    alice = chat.device("alice")
    with_data = alice.sent("bal1", "Where is it?", data={"order": 4711})
    answer = alice.wait_for("messages", reply_to=with_data)
    assert (answer["from"], answer["body"]) == ("bal1", "You wrote: Where is it?")
    without_text = alice.sent("bal1", None, data=["anything"])
    assert alice.wait_for("messages", reply_to=without_text)["from"] == "bal1"
    # These are no messages of their own, and an answer is not answered.
    assert alice.send("bal1", "Where?", type="edit", ref=with_data)
    assert alice.send("bal1", "Thanks", data={"answer_to": answer["sid"]})
    chat.sim.upstream("phone-1", {"hello": "world"})
    [push] = eventually(lambda: chat.pushes("phone-1"), "the answer to the device")
    assert push["hello"] == "world" and push["answer_to"]
    assert process.terminate() == 0
    # What came meanwhile is answered at the next start; what was answered is not, once more.
    later = alice.sent("bal1", "later")
    sample()
    alice.wait_for("messages", reply_to=later)
    assert len(alice.on("messages", **{"from": "bal1"})) == 3 and not alice.on("errors")


def test_of_two_sample_bals_of_one_name_the_first_one_stops_and_says_why(sample):
    first, _second = sample(), sample()
    eventually(lambda: not first.alive(), "the first one stops")
    assert first.child.returncode == 1 and "another client has connected as `bal1`" in first.text()


# What each program wants, without HOST and PORT; the files hold something.
PROGRAMS = {"bal.py": ["bal1", "FILE"], "chat.py": ["FILE", "FILE"], "group.py": ["FILE"]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_whoever_starts_a_program_of_the_examples_wrongly_is_told_how_in_words(program, chat, tmp_path):
    (tmp_path / "wrong").write_text("wrong")

    def ends(*words, **options) -> tuple[int, str]:
        done = example(program, *words, **options)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr

    def words(file) -> list:
        return [file if word == "FILE" else word for word in PROGRAMS[program]]

    usage = f"python3 {program} HOST PORT "
    for wrong in ([], ["127.0.0.1"], ["127.0.0.1", "mqtt", *words("x")], ["127.0.0.1", "70000", *words("x")], ["h", "1", *["x"] * 9]):
        code, told = ends(*wrong)
        assert code == 64 and usage in told, told
    code, told = ends("127.0.0.1", chat.port, *words(tmp_path / "missing"))
    assert code == 1 and "cannot read" in told and str(tmp_path / "missing") in told
    closed = free_port()
    code, told = ends("127.0.0.1", closed, *words(tmp_path / "wrong"))
    assert code == 1 and f"no broker at 127.0.0.1:{closed}" in told
    code, told = ends("127.0.0.1", chat.port, *words(tmp_path / "wrong"))
    assert code == 1 and "Not authorized" in told or "Bad user name or password" in told, told
    assert len(told.splitlines()) == 1, told
    # Where paho is not installed.
    (tmp_path / "paho").mkdir()
    (tmp_path / "paho/__init__.py").write_text("raise ImportError")
    code, told = ends(env={"PYTHONPATH": str(tmp_path)})
    assert code == 1 and "pip install paho-mqtt" in told


class Folder(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and takes what the page in it tells."""

    def do_POST(self):
        self.server.told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()

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


# Shows pages, and tells again and again what their state lines say. What is in `script` each page runs once it is connected.
WATCHER = """
{frames}
<script>
  setInterval(() => {{
    const frames = [...document.querySelectorAll("iframe")];
    const states = frames.map((frame) => frame.contentDocument?.getElementById("state")?.textContent ?? "");
    frames.forEach((frame, number) => {{
      if (states[number] !== "connected" || frame.done) return;
      frame.done = true;
      frame.contentWindow.eval(frame.dataset.script);
    }});
    fetch("/told", {{ method: "POST", body: JSON.stringify(states) }});
  }}, 50);
</script>
"""


def test_the_pages_say_what_is_wrong(chat, tmp_path):
    alice = {**of_page(chat, "alice"), "peer": "nobody"}
    closed = f"ws://127.0.0.1:{free_port()}/mqtt"
    nobody = "refused: NOT_FOUND"
    taken, elsewhere = "another page or program has connected as bob:web", {**of_page(chat, "bob"), "peer": "alice"}
    pages = {
        "wrong password": ("*", {**alice, "dev": "a", "password": "wrong"}, "", "alice is not let in"),
        "nobody listens": ("*", {**alice, "dev": "b", "url": closed}, "", f"no connection to {closed}, tries again"),
        "no address": ("*", {**alice, "dev": "c", "url": "nowhere"}, "", "Missing protocol"),
        "unknown peer": ("chat.html", {**alice, "dev": "d"}, "chat.send('nobody', 'hi')", nobody),
        "nobody to call": ("call.html", {**alice, "dev": "e"}, "client.ring('nobody')", nobody),
        "no library": ("alone/*", {**alice, "dev": "f"}, "", "mqtt.min.js is missing"),
    }
    expected, frames = [], []

    def frame(page: str, login: dict, script: str, word: str):
        expected.append(word)
        frames.append(f'<iframe src="{page}#{fragment(login)}" data-script="{script}"></iframe>')

    for pattern, login, script, word in pages.values():
        for page in [pattern.replace("*", name) for name in ("chat.html", "call.html")] if "*" in pattern else [pattern]:
            frame(page, {**login, "dev": login["dev"] + page[:2]}, script, word)
    # The page takes over the device of a client that was there, and loses it to one that comes.
    frame("chat.html", elsewhere, "", taken)
    (tmp_path / "pages.html").write_text(WATCHER.format(frames="".join(frames)))
    browser, server = browse_and_hear(tmp_path, "pages.html")
    last = len(frames) - 1
    eventually(lambda: server.told[last:] == ["connected"], "the last page is connected", 90)
    chat.device("bob", "web")

    def differ() -> list[tuple[str, str]]:
        return [pair for pair in zip(expected, server.told, strict=True) if pair[0] not in pair[1]]

    try:
        eventually(lambda: not differ(), "each page says what is wrong", 60)
    except AssertionError:
        raise AssertionError(differ()) from None
    browser.close()


def of_page(chat, user: str) -> dict:
    return {"url": f"ws://127.0.0.1:{chat.ws_port}/mqtt", "user": user, "password": chat.secret(user)}


def fragment(login: dict) -> str:
    return urllib.parse.quote(json.dumps(login))


def browse(tmp_path, page: str) -> Process:
    return browse_and_hear(tmp_path, page)[0]


def browse_and_hear(tmp_path, page: str) -> tuple[Process, http.server.ThreadingHTTPServer]:
    """A browser with one of the example pages, or with one of the test's own beside them; and the server, at which `told` is
    what the page told last. In the folder `alone` the pages have no library."""
    assert BROWSER, "there is no Chromium; tests/run installs it"
    folder = tmp_path / "page"
    (folder / "alone").mkdir(parents=True)
    for source in [*EXAMPLES.glob("*.html"), *tmp_path.glob("*.html")]:
        for place in (folder, folder / "alone"):
            shutil.copy(source, place)
    (folder / "mqtt.min.js").write_bytes(MQTT_JS.read_bytes())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Folder, directory=folder))
    server.told = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile"]
    address = f"http://127.0.0.1:{server.server_port}/{page}"
    return Process([*options, address], tmp_path / "browser.log", program=BROWSER), server


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
