"""`gateway check`: what a configuration means, in words, or everything that is wrong with it."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.arguments import add_config
from gateway.errors import GatewayError, InputRejected

if TYPE_CHECKING:
    from gateway.bundle import Bundle
    from gateway.config import BundleSettings, Config
    from gateway.sync import SyncSettings

_AS_SERVICE = "Run this command as the user that runs the gateway."


class CheckFailed(InputRejected):
    """Parts of a valid configuration name things that cannot be used; each is told."""

    def __init__(self, file: Path, errors: Sequence[GatewayError]) -> None:
        lines = [f"{error}\n    {error.hint}".rstrip() for error in errors]
        count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
        super().__init__("\n  - ".join([f"{file}: {count}", *lines]))
        self.exit_code = max(error.exit_code for error in errors)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Reads a configuration, says in words what it means, and explains every error in it at once. "
        "Exit codes: 0 it can be run, 2 something is wrong in it or, with --connect, in BlueZ's settings, 1 the broker "
        "cannot be reached."
    )
    add_config(parser, "TOML; docs/configuration.md")
    parser.add_argument("--connect", action="store_true", help="try the broker, and look at BlueZ's settings, too")


def run(args: argparse.Namespace) -> int:
    from gateway.bundle import load_bundle
    from gateway.config import load_config

    config = load_config(args.config)
    errors: list[GatewayError] = []
    bundles: dict[BundleSettings, Bundle] = {}
    warnings: list[str] = []
    lines = [f"{'configuration':<14}{args.config}"]
    lines.append(f"{'gateway':<14}{config.gateway.id}")
    try:
        lines.append(f"{'radio':<14}{_radio(config)}")
    except GatewayError as error:
        errors.append(error)
    try:
        lines.append(f"{'pairing':<14}{_pairing(config, ask=args.connect)}")
    except GatewayError as error:
        errors.append(error)
    else:
        warnings += [f"{'warning':<14}{text}" for text in _of_pairing(config)]
    for settings in config.bundles():
        try:
            bundle = bundles[settings] = load_bundle(settings.path)
            lines.append(f"{'bundle':<14}{_bundle(bundle, settings.variant)}")
            lines.append(f"{'self-test':<14}{_self_test(bundle, settings.variant)}")
        except GatewayError as error:
            errors.append(error)
    for title, part in (("store", _store), ("broker", lambda c: _broker(c, connect=args.connect))):
        try:
            lines.append(f"{title:<14}{part(config)}")
        except GatewayError as error:
            errors.append(error)
    lines += [f"{'wearable':<14}{text}" for text in _wearables(config, bundles)]
    print("\n".join(lines + warnings))
    if errors:
        raise CheckFailed(args.config, errors)
    print("all well, but for the warning" if warnings else "all well")
    return 0


def _radio(config: "Config") -> str:
    if config.radio.backend == "bluez":
        return f"BlueZ, adapter {_listed(config)}"
    from importlib.util import find_spec

    from gateway.ble import check_transport

    for transport in config.radio.names:
        check_transport(transport)
    missing = "" if find_spec("bumble") else " (not installed: pip install 'fidget-gateway[bumble]')"
    return f"Bumble on {_listed(config)}{missing}"


def _listed(config: "Config") -> str:
    """One adapter by its name; several with how many wearables they hold together, against how many there are."""
    names, hold = config.radio.names, len(config.radio.names) * config.radio.wearables_max
    few = f", for {hold} of {len(config.wearables)} wearables at once" if hold < len(config.wearables) else ""
    return " and ".join(names) + few


def _pairing(config: "Config", *, ask: bool) -> str:
    """Raises InputRejected where BlueZ would let wearables pair as the configuration does not want it."""
    if config.radio.secure_connections != "only":
        return "by LE Secure Connections, and the old way with wearables that cannot do so"
    if config.radio.backend == "bumble":
        return "by LE Secure Connections alone"
    if not ask:
        return "by LE Secure Connections alone, as far as BlueZ is set so (--connect looks)"
    from gateway.ble.bluez_settings import must_be_secure

    return must_be_secure()


def _of_pairing(config: "Config") -> Iterator[str]:
    """What the configuration may ask for, and does not get."""
    if config.radio.secure_connections == "only" and config.radio.backend == "bluez":
        from gateway.ble.bluez_settings import NO_WAY

        yield NO_WAY


def _bundle(bundle: "Bundle", variant: str | None) -> str:
    from gateway.motion.channels import columns_of

    manifest = bundle.manifest
    name, _ = bundle.variant(variant)
    columns_of(manifest.channels, manifest.units, where=f"bundle {bundle.path}")
    chosen = "as configured" if variant else "its default"
    frame = f"axes {manifest.frame}" if manifest.frame else "axes unknown: no mounting can be found for it"
    return (
        f"{manifest.model.name}, digest {bundle.digest[:12]} checked, variant {name} ({chosen}); "
        f"{len(manifest.labels)} activities, windows of {manifest.window / manifest.rate_hz:g} s "
        f"every {manifest.hop / manifest.rate_hz:g} s, {frame}"
    )


def _self_test(bundle: "Bundle", variant: str | None) -> str:
    from gateway.inference import load_predictor, self_test

    tested = self_test(load_predictor(bundle, variant), bundle, variant)
    if tested is None:
        return "the bundle has none; its model loads"
    return f"{tested.windows} windows answered as where the bundle was made (max |dp| {tested.dp_max:.1e})"


def _store(config: "Config") -> str:
    """Where the store is or will be; nothing is made."""
    from gateway.store.store import SCHEMA_VERSION, check_database

    path = config.store.path
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    for place in (folder, path):
        if place.exists() and not os.access(place, os.R_OK | os.W_OK):
            raise InputRejected(
                f"store.path {path}: {place} is not writable for this user",
                hint=_AS_SERVICE,
            )
    if not folder.is_dir() or path.is_dir():
        raise InputRejected(f"store.path {path}: expected a file in a folder", hint="Choose another path.")
    if not path.exists():
        return f"{path}, will be made"
    version = check_database(path)
    older = f", of schema version {version}: the daemon brings it up to date" if 0 < version < SCHEMA_VERSION else ""
    return f"{path}, {path.stat().st_size} bytes{older}"


def _broker(config: "Config", *, connect: bool) -> str:
    """All brokers, in order; the first that cannot be used is told."""
    return "; then ".join(_one_broker(broker, connect=connect) for broker in config.sync.brokers())


def _one_broker(sync: "SyncSettings", *, connect: bool) -> str:
    from gateway.sync import check_connection, check_private

    files = {"password_file": sync.password_file}
    if sync.tls is not None:
        files |= {"tls.ca": sync.tls.ca, "tls.cert": sync.tls.cert, "tls.key": sync.tls.key}
    unreadable = [f"sync.{key} {file}" for key, file in files.items() if file and not _readable(file)]
    if unreadable:
        raise InputRejected(f"{', '.join(unreadable)}: no such file, or not readable for this user", hint=_AS_SERVICE)
    for key in ("password_file", "tls.key"):
        if file := files.get(key):
            check_private(f"sync.{key}", file)
    user = f"as {sync.username!r}" if sync.username else "without a user name"
    place = f"{sync.host}:{sync.port}, {user}, {'without TLS' if sync.tls is None else 'with TLS'}"
    if not connect:
        return f"{place}; not tried (--connect tries it)"
    return f"{place}; answers with {check_connection(sync, sync.connect_timeout_s)}"


def _readable(file: Path) -> bool:
    return file.is_file() and os.access(file, os.R_OK)


def _wearables(config: "Config", bundles: "Mapping[BundleSettings, Bundle]") -> Iterator[str]:
    """bundles: those that can be used."""
    for wearable in config.wearables:
        parts = [f"{wearable.id} at {wearable.address}", f"profile {wearable.profile}"]
        parts.append(f"{wearable.wrist} wrist" if wearable.wrist else "wrist not given")
        if wearable.shared:
            parts.append("shared with the other gateways in reach")
        if wearable.mounting:
            parts.append(f"mounting {wearable.mounting}")
        else:
            parts.append("mounting unknown: its predictions will be uncertain (`gateway mount` finds it)")
        if wearable.wearer:
            parts.append(f"wearer {wearable.wearer}")
        bundle = bundles.get(config.bundle_of(wearable))
        if bundle is not None and len(config.bundles()) > 1:
            variant, _ = bundle.variant(config.bundle_of(wearable).variant)
            parts.append(f"bundle {bundle.manifest.model.name}, digest {bundle.digest[:12]}, variant {variant}")
        learnt = bundle.manifest.wrist if bundle else None
        if learnt in ("left", "right") and wearable.wrist not in (None, learnt):
            parts.append(f"the model learnt on the {learnt} wrist: its predictions will be uncertain")
        elif learnt in ("left", "right") and wearable.wrist is None:
            parts.append(f"the model learnt on the {learnt} wrist, so say which it is")
        yield ", ".join(parts)
