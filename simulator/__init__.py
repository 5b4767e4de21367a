"""An M5Stack AX630C StackFlow module made of software: real bytes, real quirks, faults on command.

A second, independent reading of the protocol: it imports nothing of the bridge.
"""

from .engines.script import answer_to, script_tokens
from .journal import Event
from .settings import Settings
from .simulator import Simulator, TaskView

__all__ = ["Event", "Settings", "Simulator", "TaskView", "answer_to", "script_tokens"]
