"""The bridge without its doors: state, modules, pool and catalog, opened together and closed in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from catalog.catalog import Catalog
from config import Config, parse_module_url, state_folder
from launch import Source, open_source
from stackflow.client import Client
from stackflow.pool import Pool, open_pool
from state import open_state


class Bridge:
    """What a door needs: the catalog to answer from, and the pool to wind down at the end."""

    def __init__(self, catalog: Catalog, pool: Pool) -> None:
        self.catalog = catalog
        self.pool = pool


@asynccontextmanager
async def open_bridge(config: Config) -> AsyncIterator[Bridge]:
    """Open everything below the doors. Returns before any module is connected; leaving exits our tasks."""
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(open_state(state_folder(config)))
        sources: dict[str, Source] = {}
        clients = []
        for module in config.module_list():
            source = sources[module.name] = await stack.enter_async_context(open_source(module, config))
            clients.append(
                Client(module.name, source.link, state, config.deadlines, reclaim_all=config.reclaim == "all")
            )
        pool = await stack.enter_async_context(open_pool(config, clients, state))
        for client in clients:
            await _watch(stack, client, sources[client.name], config)
        yield Bridge(Catalog(config, pool, sources), pool)


async def _watch(stack: AsyncExitStack, client: Client, source: Source, config: Config) -> None:
    """Let a module that announces itself after a reboot end the reconnect pause early."""
    where = parse_module_url(source.address)
    if config.mdns.find and where.scheme == "tcp" and where.target.endswith(".local"):
        import discovery

        await stack.enter_async_context(discovery.watch(where.target, client.wake))
