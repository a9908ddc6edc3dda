"""What the client demands of a TLS connection."""

import ssl
from pathlib import Path

import certifi


def client_context() -> ssl.SSLContext:
    """Certificate and name are checked; HTTP/1.1 is asked for.

    The system's certificates count, or those that SSL_CERT_FILE and SSL_CERT_DIR name (OpenSSL reads both).
    Where there are none at all, as in a minimal Debian, certifi's list counts. Reading them takes some 20 ms:
    share it.
    """
    context = ssl.create_default_context()
    if not _has_certificates(context):
        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _has_certificates(context: ssl.SSLContext) -> bool:
    """Whether OpenSSL has any, or a directory where it looks for them when it needs one."""
    directory = ssl.get_default_verify_paths().capath
    return context.cert_store_stats()["x509_ca"] > 0 or (
        directory is not None and any(Path(directory).iterdir())
    )
