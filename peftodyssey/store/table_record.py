"""What the tables of a run were made of: `tables.json` beside them has the sha256 of each, and of its sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey._version import __version__
from peftodyssey.errors import StoreError
from peftodyssey.store import atomic, layout, manifest, parquet, plans, sealed, verified

if TYPE_CHECKING:
    import pyarrow as pa

RECORD = "tables.json"
UNREAD = {layout.PLANS, layout.REPORT, layout.SCORINGS, layout.STEMS, "export"}


def write(out: Path, root: Path, names: Iterable[str]) -> None:
    """Record that the files `names` of `out` were just made of the store in `root`."""
    files = {name: atomic.sha256(out / name) for name in names}
    sealed.write(out / RECORD, {"made_of": sources(root), "files": files})
    verified.remember(out, files)


def add(out: Path, names: Iterable[str]) -> None:
    """Record that the files `names` of `out` were made of the tables there."""
    record, _ = _record(out)
    assert record is not None, "the tables were recorded before"
    files = {**record["files"], **{name: atomic.sha256(out / name) for name in names}}
    sealed.write(out / RECORD, {**record, "files": files})
    verified.remember(out, files)


def renew(out: Path, root: Path) -> None:
    """Record that the tables in `out` hold for the store in `root` as it is now."""
    record, wrong = _record(out)
    if record is not None and not wrong:
        sealed.write(out / RECORD, {**record, "made_of": sources(root)})


def is_current(out: Path, root: Path) -> bool:
    """Whether the tables in `out` are as they were written and the store in `root` is still what they were made of."""
    record, wrong = _record(out)
    return not wrong and record is not None and record.get("made_of") == sources(root) and not damage(out)


def damage(out: Path, *, afresh: bool = False) -> dict[str, str]:
    """What is wrong with the recorded tables of `out`: name -> what."""
    record, wrong = _record(out)
    return wrong or ({} if record is None else verified.wrong_files(out, record["files"], afresh=afresh))


def read(out: Path, name: str, next_step: str) -> pa.Table:
    """The table `name` in `out`; StoreError where it is not there or not as it was written."""
    path = out / name
    if not path.is_file():
        raise StoreError(f"{out} holds no {name}", next_step)
    record, wrong = _record(out)
    if record is None and not wrong:
        raise StoreError(f"{out} does not say what its tables were made of ({RECORD})", next_step)
    wrong |= verified.wrong_files(out, {name: (record or {"files": {}})["files"].get(name, "")}) if not wrong else {}
    if wrong:
        raise StoreError(f"{out}: {manifest.in_words(wrong)}", next_step)
    return parquet.read(path)


def sources(root: Path) -> str:
    """A hash of everything that tables are made of: plans without their times, and every manifest, failure and stop."""
    digest = hashlib.sha256(__version__.encode())
    for plan in plans.read_all(root):
        told = {key: value for key, value in plan.items() if key != "created"}
        digest.update(sealed.checksum(told).encode())
    for kind in sorted(path for path in root.iterdir() if path.is_dir() and path.name not in UNREAD):
        for folder in sorted(path for path in kind.iterdir() if path.is_dir()):
            for name in (layout.MANIFEST, layout.FAILURE, layout.STOPPED):
                if (path := folder / name).is_file():
                    digest.update(f"{kind.name}/{folder.name}/{name} {_state(path)}\n".encode())
    return digest.hexdigest()


def _state(path: Path) -> str:
    """The hash of a manifest and whether its files are whole."""
    whole = path.name != layout.MANIFEST or manifest.read(path.parent) is not None
    return f"{atomic.sha256(path)} {whole}"


def _record(out: Path) -> tuple[dict[str, Any] | None, dict[str, str]]:
    try:
        record = sealed.read(out / RECORD)
    except sealed.Damaged as damaged:
        return None, {RECORD: damaged.what}
    if record is not None and not isinstance(record.get("files"), dict):
        return None, {RECORD: "it names no files"}
    return record, {}
