"""JSON in and out of a request: bounded, quick, and every mistake named by its field."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from async_timeout import timeout

from errors import InvalidRequest, TooLarge, UnsupportedMedia

T = TypeVar("T")

BODY_DEADLINE = 60.0  # seconds for a whole body to arrive; the limit of 4 MiB takes 34 s at 1 Mbit/s


async def read_json(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the body as `decoder` types it. Raises InvalidRequest, TooLarge or UnsupportedMedia.

    Any content type will do while the body is JSON: ``curl -d`` calls it a form.
    """
    body = await read_body(request)
    try:
        return decode_json(body, decoder)
    except InvalidRequest as err:
        if err.param is None and request.content_type in FORMS and body.lstrip()[:1] not in (b"{", b"["):
            raise UnsupportedMedia(f"Expected a JSON body, got {request.content_type}") from err
        raise


FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


async def read_body(request: web.Request) -> bytes:
    """Return the whole body. Raises TooLarge, before reading it where its length is announced."""
    limit = request.client_max_size
    if (request.content_length or 0) > limit:
        raise TooLarge(f"The body has {request.content_length} bytes; this server takes {limit}")
    try:
        async with timeout(BODY_DEADLINE):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as err:
        raise TooLarge(f"The body is larger than the {limit} bytes this server takes") from err
    except web.RequestPayloadError as err:
        raise InvalidRequest("The body is not what its headers announce") from err
    except asyncio.TimeoutError as err:
        raise InvalidRequest(f"The body did not arrive within {BODY_DEADLINE:g} s") from err


def decode_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return `body` as `decoder` types it. Raises InvalidRequest, with `param` where a field is at fault."""
    if not body.strip():
        raise InvalidRequest("The body is empty; expected a JSON object")
    try:
        body.isascii() or body.decode("utf-8")  # msgspec looks only into the strings it keeps
        body = body.removeprefix(b"\xef\xbb\xbf")
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if b"\\u" not in body:
                raise
            return decoder.decode(whole_surrogates(body))
    except msgspec.ValidationError as err:
        raise _invalid_field(str(err)) from err
    except msgspec.DecodeError as err:
        raise InvalidRequest(f"The body is not valid JSON: {_where(str(err), body)}") from err
    except UnicodeDecodeError as err:
        raise InvalidRequest(f"The body is not valid UTF-8 (byte {err.start})") from err
    except RecursionError as err:
        raise InvalidRequest("The body is nested too deeply") from err


_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
# Any other escape is matched too, so that the second backslash of `\\ud83d` starts nothing.
_ESCAPES = re.compile(rb"%s|(%s)|\\." % (_PAIR, _HALF), re.DOTALL)


def whole_surrogates(body: bytes) -> bytes:
    r"""Return JSON `body` with each lone half such as ``\ud83d`` replaced; emoji cut in two by a client."""
    return _ESCAPES.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)


_FAULT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.+)`\Z")


def _invalid_field(text: str) -> InvalidRequest:
    """Turn msgspec's sentence into ours: the field, then what it should be."""
    match = _FAULT.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    path = path.replace("[...]", "")
    if missing := _MISSING.match(what):
        param = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidRequest(f"Missing required parameter: '{param}'", param=param)
    what = what.replace(" | null", "").replace("`", "").replace("Expected ", "expected ")
    if not path:
        return InvalidRequest(f"The body must be a JSON object: {what}")
    return InvalidRequest(f"Invalid '{path}': {what}", param=path)


def _where(text: str, body: bytes) -> str:
    text = text.removeprefix("JSON is malformed: ")
    return text if "(byte " in text else f"{text} (byte {len(body)})"


def encode_json(value: Any) -> bytes:
    """Return `value` as JSON; half of a surrogate pair, which UTF-8 cannot carry, becomes U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_mended(value))


def mend(text: str) -> str:
    """Return `text` with halves of surrogate pairs joined, lone ones replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mended(item) for item in value]
    return value


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return `value` as a JSON answer."""
    body = encode_json(value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
