"""Who passes, who is who, and who may manage."""

from __future__ import annotations

import pytest

from api.access import Gate, Presented, bearer, is_loopback, require_admin
from backends.base import Caller
from config import KeyConfig
from errors import AuthenticationFailed, Forbidden

KEYS = (
    KeyConfig("alpha", "ann"),
    KeyConfig("beta", role="admin"),
    KeyConfig("gamma", "batch", priority="low"),
    KeyConfig("schlüssel", "ü"),
)


def test_each_key_stands_for_its_holder() -> None:
    gate = Gate(KEYS)
    ann = gate.identify(Presented("Bearer alpha", "192.0.2.1"))
    assert (ann.caller, ann.admin, ann.key) == (Caller("ann"), False, "ann")
    assert gate.identify(Presented("Bearer alpha", low_priority=True)).caller == Caller("ann", True)
    assert gate.identify(Presented("Bearer gamma")).caller == Caller("batch", True)
    assert gate.identify(Presented("bearer schlüssel")).caller == Caller("ü")


def test_a_nameless_key_is_named_by_a_hash_that_does_not_give_it_away() -> None:
    admin = Gate(KEYS).identify(Presented("Bearer beta"))
    assert admin.admin
    assert admin.key == admin.caller.name == "key-f44e64e7"
    assert "beta" not in admin.key


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer  ", "Basic alpha", "alpha", "Bearer Alpha"]
)
def test_nobody_passes_without_a_known_key(authorization: str | None) -> None:
    gate = Gate(KEYS)
    with pytest.raises(AuthenticationFailed):
        gate.identify(Presented(authorization, "127.0.0.1", local=True))
    visitor = gate.identify(Presented(authorization, "127.0.0.1", local=True), public=True)
    assert (visitor.caller, visitor.admin) == (Caller("127.0.0.1"), False)


def test_without_keys_everyone_passes_under_their_address() -> None:
    gate = Gate(())
    for authorization in (None, "Bearer x", "Basic x", "nonsense"):
        assert gate.identify(Presented(authorization, "192.0.2.1")).caller == Caller("192.0.2.1")
    assert gate.identify(Presented()).caller == Caller("local")


def test_managing_takes_the_admin_role_or_without_keys_this_machine() -> None:
    keyed = Gate(KEYS, open_admin=True)
    require_admin(keyed.identify(Presented("Bearer beta", "192.0.2.1")))
    with pytest.raises(Forbidden, match="admin role"):
        require_admin(keyed.identify(Presented("Bearer alpha", "127.0.0.1", local=True)))
    keyless = Gate(())
    require_admin(keyless.identify(Presented(peer="127.0.0.1", local=True)))
    with pytest.raises(Forbidden, match="open_admin"):
        require_admin(keyless.identify(Presented(peer="192.0.2.1")))
    require_admin(Gate((), open_admin=True).identify(Presented(peer="192.0.2.1")))


def test_bearer_and_loopback_read_what_there_is() -> None:
    assert bearer("Bearer  a b ") == "a b"
    assert bearer("BEARER x") == "x"
    assert [is_loopback(p) for p in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo")] == [
        True
    ] * 5
    assert [is_loopback(p) for p in ("192.0.2.1", "::ffff:192.0.2.1", "localhost", "", None)] == [False] * 5
