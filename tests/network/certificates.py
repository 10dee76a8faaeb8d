"""Certificates for the tests, made anew in each run: no key lies in the repository."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidestep.connection import TLS


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, of what it has signed, and of a stranger."""

    authority: Path
    server: Path
    client: Path
    other_authority: Path
    stranger: Path

    def server_side(self, **more: object) -> TLS:
        return TLS(self.server, **more)  # type: ignore[arg-type]

    def client_side(self, **more: object) -> TLS:
        return TLS(cafile=self.authority, **more)  # type: ignore[arg-type]

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    trustme = pytest.importorskip("trustme", reason="trustme makes the certificates of the tests")
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = trustme.CA(), trustme.CA()
    files = Certificates(
        *(folder / name for name in ("ca", "server", "client", "other", "strange"))
    )
    authority.cert_pem.write_to_path(str(files.authority))
    other.cert_pem.write_to_path(str(files.other_authority))
    names = ("localhost", "127.0.0.1", "::1", "the-listener")
    authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(files.server))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(files.client))
    other.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(files.stranger))
    return files
