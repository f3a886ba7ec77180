"""The configuration as an operator meets it: what `check-config` takes runs, and what does not run it names."""

import json
import os
import re
import socket
import sqlite3
import subprocess

import paho.mqtt.client as mqtt
import pytest
from harness import BIN, PATIENCE, Bal, Process, eventually, free_port, run


def certificate(folder):
    """A certificate of our own and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def newer_store(folder):
    path = folder / "newer.db"
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE deliveries (row INTEGER)")
        store.execute(f"PRAGMA application_id = {0x464d4272}")
        store.execute("PRAGMA user_version = 99")
    return path


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def tls(folder, cert=None, key=None, more=""):
    good = certificate(folder)
    return f'anonymous = true\nlisten_tls = "127.0.0.1:0"\ncert_file = "{cert or good[0]}"\nkey_file = "{key or good[1]}"\n{more}'


# What `run` could not use: settings of the bridge, made in a folder, and a word of the error.
FAULTS = {
    "users file missing": lambda f: ({"broker": f'users_file = "{f}/nowhere"'}, "broker.users_file"),
    "users file wrong": lambda f: ({"broker": f'users_file = "{written(f, "users", "alice")}"'}, "`broker.users_file`: "),
    "certificate missing": lambda f: ({"broker": tls(f, cert=f / "nowhere")}, "broker.cert_file"),
    "certificate is none": lambda f: ({"broker": tls(f, cert=written(f, "x.pem", "x"))}, "no certificate"),
    "key is none": lambda f: ({"broker": tls(f, key=written(f, "y.pem", "y"))}, "`broker.key_file`: "),
    "clients' authority is none": lambda f: (
        {"broker": tls(f, more=f'client_ca_file = "{written(f, "z.pem", "z")}"')},
        "no certificate",
    ),
    "JWT secret too short": lambda f: ({"broker": f'jwt_secret_file = "{written(f, "secret", "short")}"'}, "secret"),
    "JWT key is none": lambda f: ({"broker": f'jwt_key_file = "{written(f, "jwt.pem", "x")}"'}, "`broker.jwt_key_file`: "),
    "key set is none": lambda f: ({"broker": f'jwt_jwks_file = "{written(f, "jwks", "{}")}"'}, "jwks"),
    "store is newer": lambda f: ({"db": newer_store(f)}, "schema 99"),
    "store is foreign": lambda f: ({"db": written(f, "notes.db", "notes " * 1000)}, "[store] path: "),
    "store is a folder": lambda f: ({"db": f}, "store"),
    "store in a file": lambda f: ({"db": written(f, "file", "") / "bridge.db"}, "cannot make the folder"),
    "sessions in a file": lambda f: ({"broker": f'anonymous = true\ndata = "{written(f, "data", "")}"'}, "the broker's folder"),
    "service account is none": lambda f: (
        {"extra": f'[fcm]\ncredentials_file = "{written(f, "account.json", "{}")}"'},
        "[fcm] credentials_file",
    ),
    "authority is none": lambda f: (
        {"extra": f'[fcm]\nproject_id = "p"\nca_file = "{written(f, "ca.pem", "x")}"'},
        "[fcm] ca_file: cannot read certificates",
    ),
    "window too big": lambda f: ({"back_door": '[ccs]\nsender_id = "1"\napi_key = "k"\nwindow = 1001\n'}, "`ccs.window`: must be from 1 to 1000"),
    "level unknown": lambda f: ({"extra": '[log]\nlevel = "loud"'}, "log.level"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_run_cannot_use_is_refused_by_check_config_in_the_same_words(fault, make_bridge, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    settings, word = FAULTS[fault](folder)
    bridge = make_bridge(**settings)
    environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
    before = sorted(tmp_path.rglob("*"))
    checked = run("check-config", "--config", bridge.config, env=environment)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is made"
    ran = run("run", "--config", bridge.config, env=environment)
    assert checked.returncode == ran.returncode and checked.returncode in (1, 64), checked
    error = checked.stderr.splitlines()[-1]
    assert error.startswith("error: ") and word in error, checked.stderr
    parts = error.removeprefix("error: ").split(": ")
    assert len(parts) == len(set(parts)), f"nothing is told twice: {error}"
    assert ran.stderr.splitlines()[-1] == error
    assert sorted(tmp_path.rglob("*")) == before, "not by run, either"


def test_the_configuration_of_a_running_bridge_is_right(bridge):
    done = run("check-config", "--config", bridge.config)
    assert done.returncode == 0 and "the configuration is right" in done.stderr, done.stderr


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_reader_that_goes_away_early_makes_no_noise(closed, bridge, tmp_path):
    message = written(tmp_path, "message.json", '{"to":"T","message_id":"m1","data":{"k":1}}')
    store = tmp_path / "store.db"
    commands = {
        "check-config": ["--config", bridge.config],
        "init": ["sim", "--config", tmp_path / "new" / "bridge.toml"],
        "explain": [message],
        "health": ["--ops", bridge.ops],
        "outbox": ["--config", bridge.config],
        "sessions": ["--config", bridge.config],
        "retained": ["--config", bridge.config],
        "user": ["list", "--users-file", written(tmp_path, "users", "")],
        "trace": ["x", "--store", store],
        "--help": [],
    }
    (tmp_path / "new").mkdir()
    for command, args in commands.items():
        reader, writer = os.pipe()
        os.close(reader)
        other = "stderr" if closed == "stdout" else "stdout"
        streams = {closed: writer, other: subprocess.PIPE}
        done = subprocess.run([BIN, command, *map(str, args)], **streams, timeout=PATIENCE)
        os.close(writer)
        heard = getattr(done, other).decode()
        assert done.returncode == (1 if command == "trace" else 0), (command, done.returncode, heard)
        assert "panicked" not in heard and "Broken pipe" not in heard, (command, heard)


def test_what_cannot_be_written_although_somebody_reads_is_an_error(tmp_path):
    message = written(tmp_path, "message.json", '{"to":"T","message_id":"m1","data":{"k":1}}')
    with open("/dev/full", "wb") as full:
        done = subprocess.run([BIN, "explain", message], stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert done.returncode == 1 and b"error: " in done.stderr and b"panicked" not in done.stderr, done.stderr


def without_filter(bridge, level: str) -> Process:
    """Runs a bridge whose log level is that of its configuration."""
    bridge.extra = f'[log]\nlevel = "{level}"'
    bridge.configure("")
    bridge.runs += 1
    bridge.process = Process(["run", "--config", bridge.config], bridge.folder / "bridge-1.log", env={"RUST_LOG": ""})
    return bridge.process


def test_the_level_warning_shows_warnings_and_nothing_less(sim, make_bridge):
    sim.stop()
    bridge = make_bridge()
    process = without_filter(bridge, "warning")
    eventually(lambda: re.search(r"\bWARN\b", process.text()), "the bridge warns that the push service is away")
    assert not re.search(r"\b(INFO|DEBUG)\b", process.text()), process.text()


def test_who_connects_over_websocket_makes_no_line_of_a_library(sim, make_bridge):
    port = free_port()
    bridge = make_bridge(broker=f'anonymous = true\nlisten_ws = "127.0.0.1:{port}"')
    process = without_filter(bridge, "info")
    bridge.wait_ready()
    come = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "guest", transport="websockets", protocol=mqtt.MQTTv5)
    client.ws_set_options(path="/mqtt")
    client.on_connect = lambda *_: come.append(True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    eventually(lambda: come, "a guest is in")
    client.disconnect()
    client.loop_stop()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        stranger.recv(1000)
    assert bridge.stop() == 0
    lines = [line for line in process.lines() if "fcm_mqtt_bridge" not in line or "DEBUG" in line]
    assert not lines, lines


def test_apps_and_lists_come_from_the_environment(make_bridge):
    bridge = make_bridge(routes="")
    environment = {
        **os.environ,
        "BRIDGE__ROUTES": '{ "com.Example.Chat" = "client1" }',
        "BRIDGE__ROUTES__com.Example.Other": "client2",
        "BRIDGE__ROUTES__DEFAULT_BAL": "client3",
        "BRIDGE__BROKER__WS_ORIGINS": "https://a.example,https://b.example",
        "BRIDGE__TRANSPORT__CATEGORIES": '{ "com.Example.Chat" = "ccs" }',
        "BRIDGE__BALS__client1__ACK": "explicit",
    }
    done = run("check-config", "--config", bridge.config, env=environment)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["routes"] == {"com.Example.Chat": "client1", "com.Example.Other": "client2", "default_bal": "client3"}
    assert shown["broker"]["ws_origins"] == ["https://a.example", "https://b.example"]
    assert shown["transport"]["categories"] == {"com.Example.Chat": "ccs"}
    assert shown["bals"] == {"client1": {"ack": "explicit", "events": False}}


def test_what_is_nearly_a_key_is_refused_and_what_only_looks_like_one_is_warned_of(make_bridge):
    bridge = make_bridge()
    for name, meant in {"BRIDGE_CCS_HOST": "BRIDGE__CCS__HOST", "BRIDGE__CCS_HOST": "BRIDGE__CCS__HOST"}.items():
        for command in ("check-config", "run"):
            done = run(command, "--config", bridge.config, env={**os.environ, name: "x"})
            assert done.returncode == 64 and f"`{name}`: " in done.stderr and meant in done.stderr, done.stderr
    done = run("check-config", "--config", bridge.config, env={**os.environ, "BRIDGE_LOG_FILE": "x"})
    assert done.returncode == 0 and "warning: the variable BRIDGE_LOG_FILE is not read" in done.stderr, done.stderr
    misspelt = make_bridge(routes='defualt_bal = "client1"')
    done = run("run", "--config", misspelt.config)
    assert done.returncode == 64 and "did you mean `routes.default_bal`?" in done.stderr, done.stderr


def test_a_port_alone_is_an_address(tmp_path, make_bridge):
    sim = Process(["sim", "--listen", "0", "--control-listen", "0", "--tls-dir", tmp_path], tmp_path / "log", stdout=open(tmp_path / "out", "wb"))
    eventually(lambda: re.search(r"^ccs 127\.0\.0\.1:\d+$", (tmp_path / "out").read_text(), re.M), "the simulator listens")
    sim.close()
    done = run("demo", "--listen", "here")
    assert done.returncode == 64 and "wants an address with a port" in done.stderr, done.stderr
    bridge = make_bridge()
    bridge.config.write_text(bridge.config.read_text().replace(f'"127.0.0.1:{bridge.port}"', str(bridge.port)))
    bridge.start()
    Bal("client1", bridge.port).connect().close()
    done = run("health", "--ops", bridge.ops)
    assert done.returncode == 0, done.stderr
