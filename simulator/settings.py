"""What a simulated module is like: size, speed, engines, doors. Frozen; handed in once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ENGINES = ("auto", "script", "cpu")


@dataclass(frozen=True)
class Settings:
    """One simulated module. Times in seconds unless the name says otherwise; memory in KiB."""

    # doors
    tcp: bool = True
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free port
    serial: bool | str = False  # True: a pty behind a private symlink; a path: the symlink to make
    serial_baud: int | None = None  # None: as fast as the pty goes, whatever the client's baud rate
    control: int | None = None  # port of the control channel, 0: any free port

    # what is inside
    engine: str = "auto"
    firmware: str = "dev"
    sandbox: str | None = None  # the "disk" that sys.pull reads; None: an empty disk
    limits: Mapping[str, int] = field(default_factory=dict)  # tasks per unit, e.g. {"llm": 64}
    cmm_kib: int = 3145728  # the AX630C's default split: 3 GB for the NPU
    kv_limit: bool = True  # False: prompts and answers of any length

    # speed; all of it but the four below is multiplied by time_scale
    time_scale: float = 1.0
    rate: float | None = None  # tokens per second, instead of the model's own
    ttft_ms: float | None = None  # time to first token, instead of the model's own
    load_s: float | None = None  # load time of any model, instead of the estimate

    # never scaled: these belong to ZeroMQ and systemd, not to the NPU
    rpc_stall_s: float = 4.0  # an RPC to a dead unit holds the gateway this long
    slow_joiner_ms: float = 1.0  # an inference this soon after the setup reply is lost
    linger_s: float = 1.0  # retargeting a task that has undelivered output
    output_block_s: float = 3.0  # each output beyond the undelivered ones
    undelivered_limit: int = 1000  # messages for a com that is gone
    restart_s: float = 1.0  # systemd's RestartSec for a crashed unit or gateway
    crash_leaves_socket: bool = True  # a dead unit's /tmp/rpc.<unit> stays: silence instead of -9
    dequeue_gap_s: float = 0.0  # between taking an inference from the queue and starting it

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        if self.time_scale <= 0:
            raise ValueError("time_scale must be above 0")

    def scaled(self, seconds: float) -> float:
        """Return how long `seconds` of the real module last here."""
        return seconds * self.time_scale
