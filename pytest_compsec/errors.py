"""Errors that a user can cause, each with one clear message: what, where, what to do.

Anything else that escapes is a fault of this package and keeps its traceback.
"""

from __future__ import annotations


class CompsecError(Exception):
    """Base of every error that is the user's to fix. ``str(error)`` is shown without traceback."""


class ConfigError(CompsecError):
    """``compsec.yaml``, an option or an input file is wrong; the message begins ``file:line:``."""


class MissingExtraError(CompsecError):
    """An optional dependency is needed and absent; the message names the install command."""

    def __init__(
        self, package: str, extra: str, purpose: str, *, with_constraints: str | None = None
    ) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "pytest-compsec[{extra}]"'
            + (f" -c {with_constraints} (of the project's repository)" if with_constraints else "")
        )

    def __reduce__(self) -> tuple[object, ...]:
        # The default rebuilds from ``args`` (the finished message) and would call __init__ wrongly.
        return (_rebuild_missing_extra, (self.package, self.extra, str(self)))


def _rebuild_missing_extra(package: str, extra: str, message: str) -> MissingExtraError:
    error = MissingExtraError(package, extra, "")
    error.args = (message,)
    return error


class IntegrityError(CompsecError):
    """Bytes are not what the lock says. The whole run exits non-zero, whatever else passes."""


class LoadError(CompsecError):
    """Verified files could not be turned into a working model."""


class NotCompressedError(LoadError):
    """A variant claims a compression that the loaded module does not show."""


class MeasurementError(CompsecError):
    """A measurement could not be made; the verdict is NOT_MEASURED and the message says why."""
