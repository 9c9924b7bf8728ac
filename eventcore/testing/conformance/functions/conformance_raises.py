"""A module that raises while it is imported."""

_SETTINGS: dict[str, str] = {}
TABLE = _SETTINGS["TABLE"]
