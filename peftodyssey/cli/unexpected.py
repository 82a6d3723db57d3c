"""The last line of the command line: what no other code expected becomes one sentence and a file to send."""

from __future__ import annotations

import platform
import sys
import tempfile
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

DEBUG = "--debug"


def debug_asked() -> bool:
    """Whether `--debug` stands anywhere on the command line; it is taken off."""
    asked = DEBUG in sys.argv[1:]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != DEBUG]
    return asked


def sentence(error: BaseException) -> str:
    """What happened and where, and the file that holds the rest."""
    what = str(error).strip().partition("\n")[0][:300]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    said = f"{type(error).__name__}{f': {what}' if what else ''}{place}"
    if isinstance(error, MemoryError):
        return (
            f"error: memory ran out: {said}\n  -> a smaller text, sequence length or model takes less; {_file(error)}"
        )
    return f"error: this was not expected: {said}\n  -> {_file(error)}"


def _file(error: BaseException) -> str:
    """Writes the report of `error`, here or among the temporary files; says what to do with it."""
    for folder in (Path(), Path(tempfile.gettempdir())):
        path = folder / f"peftodyssey-error-{datetime.now(UTC):%Y%m%d-%H%M%S}.txt"
        try:
            path.write_text(_report(error), encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return f"it is a mistake of peftodyssey's: report it with the file {path}, which has what is needed to find it"
    return f"report it as a mistake of peftodyssey's, with what {DEBUG} prints"


def _report(error: BaseException) -> str:
    from peftodyssey._version import __version__
    from peftodyssey.store.versions import versions

    try:
        installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    except Exception as broken:  # a broken installation may be what is reported
        installed = f"not known: {type(broken).__name__}: {broken}"
    return "\n".join(
        [
            f"peftodyssey {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"libraries: {installed}",
            f"command: {' '.join(sys.argv[1:])}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )


def quiet_threads(debug: bool) -> None:
    """Errors in threads become a sentence as well, unless `debug`."""
    if not debug:
        threading.excepthook = _of_thread


def _of_thread(arguments: threading.ExceptHookArgs) -> None:
    error: BaseException = arguments.exc_value or arguments.exc_type()
    kept: TracebackType | None = arguments.exc_traceback
    print(sentence(error.with_traceback(kept)), file=sys.stderr)
