"""What is wrong with a pipeline, collected until all of it has been looked at."""

from __future__ import annotations

from typing import Literal

from eventcore.config.provenance import KeyPath, Provenance, dotted
from eventcore.errors import ConfigError, Mistake

#: Keys down to a setting of a named table: table, name, setting.
SETTING_DEPTH = 3


class Finding(Mistake, frozen=True, kw_only=True):
    """Something that `config.lint` found: a mistake, or a warning about what is allowed and seldom meant."""

    code: str  #: `EC1xx`, explained in `eventcore/config/README.md`
    severity: Literal["mistake", "warning"]
    aws_code: str = ""  #: AWS's error code for the same mistake, where its answer was recorded

    def __str__(self) -> str:
        return f"{super().__str__()} [{self.code}{', ' * bool(self.aws_code)}{self.aws_code}]"


class Findings:
    """Collects mistakes and warnings; gives each the place it belongs to."""

    def __init__(self, file: str) -> None:
        self.provenance = Provenance(file=file)
        self.mistakes: list[Mistake] = []
        self.warnings: list[Finding] = []
        #: Settings that could not be read: what depends on them can't be judged.
        self._unreadable: set[KeyPath] = set()
        #: Settings that hold one of them: a list or a table with one wrong entry.
        self._around_unreadable: set[KeyPath] = set()

    def add_unreadable(self, path: KeyPath, message: str, hint: str = "") -> None:
        """Note a setting that can't be read at all; `add` then keeps quiet about it."""
        self.skip(path)
        self.add_mistake(path, message, hint)

    def skip(self, path: KeyPath) -> None:
        """Keep quiet from now on about a setting: what is wrong with it has been said."""
        self._unreadable.add(path)
        self._around_unreadable.update(path[:depth] for depth in range(SETTING_DEPTH, len(path)))

    def add_mistake(self, path: KeyPath, message: str, hint: str = "") -> None:
        """Note a mistake of the document's form."""
        place = self.provenance.find(path)
        self.mistakes.append(Mistake(path=dotted(path), message=message, hint=hint, file=place.file, line=place.line))

    def add(
        self,
        code: str,
        path: KeyPath,
        message: str,
        hint: str,
        *,
        severity: Literal["mistake", "warning"] = "mistake",
        depends_on: tuple[KeyPath, ...] = (),
        aws_code: str = "",
    ) -> None:
        """Note what a check has found, unless it rests on a setting that could not be read.

        Args:
            code: of the check.
            path: the setting to change.
            message: what is wrong, and why.
            hint: what to write instead.
            severity: a warning lets the pipeline run.
            depends_on: other settings that the check has looked at.
            aws_code: AWS's error code for it, where recorded.
        """
        if self.is_unreadable(path) or any(self.is_unreadable(other) for other in depends_on):
            return
        place = self.provenance.find(path)
        finding = Finding(
            code=code,
            severity=severity,
            aws_code=aws_code,
            path=dotted(path),
            message=message,
            hint=hint,
            file=place.file,
            line=place.line,
        )
        if severity == "warning":
            self.warnings.append(finding)
        else:
            self.mistakes.append(finding)

    def warn(self, code: str, path: KeyPath, message: str, hint: str, *, depends_on: tuple[KeyPath, ...] = ()) -> None:
        """Note what is allowed and seldom meant."""
        self.add(code, path, message, hint, severity="warning", depends_on=depends_on)

    def is_unreadable(self, path: KeyPath) -> bool:
        """Tell whether the setting, something in it, or the table around it could not be read."""
        return path in self._around_unreadable or any(
            path[:depth] in self._unreadable for depth in range(1, len(path) + 1)
        )

    def has_mistake(self, path: KeyPath) -> bool:
        """Tell whether something wrong with the setting has been noted."""
        return any(mistake.path == dotted(path) for mistake in self.mistakes)

    def raise_mistakes(self) -> None:
        """Raise every mistake at once, in the order of the lines they stand on.

        Raises:
            ConfigError: there is at least one.
        """
        if self.mistakes:
            raise ConfigError(sorted(self.mistakes, key=_position))

    def warnings_in_order(self) -> tuple[Finding, ...]:
        """Return the warnings in the order of the lines they stand on."""
        return tuple(sorted(self.warnings, key=_position))


def _position(mistake: Mistake) -> tuple[str, int]:
    return mistake.file, mistake.line or 0
