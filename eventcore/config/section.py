"""A table of the pipeline file, and how it keeps secrets out of what people see.

msgspec's constructors do not validate: a struct enters through `config.load` or ``msgspec.convert`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import msgspec
from msgspec import Meta

from eventcore.config.substitute import MASK

#: Letters, digits, `-` and `_`: what Lambda, SQS and Kafka all allow.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,80}$")]

_MASKS = "masks"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """A table of the pipeline file.

    A value that came from the environment may be a secret: `repr` shows a mask in its place. The masks are no field,
    so that sections compare equal by their settings alone; ``msgspec.structs.replace`` loses them.
    """

    #: Settings whose value is never shown, wherever it came from.
    SECRETS: ClassVar[frozenset[str]] = frozenset()

    def hide(self, masks: Mapping[str, Any]) -> None:
        """Show ``masks`` instead of the settings that they name; called once, by `config.load`."""
        self.__dict__[_MASKS] = dict(masks)

    def hidden(self) -> Mapping[str, Any]:
        """Return what is shown instead of the settings that came from the environment, by setting."""
        masks: Mapping[str, Any] = self.__dict__.get(_MASKS, {})
        return masks

    def shown(self, setting: str) -> Any:
        """Return a setting as people may see it."""
        masks = self.hidden()
        if setting in masks:
            return masks[setting]
        value = getattr(self, setting)
        return MASK if value and setting in self.SECRETS else value

    def masked(self) -> Self:
        """Return a copy that holds the masks in the values' place, in all that it contains."""
        return msgspec.structs.replace(
            self, **{setting: _mask_within(self.shown(setting)) for setting in self.__struct_fields__}
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(setting, self.shown(setting)) for setting in self.__struct_fields__]

    def __repr__(self) -> str:
        settings = ", ".join(f"{setting}={value!r}" for setting, value in self.__rich_repr__())
        return f"{type(self).__name__}({settings})"


def _mask_within(value: Any) -> Any:
    if isinstance(value, Section):
        return value.masked()
    if isinstance(value, dict):
        return {key: _mask_within(inner) for key, inner in value.items()}
    return value
