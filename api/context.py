"""What travels with the app and with each request, under typed keys."""

from __future__ import annotations

from aiohttp import web

from api.access import Gate, Identity
from api.progress import Progress
from backends.base import Caller
from catalog.models import Models
from config import Config

CONFIG = web.AppKey("CONFIG", Config)
CATALOG: web.AppKey[Models] = web.AppKey("CATALOG")  # a Protocol has no class to check against
GATE = web.AppKey("GATE", Gate)
FINGERPRINT = web.AppKey("FINGERPRINT", str)  # OpenAI's system_fingerprint

REQUEST_ID = web.RequestKey("REQUEST_ID", str)
IDENTITY = web.RequestKey("IDENTITY", Identity)
PROGRESS = web.RequestKey("PROGRESS", Progress)  # of the answer being made, if any


async def known_models(request: web.Request) -> Models:
    """Return the catalog once it knows its models: at start it waits for the modules' first answer."""
    catalog = request.app[CATALOG]
    await catalog.settled()
    return catalog


def identity_of(request: web.Request) -> Identity:
    """Return who asks, as the access middleware settled it."""
    return request[IDENTITY]


def caller_of(request: web.Request) -> Caller:
    """Return the caller as backends know it."""
    return request[IDENTITY].caller


def request_id_of(request: web.BaseRequest) -> str:
    """Return the id under which this request is logged and answered."""
    try:
        return request[REQUEST_ID]
    except KeyError:  # refused before any middleware ran
        return "-"
