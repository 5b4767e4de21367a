"""The exceptions of the bridge, told apart by who has to act.

    BridgeError
    ├── InvalidRequest            the caller has to change something; `param` names the field
    │   ├── ModelNotFound         a model named in a body
    │   ├── CapabilityMismatch    the model cannot do what the route does
    │   ├── ContextTooLong        more tokens than the model reads
    │   ├── NotFound              a resource named by the path; ModelPathNotFound for a model
    │   └── MethodNotAllowed, TooLarge, UnsupportedMedia
    ├── AccessDenied              AuthenticationFailed, Forbidden
    ├── Busy                      try again soon: RateLimited, QueueFull
    ├── Unavailable               QueueTimeout, NotReady, NoCapableModule, DeviceUnavailable
    │   └── DeviceUnavailable     ConnectFailed, ConnectionLost, UnitSilent, ShuttingDown
    ├── ConfigError               the operator has to edit config.yaml; only at start
    └── DeviceError               the module did something we cannot use
        ├── DeviceTimeout         it took longer than the configured wait
        ├── ProtocolError         bytes or messages we cannot read
        └── UnitError             a unit answered error.code != 0: ModelLoadFailed, TaskFull, TaskGone

Lower layers know no status codes; each dialect's door has one table, looked up by nearest ancestor.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Anything the bridge raises on purpose. Its text is safe to show to a client."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(BridgeError):
    """The caller has to change something; `param` names the field at fault."""


class ModelNotFound(InvalidRequest):
    """A model named in a request body is not known."""

    def __init__(self, model: str) -> None:
        super().__init__(f"Model '{model}' not found", param="model")


class CapabilityMismatch(InvalidRequest):
    """The model exists, but not for this kind of request. `ability` is worded as in the API document."""

    def __init__(self, model: str, ability: str) -> None:
        super().__init__(f"Model '{model}' does not support {ability}", param="model")


class ContextTooLong(InvalidRequest):
    """The request needs more tokens than the model reads."""


class NotFound(InvalidRequest):
    """The path names nothing."""


class ModelPathNotFound(NotFound):
    """A model named in the path is not known."""

    def __init__(self, model: str) -> None:
        super().__init__(f"Model '{model}' not found")


class MethodNotAllowed(InvalidRequest):
    """The path exists, the method on it does not."""


class TooLarge(InvalidRequest):
    """The body is larger than the configured limit."""


class UnsupportedMedia(InvalidRequest):
    """The body is of a type this route does not read."""


class AccessDenied(BridgeError):
    """The caller may not do this."""


class AuthenticationFailed(AccessDenied):
    """No key, or a key we do not know."""


class Forbidden(AccessDenied):
    """A known caller without the right."""


class Busy(BridgeError):
    """Try again soon. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(Busy):
    """The caller's own limit is used up."""


class QueueFull(Busy):
    """The bridge's waiting line is at its bound."""


class Unavailable(BridgeError):
    """The service cannot answer now."""


class QueueTimeout(Unavailable):
    """Nothing came free within the waiting time."""


class NotReady(Unavailable):
    """The model is known but cannot answer now; the message says which check failed."""


class NoCapableModule(Unavailable):
    """No connected module can ever serve this."""


class DeviceUnavailable(Unavailable):
    """The module, or the unit on it, cannot be reached."""


class ConnectFailed(DeviceUnavailable):
    """No connection to the module could be made."""


class ConnectionLost(DeviceUnavailable):
    """The connection to the module ended while it was needed."""


class UnitSilent(DeviceUnavailable):
    """The unit left a call unanswered and is being probed."""


class ShuttingDown(DeviceUnavailable):
    """This server is stopping."""


class ConfigError(BridgeError):
    """The operator has to edit the configuration. `mistakes` lists all of them."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class DeviceError(BridgeError):
    """The module did something we cannot use."""


class DeviceTimeout(DeviceError):
    """The module took longer than the configured wait."""


class ProtocolError(DeviceError):
    """Bytes or messages from the module that we cannot read."""


class UnitError(DeviceError):
    """A unit answered ``error.code != 0``. Shown as, for example, ``llm -5: model loading failed``."""

    def __init__(self, unit: str, code: int, text: str, advice: str = "") -> None:
        super().__init__(f"{unit} {code}: {text}" + (f" ({advice})" if advice else ""))
        self.unit = unit
        self.code = code
        self.text = text


class ModelLoadFailed(UnitError):
    """-5 on setup: files missing, a key wrong, or the NPU memory is full."""


class TaskFull(UnitError):
    """-21 on setup: the unit holds as many tasks as it can."""


class TaskGone(UnitError):
    """-4 or -6: the task is no longer there; a new setup is needed."""
