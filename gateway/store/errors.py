"""What the store refuses or cannot do."""

from pathlib import Path

from gateway.errors import GatewayError, InputRejected


class StoreTooNew(InputRejected):
    """The database was written by a later version of this program; it has not been touched."""

    hint = "Run the version that wrote it (or a later one), or give another [store] path."

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(f"store {path}: schema version {found}, this program knows up to {known}")


class StoreTooOld(InputRejected):
    """No daemon of this version has run on the database yet; only a daemon changes it."""

    hint = "Start the daemon once (gateway run, or its service): it brings a database of any size up to date at once."

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(f"store {path}: schema version {found}, this program reads version {known}")


class StoreForeign(InputRejected):
    """The file is another program's SQLite database."""

    hint = "Give another [store] path: this file is left as it is."

    def __init__(self, path: Path) -> None:
        super().__init__(f"store {path}: an SQLite database that another program made")


class StoreCorrupt(GatewayError):
    """SQLite cannot read the file."""

    hint = (
        "Move the file and those beside it (-wal, -shm) away and start again: wearables send what has not been "
        "acknowledged to them; `sqlite3 FILE .recover` may save the rest."
    )

    def __init__(self, path: Path, detail: object) -> None:
        super().__init__(f"store {path}: {detail}")


class StoreUnavailable(GatewayError):
    """The file cannot be opened or written."""

    hint = "The folder must exist or be creatable, be writable by this user, and its disk must have room."

    def __init__(self, path: Path, detail: object) -> None:
        super().__init__(f"store {path}: {detail}")


class StoreInUse(GatewayError):
    """Another process writes to this store."""

    hint = "One gateway to a store: stop the other one, or give this one another [store] path."

    def __init__(self, path: Path) -> None:
        super().__init__(f"store {path}: in use by another process")


class StoreFull(GatewayError):
    """What waits to be written has reached its bound. Nothing was taken; whoever submits keeps it."""

    hint = "The medium is slow, full or failing; see the store's state."

    def __init__(self, waiting_bytes: int, bytes_max: int) -> None:
        super().__init__(f"store: {waiting_bytes} bytes wait to be written, of at most {bytes_max}")


class StoreBounded(StoreFull):
    """The store is above its bounds and its policy is to drop nothing."""

    hint = "Wearables keep their samples until events are acknowledged, or [store] allows more."

    def __init__(self, path: Path) -> None:
        GatewayError.__init__(self, f"store {path}: full to its bounds, and when_full is stop_backlog")


class StoreFailed(GatewayError):
    """What was submitted could not be written."""

    hint = "Wearables keep what has not been acknowledged to them. See whether the medium is full or failing."
