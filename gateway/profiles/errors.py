"""What a payload that is not of its family raises."""

from gateway.errors import GatewayError


class FrameError(GatewayError):
    """A payload from a wearable that its profile does not allow; counted and dropped, never fatal."""

    def __init__(self, profile: str, message: str, payload: bytes) -> None:
        super().__init__(f"{profile}: {message} [{payload[:24].hex()}{'…' if len(payload) > 24 else ''}]")
