"""The rules of the house: what each room may import and touch (docs/architecture.md, "Rooms").

Every rule is a function from a source tree to sentences; each is also run on a small tree with a violation planted.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gateway", "converter", "firmware_sim", "models")

# What a module can touch, by what it must import for it.
TOUCH = {
    "clock": {"time"},
    "disk": {"glob", "io", "os", "pathlib", "shutil", "sqlite3", "sqlite_utils", "tempfile", "openpyxl", "pyarrow"},
    "event loop": {"asyncio"},
    "threads": {"concurrent", "multiprocessing", "queue", "signal", "subprocess", "threading"},
    "network": {"amqtt", "http", "paho", "select", "selectors", "socket", "socketserver", "ssl", "urllib"},
    "radio": {"bleak", "bumble", "dbus_fast"},
    "runtime": {"ai_edge_litert", "keras", "onnxruntime", "tensorflow", "tf_keras", "tflite_runtime"},
    "randomness": {"random", "secrets"},
}
ALL = frozenset(TOUCH)
PURE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Room:
    """imports: other rooms of gateway, or single modules of them; errors is everybody's. touch: keys of TOUCH."""

    imports: frozenset[str]
    touch: frozenset[str] = PURE


def room(imports: str = "", *touch: str) -> Room:
    return Room(frozenset(imports.split()), frozenset(touch))


ROOMS = {
    "errors": room(),
    "clock": room("", "clock", "disk"),
    "console": room("", "disk", "network"),
    "profiles": room("motion"),
    "link": room(),
    "ble": room("link profiles", "event loop", "radio", "disk", "randomness"),
    "motion": room(),
    "recording": room("motion", "disk"),
    "stream": room("profiles motion monitoring events store.rows bundle.manifest clock"),
    "bundle": room("", "disk", "randomness"),
    "inference": room("bundle motion", "runtime", "threads"),
    "monitoring": room("motion bundle.manifest"),
    "events": room(),
    "asyncapi": room("events"),
    "store": room("events clock", "disk", "event loop", "threads"),
    "sync": room("store events clock", "event loop", "network", "threads", "disk", "randomness"),
    "control": room("store bundle events"),
    "local": room("control health", "event loop", "network", "disk"),
    "commands": room("ble link local config control", "event loop"),
    "client": room("events", "network", "threads", "event loop"),
    "health": room("events", "network", "disk"),
    "web": room("control health store", "event loop", "network"),
    "config": room("store sync stream monitoring profiles motion link", "disk"),
    "pipeline": room("stream store.rows motion profiles clock", "event loop"),
    "daemon": Room(frozenset(), ALL - {"clock"}),
    "cli": Room(frozenset(), ALL - {"clock"}),
    "demo": Room(frozenset(), ALL),
}
"""events are pydantic models, so whoever declares settings or models may import pydantic; it touches nothing."""

EVERY_ROOM = {"daemon", "cli", "demo"}
PURE_ROOMS = {name for name, rules in ROOMS.items() if not rules.touch} - {"errors"}
LOOP_TIME_ROOMS = {"ble", "sync", "daemon", "demo"}
MODELS_ALLOWED = {"motion", "bundle", "inference", "monitoring", "recording", "errors"}
OTHER_PACKAGES = {  # package: rooms of gateway that it may import
    "converter": MODELS_ALLOWED | {"console"},
    "firmware_sim": {"profiles", "motion", "recording", "errors", "clock", "console"},
    "models": MODELS_ALLOWED,
}
BETWEEN_PACKAGES = {  # which package may import which other
    "gateway": set(),
    "converter": {"gateway"},
    "firmware_sim": {"gateway"},
    "models": {"gateway", "converter", "firmware_sim"},
}
LATE = {  # imported where it is used, never with the module: heavy, or an extra
    "amqtt", "bumble", "keras", "matplotlib", "onnx", "onnxruntime", "openpyxl", "pyarrow", "rich", "scipy",
    "sqlite_utils", "tensorflow", "tf_keras", "tflite_runtime", "tomlkit",
}  # fmt: skip
LATE_EXCEPT = (  # modules that are themselves imported late, for what they are made of
    ("gateway/ble/bumble", "bumble"),
    ("gateway/demo/broker.py", "amqtt"),
    ("firmware_sim/radio.py", "bumble"),
    ("firmware_sim/peripheral.py", "bumble"),
    ("firmware_sim/pairing.py", "bumble"),
    ("firmware_sim/transport.py", "bumble"),
    ("firmware_sim/central.py", "bumble"),
)
BAD_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


@dataclass(frozen=True)
class Import:
    module: str
    names: tuple[str, ...]
    line: int
    late: bool
    """Not with the module, but when a function runs."""


@dataclass(frozen=True)
class Module:
    path: Path
    """Relative to the tree's root."""
    tree: ast.Module
    text: str

    @property
    def package(self) -> str:
        return self.path.parts[0]

    @property
    def room(self) -> str:
        """Of gateway: the folder or the single module; empty for gateway/__init__.py and __main__.py."""
        if len(self.path.parts) > 2:
            return self.path.parts[1]
        return "" if self.path.stem.startswith("__") else self.path.stem

    def imports(self) -> Iterator[Import]:
        inside = {id(inner) for node in ast.walk(self.tree) if _runs_later(node) for inner in ast.walk(node)}
        for node in ast.walk(self.tree):
            late = id(node) in inside
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, (), node.lineno, late)
            elif isinstance(node, ast.ImportFrom):
                # "from gateway import clock" names a module as well as "from gateway.clock import Instant"
                names = tuple(alias.name for alias in node.names)
                if node.module in PACKAGES:
                    for name in names:
                        yield Import(f"{node.module}.{name}", (), node.lineno, late)
                else:
                    yield Import("." * node.level + (node.module or ""), names, node.lineno, late)


def _runs_later(node: ast.AST) -> bool:
    """A function's body, and what only a type checker reads."""
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def modules(root: Path) -> list[Module]:
    found = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            text = file.read_text()
            found.append(Module(file.relative_to(root), ast.parse(text, str(file)), text))
    return found


# The rules.


def wrong_arrows(root: Path) -> Iterator[str]:
    """A room imports only what it may; so do the packages."""
    for module in modules(root):
        for found in module.imports():
            where = f"{module.path}:{found.line}"
            package, _, inner = found.module.partition(".")
            if found.module.startswith("."):
                yield f"{where}: relative import"
            elif package not in PACKAGES or package == "gateway" == module.package:
                if package == "gateway" and not _may_import(module, inner):
                    yield f"{where}: {module.room or 'gateway'} may not import {found.module}"
            elif package == module.package:
                continue
            elif module.package == "gateway":
                demo = module.room == "demo" or module.path.as_posix() == "gateway/cli/demo.py"
                if not (demo and found.late and package == "firmware_sim"):
                    yield f"{where}: gateway may not import {package}"
            elif package not in BETWEEN_PACKAGES[module.package]:
                yield f"{where}: {module.package} may not import {package}"
            elif package == "gateway" and inner.split(".")[0] not in OTHER_PACKAGES[module.package]:
                yield f"{where}: {module.package} may not import {found.module}"


def _may_import(module: Module, inner: str) -> bool:
    if module.path.as_posix() == "gateway/demo/account.py":  # judges the others, so it shares nothing with them
        return inner.startswith("demo")
    target = inner.split(".")[0]
    if target in ("errors", module.room) or module.room in EVERY_ROOM:
        return True
    if not module.room:
        return target == "cli"
    allowed = ROOMS[module.room].imports
    return target in allowed or any(inner == name or inner.startswith(f"{name}.") for name in allowed)


def unknown_rooms(root: Path) -> Iterator[str]:
    for module in modules(root):
        if module.package == "gateway" and module.room and module.room not in ROOMS:
            yield f"{module.path}: no room of this name; give it a line here and in docs/architecture.md"


def touched(root: Path) -> Iterator[str]:
    """A room touches only what it may; only clock reads a clock; pure rooms take randomness as an argument."""
    for module in modules(root):
        if module.package != "gateway" or module.room not in ROOMS:
            continue
        may = ROOMS[module.room].touch
        for found in module.imports():
            for what, names in TOUCH.items():
                if found.module.split(".")[0] in names and what not in may:
                    yield f"{module.path}:{found.line}: {module.room} may not touch {what} ({found.module})"
            if found.module == "gateway.clock" and module.room in PURE_ROOMS and set(found.names) != {"Instant"}:
                yield f"{module.path}:{found.line}: {module.room} is told the time; of clock it may import Instant"
        if module.room in PURE_ROOMS:
            yield from _impure_calls(module)
        yield from _clock_reads(module)


def _impure_calls(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("open", "print", "input") or re.match(r"(np|numpy)\.random\.\w+$", name):
            yield f"{module.path}:{node.lineno}: {module.room} is pure; {name}() is not"


def _clock_reads(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or module.room == "clock":
            continue
        name = ast.unparse(node.func)
        reads = re.search(r"\b(datetime|date)\.(now|utcnow|today)$", name)
        loop = re.search(r"loop(\(\))?\.time$", name) and module.room not in LOOP_TIME_ROOMS
        if reads or loop:
            yield f"{module.path}:{node.lineno}: {name}() reads a clock; only gateway/clock.py does"


def early_imports(root: Path) -> Iterator[str]:
    """Heavy and optional packages come in inside the functions that use them; bleak only in gateway/ble."""
    for module in modules(root):
        path = module.path.as_posix()
        for found in module.imports():
            name = found.module.split(".")[0]
            excepted = any(path.startswith(start) and name == own for start, own in LATE_EXCEPT)
            if name in LATE and not found.late and not excepted:
                yield f"{path}:{found.line}: import {name} inside the function that uses it"
            if name in ("bleak", "dbus_fast") and not path.startswith("gateway/ble/"):
                yield f"{path}:{found.line}: {name} is for gateway/ble"


def bad_names(root: Path) -> Iterator[str]:
    """A module's name says what lives there."""
    for module in modules(root):
        for part in (*module.path.parts[:-1], module.path.stem):
            if BAD_NAMES & set(part.split("_")):
                yield f"{module.path}: the name {part!r} says nothing"


STRANGERS = {
    "a path of somebody's machine": re.compile(r"(?<![\w.~/-])/(?:work|root|home/\w+|Users/\w+)/"),
    "an issue by its number": re.compile(r"\bissues? #?\d+\b|(?<![\w&/])#\d+\b(?!\])", re.IGNORECASE),
    "a fact by its number": re.compile(r"\bfacts? \d+\b", re.IGNORECASE),
    "a package registry's or mirror's address": re.compile(r"https?://[^\s/]*(?:pypi|pythonhosted|mirror)", re.I),
}
TEXTS = {".py", ".md", ".toml", ".txt", ".json", ".service", ".conf", ".yml", ".yaml", ".sh", ""}
SCANNED = (*PACKAGES, "docs", "systemd", "tests", ".ci")


def strange_words(root: Path) -> Iterator[str]:
    """The project speaks of itself alone, so that it reads the same wherever it is cloned."""
    files = [file for folder in SCANNED for file in sorted((root / folder).rglob("*")) if file.is_file()]
    files += [file for file in sorted(root.iterdir()) if file.is_file()]
    for file in files:
        if file.suffix not in TEXTS or file.name.startswith(".git") or "__pycache__" in file.parts:
            continue
        if file.resolve() == Path(__file__).resolve():
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            for what, pattern in STRANGERS.items():
                if pattern.search(line):
                    yield f"{file.relative_to(root)}:{number}: {what}"


def broken_links(root: Path) -> Iterator[str]:
    """A page's links to other files of the project lead somewhere."""
    pages = [*root.glob("*.md"), *(page for folder in ("docs", *PACKAGES) for page in (root / folder).rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                yield f"{page.relative_to(root)}: {target} is not there"


RULES = (wrong_arrows, unknown_rooms, touched, early_imports, bad_names, strange_words, broken_links)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule):
    assert list(rule(ROOT)) == []


def test_the_architecture_page_knows_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {module.room for module in modules(ROOT) if module.package == "gateway"} - {""}
    assert [name for name in sorted(rooms) if not re.search(rf"(gateway/|, ){name}(\.py)?\b", page)] == []


# Planted violations: a rule that finds nothing in them would find nothing anywhere.

PLANTED = [
    (wrong_arrows, "gateway/profiles/x.py", "from gateway.store import Store"),
    (wrong_arrows, "gateway/bundle/x.py", "def f():\n    from gateway import inference"),
    (wrong_arrows, "gateway/stream/x.py", "import gateway.store.writer"),
    (wrong_arrows, "gateway/store/x.py", "from gateway.bundle import load_bundle"),
    (wrong_arrows, "gateway/sync/x.py", "import converter"),
    (wrong_arrows, "gateway/daemon.py", "def f():\n    import firmware_sim"),
    (wrong_arrows, "gateway/demo/play.py", "import firmware_sim.cli"),
    (wrong_arrows, "gateway/demo/account.py", "from gateway.motion.windows import WindowShape"),
    (wrong_arrows, "gateway/motion/x.py", "from .samples import Block"),
    (wrong_arrows, "firmware_sim/x.py", "from gateway.store import Store"),
    (wrong_arrows, "firmware_sim/x.py", "import converter"),
    (wrong_arrows, "converter/x.py", "from gateway.sync import Publisher"),
    (unknown_rooms, "gateway/attic/x.py", ""),
    (touched, "gateway/profiles/x.py", "import asyncio"),
    (touched, "gateway/link/x.py", "def f():\n    import time"),
    (touched, "gateway/motion/x.py", "from pathlib import Path"),
    (touched, "gateway/monitoring/x.py", "import numpy as np\nrng = np.random.default_rng(1)"),
    (touched, "gateway/monitoring/x.py", "import random"),
    (touched, "gateway/stream/x.py", "from gateway.clock import Clock"),
    (touched, "gateway/motion/x.py", "open('x')"),
    (touched, "gateway/store/x.py", "import socket"),
    (touched, "gateway/sync/x.py", "from datetime import datetime\ndatetime.now()"),
    (touched, "gateway/store/x.py", "import asyncio\nasyncio.get_running_loop().time()"),
    (touched, "gateway/daemon.py", "import time"),
    (touched, "gateway/bundle/x.py", "import ai_edge_litert.interpreter"),
    (early_imports, "gateway/daemon.py", "import bumble.device"),
    (early_imports, "gateway/recording.py", "if True:\n    import openpyxl"),
    (early_imports, "converter/x.py", "import tensorflow as tf"),
    (early_imports, "gateway/cli/run.py", "def f():\n    import bleak"),
    (bad_names, "gateway/store/utils.py", ""),
    (bad_names, "converter/file_helpers.py", ""),
    (strange_words, "docs/x.md", "see /" + "work/main"),
    (strange_words, "gateway/x.py", "# as issue" + " 3 says"),
    (strange_words, "README.md", "fact" + " 12"),
    (broken_links, "docs/x.md", "see [there](there.md#part) and [this](x.md) and [web](https://example.org)"),
    (strange_words, "constraints.txt", "a @ https://" + "pypi.org/a.whl"),
]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_found(tmp_path, rule, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert len(list(rule(tmp_path))) == 1


ALLOWED = [
    ("gateway/stream/x.py", "from gateway.store.rows import JournalRow\nfrom gateway.clock import Instant"),
    ("gateway/demo/x.py", "import asyncio, time\ndef f():\n    import firmware_sim.cli\n    import rich"),
    ("gateway/cli/x.py", "from gateway.daemon import run_daemon"),
    ("gateway/ble/bumble_client.py", "import bumble.device, bleak"),
    ("gateway/sync/x.py", "import asyncio\nasyncio.get_running_loop().time()"),
    ("firmware_sim/x.py", "from gateway.recording import read_recording"),
    ("docs/x.md", "# 1 heading\nsee [1] and /var/lib/fidget-gateway/gateway.db and ../shared/data"),
]


@pytest.mark.parametrize(("path", "text"), ALLOWED, ids=[path for path, _ in ALLOWED])
def test_what_is_allowed_is_not_reported(tmp_path, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert [found for rule in RULES for found in rule(tmp_path)] == []


def loaded_after(statement: str) -> set[str]:
    """The packages that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_daemon_starts_without_what_it_does_not_need():
    assert loaded_after("import gateway.daemon, gateway.cli.run") & LATE == set()


def test_help_is_quick():
    assert loaded_after("import gateway.cli") & {"numpy", "pydantic", "asyncio"} == set()
