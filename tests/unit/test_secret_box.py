"""Signing secrets are sealed: read by who has the key, and moved by nobody."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.errors import StartError
from httpqueue.storage.secret_box import (
    KEY_BYTES,
    NoSecretsKeyError,
    SealedSecretError,
    SecretBox,
    key_beside,
    random_key,
)

OLD, NEW = bytes(KEY_BYTES), bytes(range(KEY_BYTES))
TEXT = st.text(st.characters(codec="utf-8"))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@given(TEXT, TEXT)
def test_what_is_sealed_can_be_opened(application: str, secret: str) -> None:
    """By another process with the same key; a sealed secret is not sealed twice."""
    sealed = SecretBox([NEW]).seal(application, f"whsec_{secret}")
    assert SecretBox([OLD]).seal(application, sealed) == sealed
    assert SecretBox([NEW]).open(application, sealed) == f"whsec_{secret}"


def test_nothing_of_it_is_seen() -> None:
    """Neither the secret nor that two are the same, and not in a repr."""
    box = SecretBox([NEW])
    first, second = (box.seal("shop", SECRET) for _ in range(2))
    assert first != second
    assert box.open("shop", first) == SECRET
    assert SECRET.removeprefix("whsec_") not in first + repr(box)


def test_it_belongs_to_one_application() -> None:
    """Who can write to Redis cannot have another application's webhooks signed with it."""
    box = SecretBox([NEW])
    sealed = box.seal("shop", SECRET)
    box.open("shop", sealed)
    with pytest.raises(SealedSecretError):
        box.open("blog", sealed)


@pytest.mark.parametrize("damage", ["", "A", "é", "AAAA", "A" * 24, "A" * 80])
def test_what_cannot_be_opened(damage: str) -> None:
    """Another key, or damaged text: one kind of error, which has none of it."""
    sealed = SecretBox([NEW]).seal("shop", SECRET)
    for box, text in ((SecretBox([NEW]), f"sealed:1:{damage}"), (SecretBox([OLD]), sealed)):
        with pytest.raises(SealedSecretError) as caught:
            box.open("shop", text)
        assert text not in str(caught.value)


def test_keys_are_rotated() -> None:
    """The first key seals, all of them open; what an older one sealed is to be sealed again."""
    sealed = SecretBox([OLD]).seal("shop", SECRET)
    box = SecretBox([NEW, OLD])
    assert box.open("shop", sealed) == SECRET
    assert not box.is_current("shop", sealed)
    again = box.seal("shop", SECRET)
    assert box.is_current("shop", again)
    assert SecretBox([NEW]).open("shop", again) == SECRET
    with pytest.raises(SealedSecretError):
        SecretBox([NEW]).is_current("shop", sealed)


def test_without_a_key() -> None:
    """Nothing is stored as it is; what was stored so before there were keys goes on signing."""
    box = SecretBox()
    with pytest.raises(NoSecretsKeyError):
        box.seal("shop", SECRET)
    assert box.open("shop", SECRET) == SECRET
    assert box.is_current("shop", SECRET)
    assert not SecretBox([NEW]).is_current("shop", SECRET)


def test_memory_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened secrets are kept, but only so many."""
    monkeypatch.setattr("httpqueue.storage.secret_box._KNOWN", 2)
    box = SecretBox([NEW])
    for number in range(5):
        assert box.open("shop", box.seal("shop", f"whsec_{number}")) == f"whsec_{number}"
    assert len(box._opened) <= 2


def test_a_key_of_its_own(tmp_path: Path) -> None:
    """Made once, for its owner alone, even where an earlier process died while it wrote it."""
    (tmp_path / "secrets.new").write_bytes(b"half")
    key = key_beside(tmp_path)
    assert len(key) == KEY_BYTES
    assert key == key_beside(tmp_path) != random_key()
    [path] = tmp_path.iterdir()
    assert path.name == "secrets.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_that_is_damaged(tmp_path: Path) -> None:
    """Nobody makes a new one in its place: it would read none of the secrets."""
    for content in (b"", b"short", b"?" * 44):
        (tmp_path / "secrets.key").write_bytes(content)
        with pytest.raises(StartError, match="is no key"):
            key_beside(tmp_path)
    (tmp_path / "secrets.key").unlink()
    (tmp_path / "secrets.key").mkdir()
    with pytest.raises(StartError, match="cannot use"):
        key_beside(tmp_path)
