"""mDNS: announce this server on the LAN, find the module, notice when it comes back.

All of it is a courtesy: without a network, without multicast or without the zeroconf package the server runs
the same. zeroconf is imported where it is first used, in a thread: 4 MB, and half a second on the module.
IPv4 only, as the module and the default listening address are.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zeroconf import RecordUpdate, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

_LOGGER = logging.getLogger(__name__)

SERVICE_TYPES = ("_openai._tcp.local.", "_http._tcp.local.")

INTERFACES_EVERY = 10.0  # seconds; a cable plugged in or a new lease is announced after at most this long
CLOSE_TIMEOUT = 1.5  # seconds for the goodbye packets, three of them in 0.25 s; leaving is promised within 2
TYPE_A = 1  # an IPv4 address record (RFC 1035)
LABEL_BYTES = 63  # of one part of a DNS name (RFC 1035)

# Not announced: addresses that no other host can reach.
_PRIVATE_INTERFACES = ("lo", "docker", "veth", "br-", "virbr")


@asynccontextmanager
async def advertise(
    port: int, version: str, *, name: str | None = None, interfaces: Sequence[str] | None = None
) -> AsyncIterator[None]:
    """Announce `port` as _openai._tcp and _http._tcp while the block runs; entering never waits or raises.

    `name` is what people see, by default ``StackFlow bridge on HOSTNAME``; a second one of that name on the
    LAN becomes ``...-2``. `interfaces` are IPv4 addresses of this host, by default all that others can reach.
    Without any, or without multicast, one INFO line says so; an interface that comes later is announced then.
    Leaving takes the announcement back, in 0.3 s as a rule and within 2 s.
    """
    async with _background(_keep_open("announce this server", _announcing(port, version, name), interfaces)):
        yield


async def find_host(
    host: str, timeout: float = 1.0, *, interfaces: Sequence[str] | None = None
) -> str | None:
    """Return the IPv4 address of `host`, a name ending in .local, or None after `timeout` seconds.

    Never raises; None at once on a host without a network.
    """
    addresses = _addresses(interfaces)
    if not addresses:
        return None
    try:
        async with _open(addresses) as mdns:
            found = await _resolve(mdns.zeroconf, host, timeout)
    except Exception as err:  # noqa: BLE001 - whatever keeps mDNS from working, the answer is None
        _LOGGER.debug("mDNS cannot look for %s: %s", host, err)
        return None
    # A link-local address next to a routable one is the one that more often leads nowhere.
    found.sort(key=lambda address: ipaddress.ip_address(address).is_link_local)
    return found[0] if found else None


@asynccontextmanager
async def watch(
    host: str, seen: asyncio.Event, *, interfaces: Sequence[str] | None = None
) -> AsyncIterator[None]:
    """Set `seen` whenever mDNS tells an address of `host` while the block runs, as it does after a reboot.

    Does nothing for a host whose name does not end in .local, or without multicast. Never raises.
    """
    if not _fqdn(host).lower().endswith(".local."):
        yield
        return
    async with _background(_keep_open(f"watch for {host}", _watching(_fqdn(host), seen), interfaces)):
        yield


_Use = Callable[["AsyncZeroconf", list[str]], Coroutine[None, None, None]]


@asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=2.0)


async def _keep_open(purpose: str, use: _Use, interfaces: Sequence[str] | None) -> None:
    """Run `use` with mDNS on this host's addresses, anew whenever they change, until cancelled."""
    level = logging.INFO  # for the first failure; the repeats are DEBUG
    while True:
        addresses = _addresses(interfaces)
        try:
            if not addresses:
                raise OSError("no network interface")
            async with _open(addresses) as mdns:
                await use(mdns, addresses)
                level = logging.INFO
                while _addresses(interfaces) == addresses:  # noqa: ASYNC110 - the kernel has no event for it
                    await asyncio.sleep(INTERFACES_EVERY)
            continue
        except Exception as err:  # noqa: BLE001 - a courtesy must never take the server down
            _LOGGER.log(level, "cannot %s by mDNS, trying again quietly: %s", purpose, err)
            level = logging.DEBUG
        await asyncio.sleep(INTERFACES_EVERY)


@asynccontextmanager
async def _open(addresses: Sequence[str]) -> AsyncIterator[AsyncZeroconf]:
    # By name and in a thread, so that the import neither costs the start nor holds up the event loop.
    zeroconf = await asyncio.to_thread(importlib.import_module, "zeroconf.asyncio")
    if not _LOGGER.isEnabledFor(logging.DEBUG):
        # It reports a port in use or an unplugged cable as errors with tracebacks; one line of ours tells it.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    mdns: AsyncZeroconf = zeroconf.AsyncZeroconf(interfaces=list(addresses))
    try:
        yield mdns
    finally:
        with suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(mdns.async_close(), CLOSE_TIMEOUT)


def _announcing(port: int, version: str, name: str | None) -> _Use:
    async def use(mdns: AsyncZeroconf, addresses: list[str]) -> None:
        services = _services(port, version, name, addresses)
        await asyncio.gather(*(_register(mdns, service) for service in services))
        _LOGGER.info("mDNS announces %s on %s", services[0].get_name(), ", ".join(addresses))

    return use


async def _register(mdns: AsyncZeroconf, service: AsyncServiceInfo) -> None:
    """Probe for the name, change it if it is taken, and announce the service."""
    await (await mdns.async_register_service(service, allow_name_change=True))


def _services(port: int, version: str, name: str | None, addresses: list[str]) -> list[AsyncServiceInfo]:
    from zeroconf.asyncio import AsyncServiceInfo

    hostname = socket.gethostname().partition(".")[0] or "unknown"
    instance = (name or f"StackFlow bridge on {hostname}").replace(".", " ")
    # The host's own name.local belongs to avahi, which renames the host when somebody else claims it with
    # other addresses. An address and a port make a name that is nobody else's on this LAN.
    label = re.sub("[^a-z0-9-]", "", hostname.lower())[:40]
    server = f"{label}-{int(ipaddress.IPv4Address(addresses[0])):08x}-{port}.local."
    return [
        AsyncServiceInfo(
            service_type,
            f"{_cut(instance, LABEL_BYTES - len('-99'))}.{service_type}",
            port=port,
            properties={"path": "/v1", "version": version},
            server=server,
            parsed_addresses=addresses,
        )
        for service_type in SERVICE_TYPES
    ]


def _watching(host: str, seen: asyncio.Event) -> _Use:
    from_before = False

    async def use(mdns: AsyncZeroconf, _addresses: list[str]) -> None:
        nonlocal from_before
        _listen(mdns.zeroconf, host, seen)
        if from_before:  # the cable or the interface was gone and may have come back with the module
            await _resolve(mdns.zeroconf, host, timeout=3.0)
        from_before = True

    return use


def _listen(mdns: Zeroconf, host: str, seen: asyncio.Event) -> None:
    """Set `seen` at each address record of `host`, new or repeated, until `mdns` closes."""
    from zeroconf import RecordUpdateListener

    class Listener(RecordUpdateListener):
        def async_update_records(self, _zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
            for record in (update.new for update in records):
                if record.type == TYPE_A and record.key == host.lower() and not record.is_expired(now):
                    seen.set()

    mdns.async_add_listener(Listener(), None)


async def _resolve(mdns: Zeroconf, host: str, timeout: float) -> list[str]:
    """Ask for the IPv4 addresses of `host`, return them or an empty list after `timeout` seconds."""
    import zeroconf

    resolver = zeroconf.AddressResolverIPv4(_fqdn(host))  # type: ignore[attr-defined]  # not in its __all__
    await resolver.async_request(mdns, timeout * 1000)
    return list(resolver.parsed_addresses(zeroconf.IPVersion.V4Only))


def _addresses(interfaces: Sequence[str] | None) -> list[str]:
    """Return `interfaces`, or the IPv4 addresses under which other hosts can reach this one."""
    if interfaces is not None:
        return list(interfaces)
    try:
        import ifaddr

        adapters = list(ifaddr.get_adapters())
    except (ImportError, OSError) as err:
        _LOGGER.debug("cannot list this host's network interfaces: %s", err)
        return []
    return sorted(
        str(address.ip)
        for adapter in adapters
        if not adapter.nice_name.startswith(_PRIVATE_INTERFACES)
        for address in adapter.ips
        if address.is_IPv4 and not ipaddress.IPv4Address(address.ip).is_loopback
    )


def _fqdn(host: str) -> str:
    return host.rstrip(".") + "."


def _cut(text: str, size: int) -> str:
    """Return `text`, cut to `size` bytes of UTF-8 at a character's edge."""
    return text.encode()[:size].decode(errors="ignore")
