"""Keys, roles and who is who, for HTTP and gRPC alike; knows neither."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import Caller
from config import KeyConfig
from errors import AuthenticationFailed, Forbidden


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks and what they may do. `key` is the key's name, empty when none was needed."""

    caller: Caller
    admin: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request shows of itself.

    `local` is the door's word that a person or program on this very machine asks: from loopback, with no
    sign of a proxy or of another site's web page in between.
    """

    authorization: str | None = None
    peer: str | None = None
    low_priority: bool = False
    local: bool = False


class Gate:
    """Decides who passes. Without keys everyone does."""

    def __init__(self, keys: Sequence[KeyConfig], open_admin: bool = False) -> None:
        self._keys = [(_digest(key.key), key) for key in keys]
        self._open_admin = open_admin

    def identify(self, shown: Presented, *, public: bool = False) -> Identity:
        """Return who asks. Raises AuthenticationFailed, except for a `public` door."""
        if not self._keys:
            return Identity(_at_address(shown), admin=self._open_admin or shown.local)
        token = bearer(shown.authorization)
        if token is not None and (known := self._find(token)) is not None:
            return _holder_of(known, shown)
        if public:
            return Identity(_at_address(shown))
        raise AuthenticationFailed(
            "No API key given; send it as 'Authorization: Bearer KEY'"
            if token is None
            else "The API key is not known here"
        )

    def _find(self, token: str) -> KeyConfig | None:
        """Return the key of `token`, comparing with all of them, each in constant time."""
        digest, found = _digest(token), None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


def require_admin(identity: Identity) -> None:
    """Raise Forbidden unless `identity` may manage this server."""
    if not identity.admin:
        raise Forbidden(
            "This needs a key with the admin role"
            if identity.key
            else "Without keys, managing works from this machine only; see keys and open_admin in config.yaml"
        )


def bearer(authorization: str | None) -> str | None:
    """Return the token of an Authorization value, None when there is none."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def is_loopback(peer: str | None) -> bool:
    """Whether `peer` is an address of this very machine's loopback."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def key_name(key: KeyConfig) -> str:
    """Return what stands for `key` in logs: its name, else a short hash, never the key."""
    return key.name or f"key-{_digest(key.key).hex()[:8]}"


def _holder_of(key: KeyConfig, shown: Presented) -> Identity:
    name, low = key_name(key), shown.low_priority or key.priority == "low"
    return Identity(Caller(name, low), admin=key.role == "admin", key=name)


def _at_address(shown: Presented) -> Caller:
    return Caller(shown.peer or "local", shown.low_priority)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
