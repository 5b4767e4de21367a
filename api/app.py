"""create_app(config, catalog) -> web.Application; the one place that imports and wires all doors."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from aiohttp import web

from api import cors, middleware
from api.access import Gate
from api.context import CATALOG, CONFIG, FINGERPRINT, GATE
from api.openai import chat, completions, models
from api.stopping import RUNNING, Running, finish_answers
from api.system import health, hint, status
from catalog.models import Models
from config import VERSION, Config


def create_app(config: Config, catalog: Models) -> web.Application:
    """Return the app that answers from `catalog`, which is open for as long as the app runs.

    Run it with ``handler_cancellation=True``, or a client's hang-up is noticed only at the next write.
    """
    app = web.Application(
        client_max_size=config.body_limit,
        middlewares=[middleware.observe, middleware.errors, cors.preflight, middleware.access],
    )
    app[CONFIG], app[CATALOG] = config, catalog
    app[GATE] = Gate(config.keys, config.open_admin)
    app[FINGERPRINT] = fingerprint(config)
    app[RUNNING] = Running()
    app.on_response_prepare.append(middleware.add_request_id)
    app.on_response_prepare.append(cors.add_cors_headers)
    app.on_shutdown.append(finish_answers)
    for door in (chat, completions, models, health, status, hint):
        app.add_routes(door.routes)
    return app


def fingerprint(config: Config) -> str:
    """Return OpenAI's system_fingerprint: ten digits that change with the configuration or the version.

    Everyone may see it, so the keys stay out: ten digits are enough to try guesses against.
    """
    said = f"{VERSION} {replace(config, keys=())!r}"
    return f"fp_{int(hashlib.sha256(said.encode()).hexdigest(), 16) % 10**10:010d}"
