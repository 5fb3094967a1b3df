"""Wearable families. A new one is a module here, its vectors in the tests and a line in PROFILES: see the page
docs/adding-a-wearable.md.

A package of somebody else's adds one by an entry point of the group ENTRY_POINTS: its name is the profile's, its value
a class or function without arguments that makes the profile. It is imported only when that profile is asked for.
"""

import difflib
import functools
from collections.abc import Collection
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from gateway.errors import InputRejected
from gateway.profiles.arduino import ArduinoProfile
from gateway.profiles.conversation import Profile
from gateway.profiles.movesense import MovesenseProfile
from gateway.profiles.polar import PolarProfile
from gateway.profiles.reference import ReferenceProfile
from gateway.profiles.thingy52 import ThingyProfile
from gateway.profiles.witmotion import WitMotionProfile
from gateway.profiles.xsens_dot import XsensDotProfile

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        ReferenceProfile(),
        MovesenseProfile(),
        PolarProfile(),
        XsensDotProfile(),
        WitMotionProfile(),
        ThingyProfile(),
        ArduinoProfile(),
    )
}

ENTRY_POINTS = "fidget_gateway.profiles"
_NEEDED = ("service_uuid", "retention", "rate_hz", "sensor_frame", "silence_s", "conversation", "decoder")


def profile_of(name: str) -> Profile:
    """The profile of this name, this package's own before any other's. Raises InputRejected."""
    if name in PROFILES:
        return PROFILES[name]
    others = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in others:
        return _loaded(others[name])
    known = [*PROFILES, *sorted(others)]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
    raise InputRejected(f"no wearable profile {name!r}", hint=hint)


def speaks(profile: Profile, name: str | None, services: Collection[str]) -> bool:
    """Whether an advertisement is one of this family: it names the service, or its name begins as theirs do, since not
    every family names the service that it streams by. services: in lower case."""
    names: tuple[str, ...] = getattr(profile, "advertised_names", ())
    return profile.service_uuid.lower() in services or (name is not None and name.startswith(names))


def recognised(name: str | None, services: Collection[str]) -> str | None:
    """The profile of an advertisement, also one of an installed package that can be loaded."""
    for heard in (None, name):  # a service says more than a name
        for known, profile in _installed().items():
            if speaks(profile, heard, services):
                return known
    return None


@functools.cache
def _installed() -> dict[str, Profile]:
    """This package's own and those of others, but for what cannot be loaded."""
    others: dict[str, Profile] = {}
    for point in entry_points(group=ENTRY_POINTS):
        with suppress(InputRejected):
            others[point.name] = profile_of(point.name)
    return PROFILES | others


def usable_profile_of(name: str) -> Profile:
    """As profile_of, but one that can be recorded. Raises InputRejected, with the profile's `refused` if it has one."""
    profile = profile_of(name)
    why = getattr(profile, "refused", None)
    if why is not None:
        raise InputRejected(why, hint="The table in README.md has the wearables that can be used.")
    return profile


def _loaded(point: EntryPoint) -> Profile:
    package = point.dist.name if point.dist is not None else point.module
    try:
        profile = point.load()()
    except (Exception, SystemExit) as error:  # whatever somebody else's code does when it is imported
        raise InputRejected(
            f"wearable profile {point.name!r}: {point.value} of the package {package} cannot be loaded: "
            f"{type(error).__name__}: {error}",
            hint=f"Update or remove the package {package}.",
        ) from error
    missing = [attribute for attribute in _NEEDED if not hasattr(profile, attribute)]
    if missing or getattr(profile, "name", None) != point.name:
        what = f"has no {', '.join(missing)}" if missing else f"calls itself {getattr(profile, 'name', None)!r}"
        raise InputRejected(
            f"wearable profile {point.name!r}: {point.value} of the package {package} {what}",
            hint=f"Update or remove the package {package}; docs/adding-a-wearable.md says what a profile has.",
        )
    return cast(Profile, profile)
