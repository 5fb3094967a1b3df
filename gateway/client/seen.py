"""Which events came already. Pure."""

import hashlib

SEEN_MAX = 100_000
"""Names remembered: 3 hours of 8 wearables, 12 MB. What comes again later than that is told again, which is why a
database keys by (source, id)."""


class Seen:
    """The newest `most` names of events; what is asked for again counts as new once more."""

    def __init__(self, most: int = SEEN_MAX) -> None:
        self._most = most
        self._names: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._names)

    def is_new(self, source: str, identity: str) -> bool:
        """Remembers it, too."""
        name = hashlib.blake2b(f"{source} {identity}".encode(), digest_size=16).digest()  # a source has no space
        known = name in self._names
        if known:
            del self._names[name]
        self._names[name] = None
        if len(self._names) > self._most:
            del self._names[next(iter(self._names))]
        return not known
