"""The first steps of a newcomer, word by word as README.md and the program itself give them, in an empty folder."""

import json
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from harness import BIN, PATIENCE, Process, Sim, eventually, free_port, run
from ways import FCM_V1

README = (Path(__file__).parents[2] / "README.md").read_text()
# Only the ports are not as in the documents: the test may not be alone on the machine.
WRAPPER = '#!/bin/sh\n[ "$1" = init ] && set -- "$@" {flags}\nexec {bin} "$@"\n'


def steps() -> list[list[str]]:
    """The command lines of each block of "Running it"."""
    part = README.split("\n## Running it\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    return [[line.split("  #")[0].strip() for line in block.splitlines() if line] for block in blocks]


FIRST, FIREBASE, BESIDE = steps()


class Newcomer:
    """Somebody with the program on the path, in an empty folder."""

    def __init__(self, home: Path):
        self.folder = home / "empty"
        self.path = home / "bin"
        self.folder.mkdir(parents=True)
        self.path.mkdir()
        self.ports = {name: free_port() for name in ("listen", "ops-listen")}
        self.running: list[Process] = []

    def install(self, **flags):
        """Puts the program on the path, with these options of `init` behind those of the documents."""
        told = {**{name: f"127.0.0.1:{port}" for name, port in self.ports.items()}, **flags}
        words = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in told.items())
        program = self.path / "fcm-mqtt-bridge"
        program.write_text(WRAPPER.format(flags=words, bin=shlex.quote(BIN)))
        program.chmod(0o755)

    def environment(self) -> dict:
        return {**os.environ, "PATH": f"{self.path}:{os.environ['PATH']}"}

    def types(self, line: str, answer: str = "") -> subprocess.CompletedProcess:
        """One command line, to its end. It must succeed."""
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env=self.environment(), input=answer, capture_output=True, text=True, timeout=PATIENCE * 2
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done

    def starts(self, line: str) -> Process:
        """A command line that goes on."""
        number = len(self.running)
        shell = ["-c", f"cd {shlex.quote(str(self.folder))} && exec {line}"]
        out = open(self.folder.parent / f"{number}.out", "wb")
        log = self.folder.parent / f"{number}.log"
        self.running.append(Process(shell, log, env=self.environment(), stdout=out, program="sh"))
        return self.running[-1]

    def said(self, process: Process, word: str) -> str:
        out = self.folder.parent / f"{self.running.index(process)}.out"

        def look():
            assert process.alive(), process.text()
            text = out.read_text() + process.text()
            return text if word in text else None

        return eventually(look, f"the program says {word}")

    def writes(self, user: str, secret: str, peer: str) -> str:
        """The `sid` of a message to somebody who was added just now; as long as that is not known, it is refused."""
        client = ["-h", "127.0.0.1", "-p", str(self.ports["listen"]), "-u", user, "-P", secret, "-q", "1"]
        topic, document = f"{user}/self/messages", json.dumps({"id": "m1", "to": peer, "body": "hi"})

        def copied():
            # Whoever was added just now is not let in at once.
            words = ["mosquitto_sub", *client, "-W", "3", "-C", "1", "-t", f"{user}/others/messages"]
            reader = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            subprocess.run(["mosquitto_pub", *client, "-t", topic, "-m", document], timeout=PATIENCE)
            return reader.communicate(timeout=PATIENCE)[0]

        return json.loads(eventually(copied, "the copy comes to its writer"))["sid"]

    def leaves(self):
        for process in self.running:
            process.close()


@pytest.fixture
def newcomer(tmp_path):
    newcomer = Newcomer(tmp_path / "home")
    yield newcomer
    newcomer.leaves()


def lines_to_type(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.startswith("  ")]


def one(lines: list[str], *words: str) -> str:
    [line] = [line for line in lines if all(word in line for word in words)]
    return line


def statuses(text: str, message_id: str) -> list[str]:
    """The statuses of a message in what mosquitto_sub printed, whole lines only."""
    lines = [line.split(" ", 1) for line in text.split("\n")[:-1]]
    documents = [json.loads(body) for topic, body in lines if topic.endswith("/others/receipts")]
    return [body["status"] for body in documents if body["id"] == message_id]


def listed(text: str, message_id: str, words: list[str]) -> bool:
    return statuses(text, message_id) == words


def test_the_steps_of_the_readme_and_of_init_work_with_the_simulator(newcomer):
    ports = {f"sim-{name}": f"127.0.0.1:{free_port()}" for name in ("listen", "fcm-listen", "fcm-token-listen", "control-listen")}
    newcomer.install(**ports)
    init, *rest = FIRST
    told = newcomer.types(init).stdout
    for line in rest:
        done = newcomer.types(line)
        assert "the configuration is right" in done.stderr
    lines = lines_to_type(told)
    newcomer.said(newcomer.starts(one(lines, "bridge sim")), "fcm-credentials ")
    newcomer.said(newcomer.starts(one(lines, "bridge run")), "broker is open")
    inbox = newcomer.folder.parent / "2.out"
    newcomer.starts(one(lines, "mosquitto_sub"))
    by_v1, by_ccs = (one(lines, "mosquitto_pub", word) for word in ('"a1"', '"a2"'))
    newcomer.types(by_v1)
    newcomer.types(by_ccs)
    eventually(lambda: listed(inbox.read_text(), "a1", ["accepted", "sent"]), "the push by v1 is sent")
    eventually(lambda: listed(inbox.read_text(), "a2", ["accepted", "sent", "delivered"]), "that by CCS is delivered")
    assert "sent" in newcomer.types(one(lines, "trace a1")).stdout
    newcomer.types(one(lines, "user add"), answer="a password\n")
    (newcomer.folder / "message.json").write_text('{"id":"a1","token":"phone-1","data":{"k":"v"}}')
    for line in BESIDE:
        if "explain push" in line:
            line = line.replace("06eqbd3gy0001ab2", newcomer.writes("alice", "a password", "bob"))
        # There is an alice already, from what `init` said.
        newcomer.types(line.replace("user add alice", "user add bob"), answer="another password\n")
    removed = newcomer.types("fcm-mqtt-bridge user remove bob --config bridge.toml").stderr
    assert "the store keeps what `bob` wrote and got" in removed, removed
    assert "bob\tuser\tin the store only" in newcomer.types("fcm-mqtt-bridge user list --config bridge.toml").stdout


def test_the_steps_of_the_readme_work_with_a_service_account(newcomer, tmp_path):
    sim = Sim(tmp_path / "sim", way=FCM_V1)
    try:
        (newcomer.folder / "service-account.json").write_text(sim.credentials.read_text())
        newcomer.install(**{"base-url": sim.fcm_url, "ca-file": sim.ca})
        init, check, run = FIREBASE
        lines = lines_to_type(newcomer.types(init).stdout)
        assert "the configuration is right" in newcomer.types(check).stderr
        newcomer.said(newcomer.starts(run), "broker is open")
        inbox = newcomer.folder.parent / "1.out"
        newcomer.starts(one(lines, "mosquitto_sub"))
        newcomer.types(one(lines, "mosquitto_pub").replace("REGISTRATION-TOKEN", "phone-1"))
        eventually(lambda: listed(inbox.read_text(), "a1", ["accepted", "sent"]), "the push is sent")
        assert sim.call("GET", "/devices/phone-1?after=0")["messages"]
    finally:
        sim.close()


@pytest.mark.parametrize("flag", ["--listen", "--listen-ws", "--sim-listen", "--sim-fcm-listen", "--sim-fcm-token-listen"])
def test_init_wants_ports_that_stay(flag, tmp_path):
    done = run("init", "sim", flag, "0", "--config", tmp_path / "bridge.toml")
    assert done.returncode == 64 and f"{flag} wants a port" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir()), "nothing is made"


def test_init_for_ccs_writes_what_a_ccs_server_needs(newcomer, tmp_path):
    sim = Sim(tmp_path / "sim")
    try:
        newcomer.install(port=sim.ccs_port, **{"ca-file": sim.ca})
        told = newcomer.types(f"fcm-mqtt-bridge init ccs --sender-id 1234567890 --host 127.0.0.1 --api-key-file {sim.key}").stdout
        newcomer.types("fcm-mqtt-bridge check-config --config bridge.toml")
        newcomer.said(newcomer.starts(one(lines_to_type(told), "bridge run")), "broker is open")
        inbox = newcomer.folder.parent / "1.out"
        newcomer.starts(one(lines_to_type(told), "mosquitto_sub"))
        newcomer.types(one(lines_to_type(told), "mosquitto_pub").replace("REGISTRATION-TOKEN", "phone-1"))
        eventually(lambda: listed(inbox.read_text(), "a1", ["accepted", "sent", "delivered"]), "the push is delivered")
    finally:
        sim.close()


class TestInit:
    def test_the_password_is_shown_once_and_its_file_is_private(self, newcomer):
        newcomer.install()
        told = newcomer.types("fcm-mqtt-bridge init sim --bal shop").stdout
        [password] = re.findall(r"`shop` has the password (\w{16}) ", told)
        files = [path for path in newcomer.folder.rglob("*") if path.is_file()]
        assert newcomer.folder / "bridge.toml" in files
        assert not [path for path in files if password in path.read_text()]
        users = newcomer.folder / "data/users"
        assert stat.S_IMODE(users.stat().st_mode) == 0o600 and users.read_text().splitlines()[-1].startswith("shop:bal:$argon2id$")

    def test_a_listener_for_web_pages_is_written_on_request_and_else_as_a_comment(self, newcomer):
        newcomer.install()
        told = newcomer.types("fcm-mqtt-bridge init sim --config plain/bridge.toml").stdout
        assert "ws://" not in told and '# listen_ws = "127.0.0.1:8083"' in (newcomer.folder / "plain/bridge.toml").read_text()
        told = newcomer.types("fcm-mqtt-bridge init sim --listen-ws 8093 --config web/bridge.toml").stdout
        assert "ws://127.0.0.1:8093/mqtt" in told and 'listen_ws = "127.0.0.1:8093"' in (newcomer.folder / "web/bridge.toml").read_text()

    def test_nothing_is_overwritten(self, newcomer):
        newcomer.install()
        newcomer.types("fcm-mqtt-bridge init sim")
        before = {path: path.read_bytes() for path in newcomer.folder.rglob("*") if path.is_file()}
        for more in ("", " --config other.toml"):
            again = subprocess.run(
                "fcm-mqtt-bridge init sim" + more, shell=True, cwd=newcomer.folder, env=newcomer.environment(), capture_output=True, text=True
            )
            assert again.returncode == 64 and "nothing is overwritten" in again.stderr, again.stderr
        assert {path: path.read_bytes() for path in newcomer.folder.rglob("*") if path.is_file()} == before

    def test_what_it_writes_works_from_every_folder(self, newcomer):
        newcomer.install()
        newcomer.types("fcm-mqtt-bridge init sim --config 'a folder/my.toml'")
        newcomer.types("cd / && fcm-mqtt-bridge check-config --config " + shlex.quote(str(newcomer.folder / "a folder/my.toml")))
        assert not (newcomer.folder / "data").exists()

    def test_what_would_not_work_is_refused_and_leaves_nothing(self, newcomer):
        newcomer.install()
        (newcomer.folder / "google-services.json").write_text('{"project_info": {}, "client": []}')
        for line, told in {
            "init fcm-v1 --credentials google-services.json": "what an Android app is built with",
            "init fcm-v1 --credentials nowhere.json": "`--credentials`: names a file that cannot be read, nowhere.json: No such file",
            "init ccs --sender-id 1 --host ccs.example --api-key-file nowhere": "`--api-key-file`: names a file that cannot be read: No such file",
            "init ccs --sender-id 1 --api-key-file nowhere": "--host <HOST>",
            "init sim --bal a/b": "cannot be a user name",
        }.items():
            done = subprocess.run(
                "fcm-mqtt-bridge " + line, shell=True, cwd=newcomer.folder, env=newcomer.environment(), capture_output=True, text=True
            )
            assert done.returncode == 64 and told in done.stderr, done.stderr
            assert os.listdir(newcomer.folder) == ["google-services.json"]
