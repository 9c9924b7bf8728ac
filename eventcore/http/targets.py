"""What records can be sent to. Apart from the sending, whose imports a command pays for only without an engine."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from eventcore.config.reference import SOURCE_KINDS, BadReference, Reference, parse_reference
from eventcore.errors import CommandError
from eventcore.http.refusals import ExitCode


def read_target(text: str) -> Reference:
    """Return the reference of something that records can be sent to.

    Raises:
        CommandError: it is not one; the exit code is that of wrong usage.
    """
    try:
        reference = parse_reference(text)
    except BadReference as error:
        raise CommandError(str(error), exit_code=ExitCode.USAGE) from error
    if reference.kind not in SOURCE_KINDS:
        hint = f"eventcore invoke {reference.name}" if reference.kind == "function" else ""
        kinds = ", ".join(f"{kind}:" for kind in SOURCE_KINDS)
        raise CommandError(f"records can be sent to {kinds} and not to `{text}`", exit_code=ExitCode.USAGE, hint=hint)
    if reference.is_pattern:
        hint = f"kafka:{reference.name}/TOPIC"
        raise CommandError(f"`{text}` stands for several topics: name one", exit_code=ExitCode.USAGE, hint=hint)
    return reference


def name_known(name: str, known: Sequence[str]) -> str:
    """Return a hint for a name that is not there: what there is, and what was probably meant."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"; did you mean `{close[0]}`?" if close else ""
    return f"known: {', '.join(names) or 'none'}{meant}"
