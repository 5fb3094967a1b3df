"""What the radio side cannot do."""

from gateway.errors import GatewayError, InputRejected


class RadioAway(GatewayError):
    """No adapter answers at present; the daemon goes on and tries again."""

    hint = "The gateway keeps trying; wearables keep their samples meanwhile as far as their memory goes."


class RadioRejected(InputRejected):
    """The [radio] settings cannot work on this machine."""


class PairingFailed(GatewayError):
    """The wearable and this gateway are not paired."""

    hint = "Try again; a wearable that has been paired elsewhere may have to be reset first."


class BondRefused(GatewayError):
    """A wearable is not connected for what is known of its bond; the message says the way out."""
