"""What `gateway check` says, of a configuration that can be run and of ones that cannot."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.demo.announce import PASSWORD_VARIABLE, announced

DEMO_BUNDLE = Path(__file__).resolve().parents[3] / "models" / "demo"


@pytest.fixture
def place(tmp_path):
    """A folder with a bundle and a writer of configurations that fit it."""
    shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")

    def write(sync='host = "broker.example"', wearable="", more=""):
        file = tmp_path / "gateway.toml"
        file.write_text(
            f'[gateway]\nid = "home-1"\nstate_dir = "state"\n[bundle]\npath = "bundle"\n[sync]\n{sync}\n{more}\n'
            f'[[wearable]]\nid = "left"\naddress = "C0:FF:EE:00:00:01"\n{wearable}'
        )
        return file

    write.folder = tmp_path
    return write


def check(capsys, file, *options):
    code = main(["check", "--config", str(file), *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_good_configuration_is_told_in_words(place, capsys):
    file = place(wearable='wrist = "left"\nmounting = "x,y,z"\nwearer = "p-1"\n')
    code, out, err = check(capsys, file)
    assert (code, err) == (0, "")
    assert "home-1" in out
    assert "BlueZ, adapter hci0" in out
    assert "checked, variant " in out
    assert "windows of 4 s every 2 s" in out
    assert f"{place.folder}/state/gateway.db, will be made" in out
    assert "broker.example:1883" in out
    assert "not tried (--connect tries it)" in out
    assert "left at C0:FF:EE:00:00:01, profile reference, left wrist, mounting x,y,z, wearer p-1" in out
    assert out.endswith("all well\n")
    assert not (place.folder / "state").exists()


def test_an_unknown_mounting_is_pointed_out(place, capsys):
    _, out, _ = check(capsys, place())
    assert "mounting unknown: its predictions will be uncertain" in out


@pytest.mark.parametrize(
    ("worn", "said"),
    [
        ('wrist = "right"', "right wrist, mounting x,y,z, the model learnt on the left wrist: its predictions will be"),
        ("", "wrist not given, mounting x,y,z, the model learnt on the left wrist, so say which it is"),
        ('wrist = "left"', "left wrist, mounting x,y,z\n"),
    ],
    ids=["the other", "unknown", "the same"],
)
def test_the_wrist_is_held_against_the_models(place, reworked, capsys, worn, said):
    reworked(place.folder / "bundle", wrist="left")
    code, out, _ = check(capsys, place(wearable=f'mounting = "x,y,z"\n{worn}\n'))
    assert code == 0
    assert said in out


def test_a_model_without_axes_is_pointed_out(place, reworked, capsys):
    reworked(place.folder / "bundle", frame=None)
    _, out, _ = check(capsys, place())
    assert "axes unknown: no mounting can be found for it" in out


def test_a_model_that_no_wearable_can_feed_is_refused(place, bundle_of, capsys):
    bundle_of(["Ax", "Mx"], ["m/s^2", "uT"]).path.rename(place.folder / "other")
    shutil.rmtree(place.folder / "bundle")
    (place.folder / "other").rename(place.folder / "bundle")
    code, _, err = check(capsys, place())
    assert code == 2
    assert "the model takes Mx, which no wearable gives" in err


def test_each_bundle_is_told_and_which_wearable_it_answers_for(place, bundle_of, capsys):
    small = bundle_of(["Ax", "Ay"], ["m/s^2", "m/s^2"], window=50, name="small")
    second = '[[wearable]]\nid = "right"\naddress = "C0:FF:EE:00:00:02"\n'
    code, out, _ = check(capsys, place(wearable=f'bundle = "{small.path}"\n{second}'))
    assert code == 0
    lines = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("bundle ")]
    assert [line.split(",")[0] for line in lines] == ["small", "fidget-demo"]
    assert "windows of 1 s every 0.5 s" in lines[0]
    assert out.count("\nself-test ") == 2
    left, right = (line for line in out.splitlines() if line.startswith("wearable "))
    assert f"bundle small, digest {small.digest[:12]}, variant float32" in left
    assert "bundle fidget-demo" in right


def test_every_bundle_that_cannot_be_used_is_told(place, bundle_of, capsys):
    strange = bundle_of(["Ax", "Mx"], ["m/s^2", "uT"], name="strange")
    second = '[[wearable]]\nid = "right"\naddress = "C0:FF:EE:00:00:02"\nbundle = "missing"\n'
    code, _, err = check(capsys, place(wearable=f'bundle = "{strange.path}"\n{second}'))
    assert code == 2
    assert "2 errors" in err
    assert "the model takes Mx" in err
    assert f"{place.folder}/missing" in err


def test_a_file_with_errors_is_refused_with_all_of_them(place, capsys):
    code, out, err = check(capsys, place(sync='host = "h"\nprot = 1', wearable='wrist = "foot"\n'))
    assert (code, out) == (2, "")
    assert "2 errors" in err
    assert "sync.prot: unknown key (did you mean port?)" in err
    assert "wearable[0].wrist: found 'foot', expected 'left' or 'right'" in err


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wearable_that_is_too_slow_is_refused_before_it_is_connected(place, capsys, command):
    file = place(wearable='profile = "arduino-nano33-ble-sense"\n')
    assert main([command, "--config", str(file)]) == 2
    said = "wearable[0].profile: the Arduino sends 10 samples a second, which is too slow for the model: it needs 50."
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""
    assert not (place.folder / "state").exists()


def test_what_the_configuration_names_is_checked_all_at_once(place, capsys):
    (place.folder / "bundle" / "model_card.md").write_text("another")
    (place.folder / "state").mkdir()
    sqlite3.connect(place.folder / "state" / "gateway.db").executescript(
        "CREATE TABLE other (x); PRAGMA user_version = 9"
    )
    code, out, err = check(capsys, place())
    assert code == 2
    assert "left at C0:FF:EE:00:00:01" in out
    assert "all well" not in out
    assert "2 errors" in err
    assert "model_card" in err
    assert "an SQLite database that another program made" in err


def test_a_store_of_a_newer_version_is_refused_untouched(place, capsys):
    from gateway.store.store import APPLICATION_ID

    (place.folder / "state").mkdir()
    database = place.folder / "state" / "gateway.db"
    connection = sqlite3.connect(database)
    connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 999; CREATE TABLE t (x)")
    connection.close()
    before = database.read_bytes()
    code, _, err = check(capsys, place())
    assert code == 2
    assert "schema version 999" in err
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == ["gateway.db"]


def test_a_store_of_an_earlier_version_can_be_run_on(place, capsys):
    (place.folder / "state").mkdir()
    connection = sqlite3.connect(place.folder / "state" / "gateway.db")
    connection.executescript((Path(__file__).parents[1] / "store" / "databases" / "version_3.sql").read_text())
    connection.close()
    code, out, _ = check(capsys, place())
    assert code == 0
    assert "bytes, of schema version 3: the daemon brings it up to date\n" in out


def test_a_store_that_has_just_been_made_is_known_while_it_is_open_and_after_a_crash(place, capsys):
    from gateway.store import Store, StoreSettings

    path = place.folder / "state" / "gateway.db"
    with Store.open(StoreSettings(path=path)):
        assert check(capsys, place())[0] == 0
        crashed = {name: (path.parent / name).read_bytes() for name in ("gateway.db", "gateway.db-wal")}
    path.write_bytes(crashed["gateway.db"])
    path.with_name("gateway.db-wal").write_bytes(crashed["gateway.db-wal"])
    assert check(capsys, place())[0] == 0


def test_a_store_that_was_being_made_when_the_power_went_is_no_foreign_one(place, capsys):
    (place.folder / "state").mkdir()
    path = place.folder / "state" / "gateway.db"
    for made in (path.touch, lambda: sqlite3.connect(path).execute("PRAGMA journal_mode = WAL").connection.close()):
        made()
        assert check(capsys, place())[0] == 0
        assert [file.name for file in path.parent.iterdir()] == ["gateway.db"]


def test_a_newer_version_that_is_still_in_the_write_ahead_log_is_seen(place, capsys):
    from gateway.store import Store, StoreSettings

    path = place.folder / "state" / "gateway.db"
    Store.open(StoreSettings(path=path)).close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 999")
        newer.commit()
        before = path.read_bytes(), path.with_name("gateway.db-wal").read_bytes()
        code, _, err = check(capsys, place())
        assert (path.read_bytes(), path.with_name("gateway.db-wal").read_bytes()) == before
    newer.close()
    assert code == 2
    assert "schema version 999" in err


@pytest.mark.parametrize("kind", ["a folder", "behind a file"])
def test_a_store_that_cannot_be_there_is_refused(place, capsys, kind):
    if kind == "a folder":
        (place.folder / "state" / "gateway.db").mkdir(parents=True)
    else:
        (place.folder / "state").write_text("")
    code, _, err = check(capsys, place())
    assert code == 2
    assert "store.path" in err


def test_files_for_the_broker_must_be_there(place, capsys):
    sync = 'host = "h"\nusername = "u"\npassword_file = "secret"\n[sync.tls]\nca = "ca.pem"'
    code, _, err = check(capsys, place(sync=sync))
    assert code == 2
    assert f"sync.password_file {place.folder}/secret, sync.tls.ca {place.folder}/ca.pem: no such file" in err
    (place.folder / "secret").touch(mode=0o600)
    (place.folder / "secret").write_text("open sesame")
    (place.folder / "ca.pem").write_text("")
    code, out, _ = check(capsys, place(sync=sync))
    assert code == 0
    assert "h:1883, as 'u', with TLS" in out
    assert "sesame" not in out


def test_a_secret_that_others_can_read_is_refused_with_the_command_that_closes_it(place, capsys):
    secret = place.folder / "secret"
    secret.write_text("open sesame")
    secret.chmod(0o644)
    code, out, err = check(capsys, place(sync=f'host = "h"\nusername = "u"\npassword_file = "{secret}"'))
    assert code == 2
    assert f"sync.password_file {secret}: others can read it (mode 0644)" in err
    assert f"chmod 6{'4' if os.getuid() == 0 else '0'}0 {secret}" in err
    assert "sesame" not in out + err


def test_every_broker_is_told_in_order(place, capsys):
    second = '[[sync.broker]]\nhost = "b"\nport = 8883\ndestination = "second"\n[sync.broker.tls]\n'
    code, out, _ = check(capsys, place(sync=f'host = "a"\n{second}'))
    assert code == 0
    a, b = "a:1883, without a user name, without TLS", "b:8883, without a user name, with TLS"
    assert f"{a}; not tried (--connect tries it); then {b}; not tried" in out
    code, _, err = check(capsys, place(sync=f'host = "a"\n{second.replace("second", "broker")}'))
    assert code == 2
    assert "destination 'broker' stands for two brokers; each needs a cursor of its own" in err


def test_a_password_in_the_file_is_never_shown_whatever_is_wrong_with_it(place, capsys):
    for line in ('password = ["open sesame"]', 'password = "open sesame"\npasword = "open sesame"'):
        code, out, err = check(capsys, place(sync=f'host = "h"\nusername = "u"\n{line}'))
        assert code == 2
        assert "sesame" not in out + err


def test_a_variant_that_the_bundle_lacks_is_refused(place, capsys):
    file = place()
    file.write_text(file.read_text().replace('path = "bundle"', 'path = "bundle"\nvariant = "int4"'))
    code, _, err = check(capsys, file)
    assert code == 2
    assert "int4" in err


@pytest.mark.parametrize(
    ("transport", "why"),
    [("nonsense:1", "'nonsense' is no transport of Bumble"), ("serial:", "nothing follows 'serial'")],
)
def test_a_radio_transport_that_bumble_does_not_know_is_refused(place, capsys, transport, why):
    more = f'[radio]\nbackend = "bumble"\ntransport = "{transport}"\n'
    code, out, err = check(capsys, place(more=more))
    assert (code, "all well" in out) == (2, False)
    assert f"radio.transport '{transport}': {why}" in err
    code, out, _ = check(capsys, place(more=more.replace(transport, "tcp-client:127.0.0.1:1")))
    assert code == 0
    assert "Bumble on tcp-client:127.0.0.1:1" in out


def test_an_unreachable_broker_is_no_error_of_the_configuration(place, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port, and it refuses
        port = taken.getsockname()[1]
        code, out, err = check(capsys, place(sync=f'host = "127.0.0.1"\nport = {port}'), "--connect")
    assert code == 1
    refused, hint = err.splitlines()[1:3]
    assert refused == f"  - broker 127.0.0.1:{port}: Connection refused"
    assert hint == "    Is the broker running, and are host, port and [sync.tls] right?"
    assert "all well" not in out


@pytest.fixture
def guarded_broker():
    """Host and port of a broker that lets in ada with the password right."""
    environment = {**os.environ, PASSWORD_VARIABLE: "right"}
    command = [sys.executable, "-m", "gateway.demo.broker", "--username", "ada"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield next(place for line in process.stdout if (place := announced(line)))
        finally:
            process.terminate()


def test_a_broker_that_lets_us_in_and_one_that_refuses_the_password(place, capsys, guarded_broker):
    host, port = guarded_broker
    sync = f'host = "{host}"\nport = {port}\nusername = "ada"\npassword = "%s"'
    code, out, _ = check(capsys, place(sync=sync % "right"), "--connect")
    assert code == 0
    assert "answers with MQTT 3.1.1" in out  # the embedded broker speaks no other
    code, out, err = check(capsys, place(sync=sync % "wrong"), "--connect")
    assert code == 2
    assert "refuse" in err
    assert "password" in err
    assert "wrong" not in out + err


def test_the_configuration_must_be_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check"])
    assert stop.value.code == 2
    assert "--config" in capsys.readouterr().err


SECURE = '[radio]\nsecure_connections = "only"\n'
NO_WAY = (
    "SecureConnections = only makes Linux (seen with 6.12) end every encrypted LE link, also those of LE Secure "
    'Connections, so no wearable that pairs can be used. Ways out: [radio] backend = "bumble", where the gateway '
    'itself refuses to pair the old way; or secure_connections = "preferred", with SecureConnections = on in BlueZ'
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[General]\n#SecureConnections = only\n", "does not say SecureConnections, so it is on"),
        ("[General]\nSecureConnections=on\n", "says SecureConnections = on"),
        ("[General]\nSecureConnections=Only\n", "says SecureConnections = Only"),
        ("[General]\nsecureconnections=only\n", "does not say SecureConnections, so it is on"),
        ("[Policy]\nSecureConnections = only\n", "does not say SecureConnections, so it is on"),
        ("SecureConnections = only\n", "does not say SecureConnections, so it is on"),
        (None, "does not say SecureConnections, so it is on"),
    ],
)
def test_a_bluez_that_lets_wearables_pair_the_old_way_is_told_with_what_to_do(place, capsys, monkeypatch, text, said):
    """As BlueZ reads its file: a comment and another group count for nothing."""
    conf = place.folder / "main.conf"
    if text is not None:
        conf.write_text(text)
    monkeypatch.setattr("gateway.ble.bluez_settings.must_be_secure.__defaults__", (conf,))
    code, out, err = check(capsys, place(more=SECURE))
    assert code == 0
    assert "pairing       by LE Secure Connections alone, as far as BlueZ is set so (--connect looks)" in out
    code, _, err = check(capsys, place(sync='host = "127.0.0.1"\nport = 1', more=SECURE), "--connect")
    assert code == 2
    assert f'radio.secure_connections "only": BlueZ lets wearables pair without: {conf} {said}' in err
    assert f"That it should is no way: {NO_WAY}." in err


@pytest.mark.parametrize(
    ("radio", "warned"),
    [
        ("", False),
        ('secure_connections = "preferred"', False),
        ('secure_connections = "only"', True),
        ('secure_connections = "only"\nbackend = "bumble"\ntransport = "usb:0"', False),
    ],
)
def test_that_secure_connections_alone_shut_every_paired_wearable_out_on_bluez_is_a_warning_with_the_ways_out(
    place, capsys, radio, warned
):
    code, out, err = check(capsys, place(more=f"[radio]\n{radio}\n"))
    assert (code, err) == (0, "")
    assert (f"\nwarning       {NO_WAY}\n" in out, "warning" in out) == (warned, warned)
    assert out.endswith("\nall well, but for the warning\n" if warned else "\nall well\n")


def test_a_bluez_that_pairs_securely_alone_is_told_and_one_that_cannot_be_asked_is_said_to_be_so(
    place, capsys, monkeypatch
):
    conf = place.folder / "main.conf"
    conf.write_text("[General]\nName = %h\nSecureConnections = only\n[Policy]\nAutoEnable=true\n")
    monkeypatch.setattr("gateway.ble.bluez_settings.must_be_secure.__defaults__", (conf,))
    broken = place(sync='host = "127.0.0.1"\nport = 1', more=SECURE)
    _, out, err = check(capsys, broken, "--connect")
    assert f"pairing       by LE Secure Connections alone ({conf} says SecureConnections = only)" in out
    assert f"\nwarning       {NO_WAY}\n" in out
    assert "radio.secure_connections" not in err

    def denied(*_, **__):
        raise PermissionError  # root, as whom tests may run, reads everything

    monkeypatch.setattr(Path, "read_text", denied)
    from gateway.ble.bluez_settings import must_be_secure

    assert must_be_secure(conf).startswith("whether by LE Secure Connections alone is not known: ")
