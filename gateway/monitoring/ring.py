"""When a wearable's ring overflows, at the rate at which it fills."""


def hours_until_full(capacity: int, held: int, rate_hz: float) -> float | None:
    """capacity, held: samples. rate_hz: samples a second by which more come than go. None where it does not fill."""
    if capacity <= 0 or rate_hz <= 0:
        return None
    return max(0, capacity - held) / rate_hz / 3600
