"""The brokers, and how events go to them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

from gateway.events import TOPICS, check_topics

STANDBYS_MAX = 4
Destination = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Credential = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class TlsSettings(BaseModel):
    """ca: whom to trust, in PEM; without it the system's authorities. cert and key: the client's own, in PEM.

    key_credential: the name of a systemd credential, in place of key. Certificates and host names are always checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    key_credential: Credential | None = None

    @model_validator(mode="after")
    def _key_belongs_to_cert(self) -> Self:
        if self.key is not None and self.key_credential is not None:
            raise ValueError("key and key_credential exclude each other")
        if (self.key or self.key_credential) and self.cert is None:
            raise ValueError("key needs cert" if self.key else "key_credential needs cert")
        return self


class BrokerSettings(BaseModel):
    """One MQTT broker. protocol "auto": MQTT 5, and 3.1.1 where the broker says that it does not support 5.

    password_file, password_credential (the name of a systemd credential): read at each connection; white space at the
    end is not part of the password.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1)
    port: int = Field(1883, ge=1, le=65535)
    """With [sync.tls] it is usually 8883."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    username: str = ""
    password: SecretStr | None = None
    password_file: Path | None = None
    password_credential: Credential | None = None
    tls: TlsSettings | None = None
    client_id: str | None = Field(None, min_length=1, max_length=64)
    """Default: fidget- and the gateway's id. The broker knows our session by it, so it must not change."""
    destination: Destination
    """Names the cursor in the store: another name begins at the oldest event."""

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        given = [
            name for name in ("password", "password_file", "password_credential") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other")
        if given and not self.username:
            raise ValueError("a password needs username")
        return self


class SyncSettings(BrokerSettings):
    """The first broker, those that stand in for it in the order of their tables, and what holds for all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    destination: Destination = "broker"
    standbys: tuple[BrokerSettings, ...] = Field((), alias="broker", max_length=STANDBYS_MAX)
    failover_after_s: float = Field(60.0, ge=1)
    """The next broker is tried once those before it have been away for so long."""
    topics: Annotated[str, AfterValidator(check_topics)] = TOPICS
    """Of what is published from now on, whenever it was made."""
    state_expiry_s: int | None = Field(None, ge=60, lt=2**32)
    """A broker of MQTT 5 forgets the state of a wearable so long after it was sent; None: never."""
    redirection: bool = True
    """Whether a broker may send us on to another server (MQTT 5, 4.13)."""
    keepalive_s: int = Field(30, ge=5, le=3600)
    session_expiry_s: int = Field(7 * 86400, ge=60, lt=2**32 - 1)
    """For so long the broker keeps our session; under MQTT 3.1.1 that is for the broker to say."""
    window: int = Field(100, ge=1, le=1000)
    """Events on their way without an answer; the broker's receive maximum may bound it further."""
    replay_messages_s: float | None = Field(None, gt=0)
    """Of what an outage has left, and of what `gateway replay` sends again, at most so many a second: new events go
    before them, and a broker that limits a connection has room for both."""
    replay_bytes_s: float | None = Field(None, gt=0)
    """Of their payloads."""
    connect_timeout_s: float = Field(15.0, gt=0, le=300)
    ack_timeout_s: float = Field(60.0, ge=5)
    """A broker that answers nothing for so long while something is on its way is left and connected to anew."""
    backoff_min_s: float = Field(1.0, gt=0)
    backoff_max_s: float = Field(60.0, gt=0)
    rewind_s: float = Field(1800.0, ge=0)
    """Where the broker has lost our session, what it has acknowledged within so long is sent to it again.
    mosquitto writes its state every 1,800 s by default (mosquitto.conf(5), autosave_interval)."""

    @model_validator(mode="after")
    def _brokers_differ(self) -> Self:
        if self.backoff_min_s > self.backoff_max_s:
            raise ValueError("backoff_min_s is above backoff_max_s")
        names = [self.destination, *(broker.destination for broker in self.standbys)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"destination {twice!r} stands for two brokers; each needs a cursor of its own")
        return self

    def brokers(self) -> tuple["SyncSettings", ...]:
        """Each by itself, in order."""
        return (
            self.model_copy(update={"standbys": ()}),
            *(
                self.model_copy(update={"standbys": (), **{n: getattr(one, n) for n in type(one).model_fields}})
                for one in self.standbys
            ),
        )
