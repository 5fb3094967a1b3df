"""Wearable families. To add one: a module here, its vectors in the tests, a line in PROFILES."""

import difflib

from gateway.errors import InputRejected
from gateway.profiles.conversation import Profile
from gateway.profiles.reference import ReferenceProfile

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (ReferenceProfile(),)}


def profile_of(name: str) -> Profile:
    """The profile of this name. Raises InputRejected."""
    if name not in PROFILES:
        near = difflib.get_close_matches(name, PROFILES, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(PROFILES)}."
        raise InputRejected(f"no wearable profile {name!r}", hint=hint)
    return PROFILES[name]
