"""Encrypts the secrets that sign webhooks, so that nobody reads them in Redis or in a copy of its files.

A sealed secret is text: `sealed:1:` and base64 of nonce, ciphertext and tag of AES-256-GCM (NIST SP 800-38D).
The application's name is authenticated with it, so that nobody can move a secret to another application.
"""

import binascii
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from httpqueue.errors import HttpqueueError, StartError

KEY_BYTES: Final = 32
_KEY_FILE: Final = "secrets.key"
_SEALED: Final = "sealed:1:"
_NONCE_BYTES: Final = 12
_KNOWN: Final = 10_000
"""How many opened secrets are kept in memory, so that each webhook does not decrypt its own."""


class NoSecretsKeyError(HttpqueueError):
    """This process has no key to encrypt secrets with."""


class SealedSecretError(HttpqueueError):
    """A secret was encrypted with a key that this process does not have."""


class SecretBox:
    """Seals with the first key, opens with any of them. Without keys it only returns what is not sealed."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._ciphers = tuple(map(AESGCM, keys))
        self._opened: dict[tuple[str, str], str] = {}

    def seal(self, application: str, secret: str) -> str:
        """The sealed form of a secret; a sealed one is returned as it is. Raises NoSecretsKeyError."""
        if secret.startswith(_SEALED):
            return secret
        if not self._ciphers:
            raise NoSecretsKeyError
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[0].encrypt(nonce, secret.encode(), application.encode())
        return _SEALED + binascii.b2a_base64(nonce + sealed, newline=False).decode()

    def open(self, application: str, sealed: str) -> str:
        """The secret. One that was stored before there were keys is returned as it is.

        Raises SealedSecretError.
        """
        if not sealed.startswith(_SEALED):
            return sealed
        known = self._opened.get((application, sealed))
        if known is not None:
            return known
        secret = self._open(application, sealed, self._ciphers)
        if len(self._opened) >= _KNOWN:
            self._opened.clear()
        self._opened[application, sealed] = secret
        return secret

    def is_current(self, application: str, sealed: str) -> bool:
        """Whether it is sealed with the first key, or cannot be sealed at all. Raises SealedSecretError."""
        if not sealed.startswith(_SEALED):
            return not self._ciphers
        try:
            self._open(application, sealed, self._ciphers[:1])
        except SealedSecretError:
            self.open(application, sealed)
            return False
        return True

    def _open(self, application: str, sealed: str, ciphers: Sequence[AESGCM]) -> str:
        try:
            raw = binascii.a2b_base64(sealed.removeprefix(_SEALED), strict_mode=True)
        except ValueError as error:
            raise SealedSecretError from error
        for cipher in ciphers:
            try:
                return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], application.encode()).decode()
            except (InvalidTag, ValueError):  # ValueError: it is too short
                continue
        raise SealedSecretError


def random_key() -> bytes:
    """A new key."""
    return os.urandom(KEY_BYTES)


def key_beside(data_dir: Path) -> bytes:
    """The key in the data directory of the embedded server, which is made if there is none (mode 0600).

    Call this while the server runs: it then has the directory for itself. Raises StartError.
    """
    path = data_dir / _KEY_FILE
    try:
        if not path.exists():
            _write(path, binascii.b2a_base64(random_key()))
        key = binascii.a2b_base64(path.read_bytes().strip(), strict_mode=True)
    except OSError as error:
        raise StartError(f"cannot use {path} ({error.strerror}): make it readable and writable") from error
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise StartError(f"{path} is no key: restore it from a copy, or set setting `secrets_key`")
    return key


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
