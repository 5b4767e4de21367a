"""``/``: one short page for whoever opens the address in a browser."""

from __future__ import annotations

from aiohttp import web

from config import VERSION

routes = web.RouteTableDef()


@routes.get("/")
async def hint(request: web.Request) -> web.Response:
    """Say what this is and where its doors are."""
    base = f"{request.scheme}://{request.host}"
    return web.Response(
        text=f"StackFlow OpenAI bridge {VERSION}\n"
        f"An OpenAI-compatible API for M5Stack modules; point clients at {base}/v1\n"
        f"Models: {base}/v1/models   Health: {base}/health\n"
    )
