"""MQTT: connections to a broker, and the publisher that brings the event log to it."""

from gateway.sync.credentials import check_private
from gateway.sync.failover import Failover, publisher_of
from gateway.sync.mqtt import check_connection
from gateway.sync.publisher import Publisher
from gateway.sync.settings import SyncSettings, TlsSettings

__all__ = [
    "Failover",
    "Publisher",
    "SyncSettings",
    "TlsSettings",
    "check_connection",
    "check_private",
    "publisher_of",
]
