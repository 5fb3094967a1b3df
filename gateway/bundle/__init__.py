"""The model bundle: manifest.json, the .tflite files it names, a model card, self-test windows; a folder or a .zip.

No runtime here.
"""

from gateway.bundle.errors import BundleRejected, TargetRejected
from gateway.bundle.manifest import FeatureReference, Manifest
from gateway.bundle.reading import Bundle, load_bundle
from gateway.bundle.writing import check_target, pack_bundle, write_bundle

__all__ = [
    "Bundle",
    "BundleRejected",
    "FeatureReference",
    "Manifest",
    "TargetRejected",
    "check_target",
    "load_bundle",
    "pack_bundle",
    "write_bundle",
]
