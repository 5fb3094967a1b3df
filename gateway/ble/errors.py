"""What the radio side cannot do."""

from gateway.errors import GatewayError, InputRejected


class RadioAway(GatewayError):
    """No adapter answers at present; the daemon goes on and tries again."""

    hint = "The gateway keeps trying; wearables keep their samples meanwhile as far as their memory goes."


class RadioRejected(InputRejected):
    """The [radio] settings cannot work on this machine."""
