"""Certificates for brokers at 127.0.0.1 and for gateways."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PEM, PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()


def keep(
    folder: Path, name: str, certificate: x509.Certificate, key_name: str, key: ec.EllipticCurvePrivateKey
) -> None:
    """Replaced as a whole, as whoever renews certificates does; the key is its owner's alone."""
    for file, content in (
        (folder / f"{key_name}.pem", key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)),
        (folder / f"{name}.pem", certificate.public_bytes(PEM)),
    ):
        new = file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.replace(file)


class Authority:
    """Whom a broker or a gateway may trust."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, authority=True)

    def write(self, folder: Path, name: str, key_name: str) -> None:
        keep(folder, name, self.certificate, key_name, self.key)

    def issue(self, folder: Path, name: str) -> None:
        """name.pem, and its key in name.key.pem."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        keep(folder, name, self._sign(subject, key, authority=False), f"{name}.key", key)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder(
                self.name,
                subject,
                key.public_key(),
                x509.random_serial_number(),
                now - datetime.timedelta(hours=1),
                now + datetime.timedelta(days=1),
            )
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
