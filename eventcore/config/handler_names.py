"""How handlers and modules are named in a pipeline file."""

from __future__ import annotations

import re

#: `module.attribute`, with as many packages before it as it takes; `/` may stand for `.` there, as on Lambda.
HANDLER = re.compile(r"[A-Za-z_]\w*([./][A-Za-z_]\w*)*\.[A-Za-z_]\w*")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def suggest_handler(handler: str) -> str:
    """Return what to write instead of a name that is not `module.attribute`."""
    guess = handler.removesuffix(".py").replace("/", ".").replace(":", ".").strip(".")
    if HANDLER.fullmatch(guess):
        return f"did you mean `{guess}`?"
    if MODULE.fullmatch(guess):
        return f"write `{guess}.NAME`, the function's name in the module"
    return 'write it as "orders.enrich"'
