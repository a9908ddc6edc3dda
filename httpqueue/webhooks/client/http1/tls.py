"""The TLS settings of the client."""

import ssl
from pathlib import Path

import certifi


def client_context() -> ssl.SSLContext:
    """Create a context that checks certificate and host name, and asks for HTTP/1.1.

    It trusts the system's certificates, or those that SSL_CERT_FILE and SSL_CERT_DIR name (OpenSSL reads
    both). If there are none, as in a minimal Debian, it trusts certifi's. Creating it takes some 20 ms, so
    share it.
    """
    context = ssl.create_default_context()
    if not _has_certificates(context):
        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _has_certificates(context: ssl.SSLContext) -> bool:
    """Whether OpenSSL has loaded certificates, or has a directory of them to look in."""
    directory = ssl.get_default_verify_paths().capath
    return context.cert_store_stats()["x509_ca"] > 0 or (
        directory is not None and any(Path(directory).iterdir())
    )
