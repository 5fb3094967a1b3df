"""Why there is no connection to the broker."""

from gateway.errors import GatewayError


class NotConnected(GatewayError):
    asked = False
    """The broker may have had our CONNECT and begun a session: what it said of the one before, nobody has heard."""


class BrokerUnavailable(NotConnected):
    """It is not reached, or has no time for us: another try may succeed."""

    hint = "Is the broker running, and are host, port and [sync.tls] right?"


class BrokerRefused(NotConnected):
    """It does not let this client in, and will not before something is changed."""

    exit_code = 2
    hint = "Check username, password (or password_file), client_id and the broker's own access list."


class ProtocolUnsupported(BrokerRefused):
    """It says that it does not speak this version of MQTT."""

    hint = 'Set protocol to "auto", "5" or "3.1.1" as the broker needs.'
