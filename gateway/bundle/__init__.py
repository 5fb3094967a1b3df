"""The model bundle: a folder with manifest.json, the .tflite files it names and a model card. No runtime here."""

from gateway.bundle.errors import BundleRejected, TargetRejected
from gateway.bundle.manifest import FeatureReference, Manifest
from gateway.bundle.reading import Bundle, load_bundle
from gateway.bundle.writing import check_target, write_bundle

__all__ = [
    "Bundle",
    "BundleRejected",
    "FeatureReference",
    "Manifest",
    "TargetRejected",
    "check_target",
    "load_bundle",
    "write_bundle",
]
