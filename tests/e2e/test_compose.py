"""docker-compose.yml in an engine: from the host and from other containers, through kills, stops and a whole new start."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from harness import Bal, Process, Sim, check_settled, check_upstream, eventually, free_port, http
from ways import CCS

pytestmark = pytest.mark.compose

ROOT = Path(__file__).parents[2]
DEVICES = [f"phone{n}" for n in range(10)]
TOLD = ["accepted", "sent", "delivered"]
# With the answers after a second, 100 at a time are open: long enough for an order to the engine to hit them.
PER_ROUND = 600
SLOW = 1000
# From the command to a bridge that does its work.
HEALTHY = 10.0
# What a stop may take: `stop_grace_period`.
GRACE = 15.0
IMAGES = ("base", "program", "bridge", "sample", "mosquitto")
BASE, PROGRAM, BRIDGE, SAMPLE, MOSQUITTO = (f"fcm-mqtt-bridge-test-{name}" for name in IMAGES)
# An image of Debian's mosquitto, for the broker of others and for clients in containers.
MOSQUITTO_IMAGE = f"""
FROM {BASE}
RUN apt-get update && apt-get install -y --no-install-recommends mosquitto mosquitto-clients && rm -rf /var/lib/apt/lists/*
"""


class Engine:
    """The engine that answers, or one of the test's own. The images are made of Debian's packages and of the program that
    `tests/run` has built: no registry is asked."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fcm-mqtt-bridge-engine-"))
        # The command line of Debian's package has BuildKit in it; another one may need a plugin for it.
        self.environment = {**os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}", "DOCKER_BUILDKIT": "1"}
        self.environment.pop("COMPOSE_PROFILES", None)
        self.process = None
        if not self.answers():
            self.start()

    def start(self):
        at = {name: self.folder / name for name in ("data-root", "exec-root", "pidfile")}
        at["host"] = self.environment["DOCKER_HOST"] = f"unix://{self.folder}/socket"
        self.process = Process([f"--{name}={value}" for name, value in at.items()], self.folder / "log", program="/usr/sbin/dockerd")

        def look():
            assert self.process.alive(), self.process.text()
            return self.answers()

        eventually(look, "the engine answers")

    def answers(self) -> bool:
        return subprocess.run(["docker", "version"], env=self.environment, capture_output=True).returncode == 0

    def run(self, *words, variables=None, patience=600, **options) -> str:
        environment = {**self.environment, **(variables or {})}
        done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=patience, **options)
        assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}"
        return done.stdout

    def build(self):
        self.run("docker", "import", "--change", 'CMD ["sh"]', os.environ["BASE_IMAGE"], BASE)
        place = self.folder / "program/src/target/release"
        place.mkdir(parents=True)
        self.run("strip", "-o", place / "fcm-mqtt-bridge", os.environ["BRIDGE_BIN"])
        self.run("sh", "-c", f"tar -C {self.folder}/program -c src | docker import - {PROGRAM}")
        arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", f"PROGRAM={PROGRAM}"]
        self.run("docker-compose", "build", *arguments, variables={"BRIDGE_IMAGE": BRIDGE, "SAMPLE_IMAGE": SAMPLE})
        self.run("docker", "build", "--tag", MOSQUITTO, "-", input=MOSQUITTO_IMAGE)

    def size(self, image: str) -> int:
        return int(self.run("docker", "image", "inspect", "--format", "{{.Size}}", image))

    def close(self):
        if self.process:
            self.process.terminate(patience=60)
            self.process.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def engine():
    engine = Engine()
    try:
        engine.build()
        print(*(f"\n{image}: {engine.size(image) / 1e6:.0f} MB" for image in (BASE, BRIDGE, SAMPLE)))
        yield engine
    finally:
        engine.close()


class ComposedSim(Sim):
    """The simulator in a container."""

    def __init__(self, control_port: int):
        self.control_port, self.way = control_port, CCS


class Project:
    """What docker-compose.yml makes, on ports and volumes of its own."""

    def __init__(self, engine: Engine, bridge: str, passwords: str, profile: str | None = None, **variables):
        self.engine, self.bridge, self.passwords_of = engine, bridge, passwords
        self.name = f"fcmbridge{uuid.uuid4().hex[:8]}"
        self.profile = ["--profile", profile] if profile else []
        self.port, self.ws_port, self.ops, self.sim_port = (free_port() for _ in range(4))
        self.variables = {
            "BRIDGE_IMAGE": BRIDGE, "SAMPLE_IMAGE": SAMPLE, "MOSQUITTO_IMAGE": MOSQUITTO,
            "MQTT_PORT": str(self.port), "WS_PORT": str(self.ws_port),
            "OPS_PORT": f"127.0.0.1:{self.ops}", "SIM_PORT": f"127.0.0.1:{self.sim_port}", **variables,
        }  # fmt: skip
        self.sim = ComposedSim(self.sim_port)
        self.passwords: dict[str, str] = {}

    def compose(self, *words) -> str:
        return self.engine.run("docker-compose", "--project-name", self.name, *self.profile, *words, variables=self.variables)

    def up(self) -> float:
        """Brings it up; returns the seconds until the bridge is healthy."""
        start = time.monotonic()
        command = threading.Thread(target=self.compose, args=["up", "--detach", "--no-build"])
        command.start()
        self.wait_healthy()
        seconds = time.monotonic() - start
        command.join()
        return seconds

    def read_passwords(self):
        self.passwords = dict(re.findall(r"`(\w+)` has the password (\w+) ", self.logs(self.passwords_of)))

    def services(self, *filters: str) -> set[str]:
        """What runs, or has run."""
        form = '{{.Label "com.docker.compose.service"}}'
        own = f"label=com.docker.compose.project={self.name}"
        return set(self.engine.run("docker", "ps", "--all", "--filter", own, *filters, "--format", form).split())

    def logs(self, *services: str) -> str:
        return self.compose("logs", "--no-color", *services)

    def inspect(self, service: str, field: str) -> str:
        container = self.compose("ps", "--quiet", service).strip()
        return self.engine.run("docker", "inspect", "--format", f"{{{{{field}}}}}", container).strip()

    def state(self) -> str:
        """What there is to see when something does not happen."""
        ask = ["outbox", "--store", "/data/bridge.db", "--list", "--limit", "5"]
        outbox = self.compose("exec", "-T", self.bridge, "fcm-mqtt-bridge", *ask)
        metrics = http("GET", f"http://127.0.0.1:{self.ops}/metrics")
        figures = [line for line in metrics.splitlines() if line.startswith("bridge_") and not line.endswith(" 0")]
        return "\n".join([outbox, *figures, json.dumps(self.sim.stats()), *self.logs().splitlines()[-60:]])

    def wait_healthy(self):
        eventually(lambda: self.bridge in self.services("--filter", "health=healthy"), f"{self.bridge} is healthy")

    def kill9(self, service: str):
        """As the kernel would, not as an operator: the engine starts it again by itself."""
        pid = self.inspect(service, ".State.Pid")
        kill = ["--rm", "--pid=host", "--user=root", "--entrypoint=sh", BRIDGE, "-c", f"kill -9 {pid}"]
        self.engine.run("docker", "run", *kill)
        # It counts nothing but its own restarts: the kill has had its effect.
        eventually(lambda: self.inspect(service, ".State.Pid") not in ("0", pid), f"{service} runs again")

    def beside(self, script: str) -> str:
        """Runs a shell script in another container of the network."""
        where = ["--rm", f"--network={self.name}_default", MOSQUITTO, "sh", "-c", script]
        return self.engine.run("docker", "run", *where, patience=60)

    def login(self, name: str, client: str, **more) -> Bal:
        bal = Bal(name, self.port, client_id=f"{name}:{client}", **more)
        bal.client.username_pw_set(name, self.passwords[name])
        return bal.connect()

    def refused(self, name: str | None, password: str | None, port: int | None = None, transport="tcp") -> bool:
        """Whether somebody who connects like this is turned away."""
        answers = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, transport=transport)
        if transport == "websockets":
            client.ws_set_options(path="/mqtt")
        if name:
            client.username_pw_set(name, password)
        client.on_connect = lambda _c, _u, _f, reason, _p: answers.append(reason)
        client.connect("127.0.0.1", port or self.port)
        client.loop_start()
        eventually(lambda: answers, "the CONNACK")
        client.disconnect()
        client.loop_stop()
        return answers[0].is_failure

    def down(self, *more):
        self.compose("down", "--timeout", "15", *more)


def push_all(bal: Bal, ids: list[str]) -> list[int]:
    return [bal.push(message_id, DEVICES[n % len(DEVICES)]) for n, message_id in enumerate(ids)]


def walk_from_the_host(project: Project):
    bal = project.login("client1", "host")
    bal.push("host-1", "phone-1")
    bal.wait_words("host-1", TOLD)
    project.sim.upstream("phone-1", {"k": "v"})
    assert bal.wait_on("messages", 1)[0]["data"] == {"k": "v"}
    bal.close()


def walk_from_a_container(project: Project, broker: str):
    login = f"-h {broker} -u client1 -P {project.passwords['client1']}"
    push = json.dumps({"id": "beside-1", "token": "phone-2", "data": {"hello": "world"}})
    script = (
        f"mosquitto_sub {login} -i client1:beside -c -q 1 -t client1/others/receipts -E\n"
        f"mosquitto_pub {login} -q 1 -t client1/self/messages -m '{push}'\n"
        f"mosquitto_sub {login} -i client1:beside -c -q 1 -t client1/others/receipts -C 3 -W 30"
    )
    statuses = [json.loads(line) for line in project.beside(script).splitlines()]
    assert [(body["id"], body["status"]) for body in statuses] == [("beside-1", word) for word in TOLD]


def kill_under_load(project: Project):
    sim, bal = project.sim, project.login("client1", "load")
    sim.faults(latency_ms=SLOW)
    ids: list[str] = []
    for turn in range(2):
        mine = [f"kill{turn}-{n:04}" for n in range(PER_ROUND)]
        ids += mine
        before = sim.stats()["delivered"]
        mids = push_all(bal, mine)
        sim.call("POST", "/upstream", {"devices": 10, "per_device": 20, "prefix": "phone"})
        eventually(lambda: sim.stats()["delivered"] >= before + 60, "the flow is on")
        project.kill9(project.bridge)
        bal.wait_acked(*mids)
    assert re.search(r"recovery\.crashed=[1-9]", project.logs(project.bridge)), "a kill hit messages in flight"
    try:
        bal.wait_final(ids, patience=90)
        bal.wait(lambda: len({body["id"] for body in bal.on("messages")}) >= 400, "all messages of devices", patience=60)
    except AssertionError as late:
        raise AssertionError(f"{late}\n{project.state()}") from None
    print("\n", project.bridge, check_settled(bal, sim, ids, DEVICES), check_upstream(bal, 400))
    sim.faults()
    bal.close()


def kept_over_a_new_start(project: Project, broker_service: str):
    bal = project.login("client1", "kept")
    bal.push("kept-1", "phone-3")
    bal.wait_words("kept-1", TOLD)
    bal.close()
    # For a BAL that is away: it is all on disk, in the bridge or in the broker.
    project.sim.upstream("phone-3", {"for": "later"}, count=3)
    eventually(lambda: project.sim.stats()["now"]["unacked"] == 0, "CCS has the acknowledgements")
    project.down()
    project.up()
    back = project.login("client1", "kept")
    assert [body["data"] for body in back.wait_on("messages", 3)] == [{"for": "later"}] * 3
    back.close()
    trace = project.compose("exec", "-T", project.bridge, "fcm-mqtt-bridge", "trace", "kept-1", "--store", "/data/bridge.db")
    assert "delivered" in trace
    assert "has the password" not in project.logs(broker_service), "the users are those of the first start"


def keeps_to_itself(project: Project, *services: str):
    """No root, no writing outside of the volumes, no capabilities."""
    for service in services:
        look = "id -u; touch /etc/x /usr/x 2>&1; grep CapEff /proc/self/status"
        status = project.compose("exec", "-T", service, "sh", "-c", look)
        assert status.startswith("10001\n") and status.count("Read-only file system") == 2, status
        assert re.search(r"CapEff:\s+0+$", status), status


@pytest.fixture(scope="module")
def project(engine):
    project = Project(engine, bridge="bridge", passwords="users")
    try:
        project.seconds = project.up()
        project.read_passwords()
        yield project
    finally:
        project.down("--volumes")


class TestSimulatorAndEmbeddedBroker:
    def test_it_is_healthy_soon_and_shows_two_passwords(self, project):
        print(f"\nhealthy after {project.seconds:.1f} s")
        assert project.seconds < HEALTHY
        assert sorted(project.passwords) == ["alice", "client1"] and "sample" not in project.logs("users")
        keeps_to_itself(project, "sim", "bridge", "sample")

    def test_a_push_has_its_three_statuses_from_the_host(self, project):
        walk_from_the_host(project)

    def test_a_push_has_its_three_statuses_from_another_container(self, project):
        walk_from_a_container(project, "bridge")

    @pytest.mark.parametrize("transport", ["tcp", "websockets"])
    def test_only_users_with_their_passwords_are_let_in(self, project, transport):
        port = project.port if transport == "tcp" else project.ws_port
        assert project.refused(None, None, port, transport) and project.refused("client1", "wrong", port, transport)
        for name, password in project.passwords.items():
            assert not project.refused(name, password, port, transport), name

    def test_the_sample_bal_answers_a_device(self, project):
        project.sim.upstream("phone-4", {"hello": "world"}, category="com.example.sample")
        [answer] = eventually(lambda: project.sim.got("phone-4"), "the answer")
        assert answer["data"]["hello"] == "world"

    def test_a_kill_under_load_loses_nothing(self, project):
        kill_under_load(project)

    def test_a_stop_under_load_drains(self, project):
        bal = project.login("client1", "stop")
        bal.dup_is_mark = True
        project.sim.faults(latency_ms=SLOW)
        ids = [f"stop-{n:04}" for n in range(PER_ROUND)]
        before, copies = project.sim.stats()["delivered"], project.sim.stats()["duplicates"]
        push_all(bal, ids)
        eventually(lambda: project.sim.stats()["delivered"] >= before + 60, "the flow is on")
        start = time.monotonic()
        project.compose("stop", "bridge")
        assert project.inspect("bridge", ".State.ExitCode") == "0" and time.monotonic() - start < GRACE
        assert project.sim.stats()["delivered"] < before + len(ids), "the stop came in mid-flow"
        project.compose("start", "bridge")
        bal.wait_final(ids, patience=60)
        check_settled(bal, project.sim, ids, DEVICES)
        assert project.sim.stats()["duplicates"] == copies, "the stop waited for the answers"
        project.sim.faults()
        bal.close()

    def test_down_and_up_keep_users_queue_and_messages(self, project):
        kept_over_a_new_start(project, "users")


def test_passwords_of_secret_files_are_taken_and_not_shown(engine, tmp_path):
    files = {}
    for name in ("client1", "alice"):
        path = tmp_path / name
        path.write_text(f"given to {name}\n")
        files[f"{name.upper()}_PASSWORD_FILE"] = str(path)
    project = Project(engine, bridge="bridge", passwords="users", **files)
    try:
        project.up()
        assert not project.refused("client1", "given to client1") and not project.refused("alice", "given to alice")
        assert "given to" not in project.logs() and "has the password" not in project.logs()
    finally:
        project.down("--volumes")


def test_the_profile_mosquitto_does_the_whole_walk_with_the_printed_rules(engine):
    project = Project(engine, bridge="bridge-mosquitto", passwords="mosquitto", profile="mosquitto")
    try:
        print(f"\nwith mosquitto healthy after {project.up():.1f} s")
        project.read_passwords()
        assert sorted(project.passwords) == ["alice", "client1"]
        assert project.refused(None, None) and project.refused("client1", "wrong")
        assert not project.refused("alice", project.passwords["alice"], project.ws_port, "websockets")
        keeps_to_itself(project, "mosquitto", "bridge-mosquitto")
        walk_from_the_host(project)
        walk_from_a_container(project, "mosquitto")
        alice = project.login("alice", "phone")
        mid = alice.publish({"id": "x", "token": "phone", "data": {}}, "client1/self/messages")
        alice.wait_acked(mid)
        assert alice.acked[mid].is_failure, "the rules let nobody write for somebody else"
        alice.close()
        kill_under_load(project)
        kept_over_a_new_start(project, "mosquitto")
    finally:
        project.down("--volumes")


def made_up_account() -> tuple[str, str]:
    """A service account that nobody has, and what must not be seen of it."""
    make = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    key = subprocess.run(make, capture_output=True, text=True, check=True)
    account = {
        "type": "service_account", "project_id": "made-up", "private_key_id": "k1", "private_key": key.stdout,
        "client_email": "nobody@made-up.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
    }  # fmt: skip
    return json.dumps(account), key.stdout.splitlines()[1]


@pytest.mark.parametrize("what", ["no account at all", "an account of nobody"])
def test_the_profile_fcm_says_what_is_wrong_with_a_credential_and_does_not_show_it(engine, tmp_path, what):
    credential, secret = made_up_account() if what == "an account of nobody" else ("never-to-be-seen", "never-to-be-seen")
    path = tmp_path / "service-account.json"
    path.write_text(credential)
    project = Project(engine, bridge="bridge-fcm", passwords="users-fcm", profile="fcm", FCM_CREDENTIALS_FILE=str(path))

    def told() -> str:
        return "\n".join(line for line in project.logs("bridge-fcm").splitlines() if "credentials_file" in line)

    try:
        project.compose("up", "--detach", "--no-build")
        print("\n", eventually(told, "the log names the key").splitlines()[0])
        if what == "an account of nobody":
            # It runs, takes clients, and waits for a better key.
            assert "no access token: no message can be sent" in told()
            project.read_passwords()
            assert not project.refused("client1", project.passwords["client1"])
        else:
            assert "/run/secrets/service_account is not the JSON of a service account" in told()
        assert secret not in project.logs() and project.services() == {"bridge-fcm", "users-fcm"}
    finally:
        project.down("--volumes")
