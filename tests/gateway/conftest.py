"""Fixtures of more than one room: a bundle for any channels, whose answers are known without it; a D-Bus, and what
stands for bluetoothd on it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from dbus_fast import BusType
from dbus_fast.aio import MessageBus

from converter.layers import Dense, GlobalPool
from converter.lowering import lower
from gateway.bundle import Bundle, Manifest, load_bundle, write_bundle
from gateway.bundle.writing import member
from tests.gateway.bluez import BUS, Bluez

PARITY = {"windows": 300, "seed": 1, "top1_agreement": 1.0, "dp_max": 0.0, "dp_p99": 0.0, "dp_mean": 0.0}


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """bundle_of(channels, units, ...): one label a channel; the logits are the channels' means. name: of its folder."""

    def write(
        channels: Sequence[str],
        units: Sequence[str],
        window: int = 200,
        hop: int | None = None,
        rate_hz: float = 50.0,
        name: str = "means",
    ) -> Bundle:
        count = len(channels)
        layers = [GlobalPool("average"), Dense(np.eye(count), np.zeros(count), "softmax")]
        model = lower(layers, window=window, channels=count)
        files = {"float32.tflite": model, "model_card.md": b"# Means\n"}
        content = {
            "model": {"name": name, "architecture": ["Dense"], "keras_sha256": "0" * 64},
            "labels": [f"most_{channel}" for channel in channels],
            "window": window,
            "hop": hop or window // 2,
            "rate_hz": rate_hz,
            "channels": channels,
            "units": units,
            "preprocessing": {"mean": [0] * count, "scale": [1] * count, "source_sha256": "0" * 64},
            "variants": {
                "float32": {**member("float32.tflite", model).model_dump(), "parity": PARITY, "operators": {}}
            },
            "default_variant": "float32",
            "model_card": member("model_card.md", files["model_card.md"]).model_dump(),
            "provenance": {"converter_version": "0", "libraries": {}},
        }
        return write_bundle(tmp_path / name, Manifest.model_validate(content), files)

    return write


@pytest.fixture
def reworked() -> Callable[..., None]:
    """reworked(folder, frame=None, ...): the bundle there, with these fields of its manifest changed."""

    def rework(folder: Path, **changes: object) -> None:
        bundle = load_bundle(folder)
        files = {name: content for name, content in bundle.files().items() if name != "manifest.json"}
        manifest = Manifest.model_validate(bundle.manifest.model_dump() | changes)
        shutil.rmtree(folder)
        write_bundle(folder, manifest, files)

    return rework


@pytest.fixture
async def system_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    daemon = shutil.which("dbus-daemon")
    if daemon is None:
        pytest.skip("dbus-daemon is not installed (Debian: apt-get install dbus-daemon)")
    socket, config = tmp_path / "bus", tmp_path / "bus.conf"
    config.write_text(BUS.format(socket=socket))
    process = await asyncio.create_subprocess_exec(
        daemon, f"--config-file={config}", "--nofork", "--print-address", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()  # it listens
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={socket}")
    yield
    process.kill()
    await process.wait()


@pytest.fixture
async def bluez(system_bus: None) -> AsyncIterator[Bluez]:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    yield Bluez(bus)
    bus.disconnect()
