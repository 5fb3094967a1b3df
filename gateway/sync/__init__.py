"""MQTT: connections to a broker, and the publisher that brings the event log to it."""

from gateway.sync.mqtt import check_connection
from gateway.sync.publisher import Publisher
from gateway.sync.settings import SyncSettings, TlsSettings

__all__ = ["Publisher", "SyncSettings", "TlsSettings", "check_connection"]
