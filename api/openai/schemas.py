"""Request JSON -> what a backend is asked, or an InvalidRequest naming the field at fault."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from api.json_io import decode_json
from api.openai.fields import Call, CommonBody, Tokens
from backends.base import ChatRequest, Message
from backends.base import Role as BackendRole
from errors import InvalidRequest

MAX_MESSAGES = 10_000


class Part(msgspec.Struct):
    """One part of a message's content. Kinds other than text are refused by name."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(msgspec.Struct):
    """One message; content null, "" or [] is an empty text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[str | Part] | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class ResponseFormat(msgspec.Struct):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"]


class ChatBody(CommonBody, kw_only=True):
    """The body of a chat completion."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    web_search_options: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None

    def refusals(self) -> dict[str, bool]:
        """Add what only this route has."""
        return CommonBody.refusals(self) | {
            "logprobs": bool(self.logprobs),
            "top_logprobs": bool(self.top_logprobs),
            "modalities": any(kind != "text" for kind in self.modalities or ()),
            "response_format": self.response_format is not None and self.response_format.type != "text",
            "tools": bool(self.tools),
            "functions": bool(self.functions),
            "web_search_options": self.web_search_options is not None,
        }

    def ignored(self) -> tuple[str, ...]:
        """Add what only this route has."""
        soft = {"reasoning_effort": self.reasoning_effort, "verbosity": self.verbosity}
        return CommonBody.ignored(self) + tuple(name for name, value in soft.items() if value is not None)


class CompletionBody(CommonBody, kw_only=True):
    """The body of a text completion."""

    prompt: str | list[Any]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | bool | None = None

    def refusals(self) -> dict[str, bool]:
        """Add what only this route has."""
        return CommonBody.refusals(self) | {
            "suffix": bool(self.suffix),
            "best_of": self.best_of not in (None, self.n or 1),
            "logprobs": self.logprobs is not None and self.logprobs is not False,
        }


CHAT = msgspec.json.Decoder(ChatBody)
COMPLETION = msgspec.json.Decoder(CompletionBody)


def parse_chat(body: bytes) -> Call:
    """Read the body of a chat completion. Raises InvalidRequest."""
    return chat_call(decode_json(body, CHAT))


def parse_completion(body: bytes) -> Call:
    """Read the body of a text completion. Raises InvalidRequest."""
    return completion_call(decode_json(body, COMPLETION))


def chat_call(body: ChatBody) -> Call:
    """Return what `body` asks for. Raises InvalidRequest."""
    body.refuse()
    messages = tuple(_message(message, f"messages[{i}]") for i, message in enumerate(body.messages))
    return _call(body, messages, body.max_completion_tokens or body.max_tokens)


def completion_call(body: CompletionBody) -> Call:
    """Return what `body` asks for. Raises InvalidRequest."""
    body.refuse()
    prompt = _prompt(body.prompt)
    return _call(body, (Message("user", prompt),), body.max_tokens, prompt if body.echo else "")


def _call(body: CommonBody, messages: tuple[Message, ...], max_tokens: int | None, echo: str = "") -> Call:
    chat = ChatRequest(
        model=body.model,
        messages=messages,
        sampling=body.sampling(),
        max_tokens=max_tokens,
        stop=body.stops(),
        n=body.n or 1,
        keep_alive=body.residence(),
    )
    return Call(chat, bool(body.stream), body.wants_usage(), body.ignored(), echo)


_ROLES: dict[str, BackendRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def _message(message: ChatMessage, where: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(f"Role '{message.role}' is not supported yet", param=f"{where}.role")
    for name, value in (("tool_calls", message.tool_calls), ("function_call", message.function_call)):
        if value:
            raise InvalidRequest(f"'{name}' is not supported yet", param=f"{where}.{name}")
    return Message(role, _text(message.content, f"{where}.content") or message.refusal or "")


def _text(content: str | list[str | Part] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


_SENSES = {"image_url": "images", "input_image": "images", "input_audio": "audio", "file": "files"}


def _part(part: str | Part, where: str) -> str:
    """Return the text of one content part. Raises InvalidRequest for anything that is not text."""
    if isinstance(part, str):
        return part
    text = part.refusal if part.type == "refusal" else part.text
    if part.type in ("text", "input_text", "output_text", "refusal"):
        if text is None:
            raise InvalidRequest(f"Missing required parameter: '{where}.text'", param=f"{where}.text")
        return text
    if part.type in _SENSES:
        raise InvalidRequest(f"This model does not take {_SENSES[part.type]}", param=where)
    raise InvalidRequest(f"Invalid '{where}.type': expected 'text'", param=f"{where}.type")


def _prompt(prompt: str | list[Any]) -> str:
    """Return the single prompt. Raises InvalidRequest for several, and for token ids."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    if any(not isinstance(item, str) for item in prompt):
        raise InvalidRequest("Prompts given as token ids are not supported; send a string", param="prompt")
    raise InvalidRequest(f"Expected one prompt, got {len(prompt)}; send them one by one", param="prompt")
