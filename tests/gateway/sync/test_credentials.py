"""Passwords, keys and certificates: private, renewed without a restart, and shown nowhere."""

import asyncio
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InputRejected
from gateway.sync.credentials import check_private, fingerprint, read_password, tls_context
from gateway.sync.settings import SyncSettings, TlsSettings
from tests.gateway.sync.certificates import Authority
from tests.gateway.sync.conftest import House, Mosquitto, until
from tests.gateway.sync.server5 import server5, taking

PROTOCOLS = [("5", "MQTT 5"), ("3.1.1", "MQTT 3.1.1")]


def private(file: Path, text: str) -> Path:
    file.touch(mode=0o600)
    file.write_text(text)
    return file


def settings(**given: Any) -> SyncSettings:
    return SyncSettings.model_validate({"host": "127.0.0.1", "username": "ada"} | given)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o666, 0o777])
def test_a_secret_that_others_can_read_is_refused_with_what_to_run(tmp_path: Path, mode: int) -> None:
    file = private(tmp_path / "secret", "open sesame")
    file.chmod(mode)
    allowed = "640" if os.getuid() == 0 else "600"
    with pytest.raises(
        InputRejected, match=rf"sync\.password_file {file}: others can read it \(mode {mode:04o}\)"
    ) as no:
        read_password(settings(password_file=file))
    assert no.value.hint == f"chmod {allowed} {file}"
    assert "sesame" not in f"{no.value!r} {no.value.in_words()}"
    file.chmod(int(allowed, 8))
    assert read_password(settings(password_file=file)) == "open sesame"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_of_a_file_that_is_not_roots_no_group_may_read_either(tmp_path: Path) -> None:
    file = private(tmp_path / "secret", "open sesame")
    file.chmod(0o640)
    check_private("sync.tls.key", file)
    os.chown(file, 12345, 12345)
    with pytest.raises(InputRejected, match="others can read it") as no:
        check_private("sync.tls.key", file)
    assert no.value.hint == f"chmod 600 {file}"


@pytest.mark.parametrize("in_one", [False, True], ids=["key in a file", "key in the certificate's file"])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, in_one: bool) -> None:
    Authority("home").issue(tmp_path, "home")
    cert, key = tmp_path / "home.pem", tmp_path / "home.key.pem"
    if in_one:
        cert.write_text(cert.read_text() + key.read_text())
    tls = TlsSettings(cert=cert) if in_one else TlsSettings(cert=cert, key=key)
    tls_context(tls)
    (cert if in_one else key).chmod(0o644)
    named = "cert" if in_one else "key"
    with pytest.raises(InputRejected, match=rf"sync\.tls\.{named} .*: others can read it \(mode 0644\)"):
        tls_context(tls)


def test_a_systemd_credential_is_found_where_systemd_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(password_credential="mqtt")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(InputRejected, match=r"sync\.password_credential 'mqtt': \$CREDENTIALS_DIRECTORY is not") as no:
        read_password(asked)
    assert "LoadCredential=mqtt:FILE" in no.value.hint
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(InputRejected, match=rf"sync\.password_credential {tmp_path}/mqtt: No such file"):
        read_password(asked)
    private(tmp_path / "mqtt", "open sesame\n").chmod(0o440)  # systemd's own way to keep it private
    assert read_password(asked) == "open sesame"
    Authority("home").issue(tmp_path, "home")
    (tmp_path / "home.key.pem").rename(tmp_path / "mqtt-key")
    tls_context(TlsSettings(cert=tmp_path / "home.pem", key_credential="mqtt-key"))


def test_a_replaced_file_looks_different_also_behind_a_link(tmp_path: Path) -> None:
    first, second, link = tmp_path / "1", tmp_path / "2", tmp_path / "live"
    first.write_text("old"), second.write_text("new")
    link.symlink_to(first)
    before = fingerprint((link,))
    assert fingerprint((link,)) == before
    link.unlink()
    link.symlink_to(second)
    assert fingerprint((link,)) != before
    link.unlink()
    assert fingerprint((link,)) == (None,)


def quick(port: int, **given: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, "backoff_min_s": 0.05, "backoff_max_s": 0.1} | given


async def test_a_new_password_is_used_without_a_restart_and_with_nothing_sent_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.sync.mqtt.RENEWED_EVERY_S", 0.05)
    caplog.set_level(logging.INFO)
    file = private(tmp_path / "password", "first sesame")
    async with server5(taking()) as server:
        made = House(tmp_path / "gateway.db", **quick(server.port, username="ada", password_file=file, protocol="5"))
        made.log(range(1, 21))
        await made.sent()
        file.chmod(0o644)
        await until(lambda: "not taken up: sync.password_file" in caplog.text)
        assert len(server.clients) == 1
        file.chmod(0o600)
        private(file, "second sesame")
        await until(lambda: len(server.clients) == 2)
        made.log(range(21, 41))
        await made.sent()
        told = [client.connect for client in server.clients]
        assert [one.password for one in told if one] == [b"first sesame", b"second sesame"]
        assert server.clients[0].said_bye == 0
        assert [int(payload) for payload in server.payloads] == list(range(1, 41))
        await made.stop()
    assert "sesame" not in caplog.text


# Against a real broker that lets in whom its authority vouches for.


@pytest.mark.mosquitto
@pytest.mark.parametrize(("protocol", "speaks"), PROTOCOLS)
async def test_a_clients_certificate_lets_in_and_its_renewal_is_taken_up(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, speaks: str
) -> None:
    monkeypatch.setattr("gateway.sync.mqtt.RENEWED_EVERY_S", 0.1)
    house, stranger = Authority("house"), Authority("stranger")
    house.write(tmp_path, "ca", "ca.key")
    house.issue(tmp_path, "broker")
    stranger.issue(tmp_path, "home")
    await mosquitto.start(
        f"allow_anonymous true\ncafile {tmp_path}/ca.pem\ncertfile {tmp_path}/broker.pem\n"
        f"keyfile {tmp_path}/broker.key.pem\nrequire_certificate true\nuse_identity_as_username true\n"
    )
    tls = {"ca": tmp_path / "ca.pem", "cert": tmp_path / "home.pem", "key": tmp_path / "home.key.pem"}
    made = House(tmp_path / "gateway.db", **quick(mosquitto.port, tls=tls, protocol=protocol))
    made.log(range(1, 11))
    await made.writer.flush()
    await until(lambda: "next try" in made.publisher.state)
    assert made.publisher.waiting == 10
    house.issue(tmp_path, "home")  # taken up at the next try
    await made.sent()
    assert made.publisher.state == f"connected to 127.0.0.1:{mosquitto.port}, {speaks}"
    house.issue(tmp_path, "home")  # taken up while connected
    await until(lambda: made.publisher.counters.connections == 2)
    made.log(range(11, 21))
    await made.sent()
    assert (made.publisher.acknowledged, made.publisher.counters.sent_again) == (20, 0)
    await made.stop()


@pytest.mark.mosquitto
@pytest.mark.parametrize(("protocol", "speaks"), PROTOCOLS)
async def test_name_and_password_over_tls(
    mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str, speaks: str
) -> None:
    caplog.set_level(logging.DEBUG)
    house = Authority("house")
    house.write(tmp_path, "ca", "ca.key")
    house.issue(tmp_path, "broker")
    passwords = mosquitto.folder / "passwords"
    await asyncio.to_thread(
        subprocess.run, ["mosquitto_passwd", "-b", "-c", str(passwords), "ada", "sesame"], check=True
    )
    await mosquitto.start(
        f"allow_anonymous false\npassword_file {passwords}\ncertfile {tmp_path}/broker.pem\n"
        f"keyfile {tmp_path}/broker.key.pem\n"
    )
    file = private(tmp_path / "password", "wrong-sesame")
    tls = {"ca": tmp_path / "ca.pem"}
    made = House(
        tmp_path / "gateway.db",
        **quick(mosquitto.port, tls=tls, protocol=protocol, username="ada", password_file=file),
    )
    made.log(range(1, 11))
    await made.writer.flush()
    await until(lambda: "Check username, password" in made.publisher.state)
    private(file, "sesame\n")
    await made.sent()
    assert made.publisher.state == f"connected to 127.0.0.1:{mosquitto.port}, {speaks}"
    await made.stop()
    assert "sesame" not in f"{caplog.text} {made.publisher.state} {vars(made.publisher)!r}"
