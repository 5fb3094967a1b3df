"""What can be wrong with a bundle, and with the place where one shall be written."""

from pathlib import Path

from gateway.errors import InputRejected


class BundleRejected(InputRejected):
    """field: where in the bundle. found and expected: in the field's own terms."""

    hint = "Nothing of it was loaded. Fetch or build the bundle again and compare its digest."

    def __init__(
        self, field: str, found: object, expected: object, *, bundle: Path | None = None, hint: str | None = None
    ) -> None:
        where = f"bundle {bundle}" if bundle is not None else "bundle"
        super().__init__(f"{where}: {field}: found {found}, expected {expected}", hint=hint)
        self.field, self.found, self.expected = field, found, expected


class TargetRejected(InputRejected):
    """A bundle cannot be written there."""
