"""docs/bundle.md is the manifest's reference, so it names every field."""

from pathlib import Path

import pytest

from gateway.bundle import manifest

DOCS = (Path(__file__).parents[3] / "docs" / "bundle.md").read_text()
PARTS = [part for part in vars(manifest).values() if isinstance(part, type) and issubclass(part, manifest._Part)]


@pytest.mark.parametrize("part", PARTS, ids=[part.__name__ for part in PARTS])
def test_every_field_of_the_manifest_is_in_the_docs(part):
    assert {name for name in part.model_fields if f"`{name}`" not in DOCS} == set()
