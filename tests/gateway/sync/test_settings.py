"""Settings that contradict themselves, and secrets that nobody reads."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.sync.settings import SyncSettings, TlsSettings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"password": "a", "username": "u", "password_file": "f"}, "password and password_file exclude each other"),
        ({"password": "a"}, "a password needs username"),
        ({"password_file": "f"}, "a password needs username"),
        ({"backoff_min_s": 90}, "backoff_min_s is above backoff_max_s"),
        ({"protocol": "4"}, "'auto', '5' or '3.1.1'"),
        ({"host": ""}, "at least 1 character"),
        ({"tls": {"key": "k.pem"}}, "key needs cert"),
        ({"tls": {"insecure": True}}, "Extra inputs are not permitted"),
        ({"window": 0}, "greater than or equal to 1"),
        ({"broker": [{"host": "b"}]}, r"broker\.0\.destination\n  Field required"),
        (
            {"broker": [{"host": "b", "destination": "broker"}]},
            "destination .broker. stands for two brokers; each needs a cursor of its own",
        ),
        ({"username": "u", "password": "a", "password_credential": "c"}, "password and password_credential exclude"),
        ({"tls": {"cert": "c", "key": "k", "key_credential": "k"}}, "key and key_credential exclude each other"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SyncSettings.model_validate({"host": "broker"} | settings)


def test_a_password_is_shown_nowhere() -> None:
    settings = SyncSettings.model_validate({"host": "broker", "username": "ada", "password": "open sesame"})
    assert "sesame" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_files_of_tls_may_be_left_out() -> None:
    assert SyncSettings(host="broker", tls=TlsSettings()).tls == TlsSettings(ca=None, cert=None, key=None)
    assert TlsSettings(cert=Path("c"), key=None).cert == Path("c")


def test_a_broker_that_stands_in_shares_the_pace_and_no_secret() -> None:
    first = {"host": "a", "username": "ada", "password": "open sesame", "window": 7, "tls": {"ca": "ca.pem"}}
    settings = SyncSettings.model_validate(first | {"broker": [{"host": "b", "port": 1884, "destination": "second"}]})
    one, two = settings.brokers()
    assert (one.host, one.window, one.username, one.standbys) == ("a", 7, "ada", ())
    assert (two.host, two.port, two.window, two.destination) == ("b", 1884, 7, "second")
    assert (two.username, two.password, two.tls) == ("", None, None)
