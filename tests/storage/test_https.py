"""Test token credentials over HTTPS against a real Azurite with its own certificate."""

import base64
import ipaddress
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import ContentSettings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pneumonia.errors import AccessError, TransferError
from pneumonia.storage.client import Place, connect
from pneumonia.storage.pull import pull
from pneumonia.storage.push import push

from .conftest import ACCOUNT, running_azurite


class Token:
    """A credential with tokens like those of Entra ID; the emulator checks all but the signature."""

    def __init__(self, audience: str = "https://storage.azure.com") -> None:
        self.audience = audience

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        now = int(time.time())
        body = {
            "aud": self.audience,
            "iss": "https://sts.windows.net/tenant/",
            "nbf": now - 60,
            "iat": now,
            "exp": now + 3600,
        }
        parts = [{"alg": "RS256", "typ": "JWT"}, body]
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
        return AccessToken(".".join([*encoded, "c2lnbmF0dXJl"]), now + 3600)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate of 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, secret


@pytest.fixture(scope="module")
def address(certificate):
    with running_azurite("--cert", str(certificate[0]), "--key", str(certificate[1]), "--oauth", "basic") as port:
        yield f"https://127.0.0.1:{port}/{ACCOUNT}"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("pneumonia.storage.client.PAUSES_S", (0.01,))


def test_token_pushes_and_pulls_over_https(address, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    service = connect(address, credential=Token())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_bytes(b"over https")
    assert push(service, tmp_path / "data", Place.parse("secure")).moved == 1
    assert pull(service, Place.parse("secure"), tmp_path / "mirror").moved == 1
    assert (tmp_path / "mirror" / "a.txt").read_bytes() == b"over https"
    settings = service.get_container_client("secure").get_blob_client("a.txt").get_blob_properties().content_settings
    assert isinstance(settings, ContentSettings)
    assert settings.content_type == "text/plain"


def test_token_for_something_else_is_refused_by_name(address, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    service = connect(address, credential=Token("https://elsewhere.example"))
    with pytest.raises(AccessError, match=r"Azure refuses to list secure"):
        pull(service, Place.parse("secure"), tmp_path / "mirror")


def test_certificate_that_no_one_vouches_for_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with pytest.raises(TransferError, match="the connection fails"):
        pull(connect(address, credential=Token()), Place.parse("secure"), tmp_path / "mirror")


def test_failure_of_the_default_credential_is_named(address, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")  # the whole chain would look for a VM's service
    with pytest.raises(AccessError, match=r"az login"):
        pull(connect(address, environ={}), Place.parse("secure"), tmp_path / "mirror")
