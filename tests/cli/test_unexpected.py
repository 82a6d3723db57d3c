"""The last line: no exception of any kind reaches a user as a traceback, from any verb."""

from __future__ import annotations

import functools
import sys
import threading
from pathlib import Path

import pytest
import typer
from support import micro

from peftodyssey.cli import main as command_line
from peftodyssey.cli import unexpected

VERBS = {
    "run": ("r.yaml",),
    "check": ("r.yaml",),
    "plan": ("r.yaml",),
    "status": ("d",),
    "report": ("d",),
    "query": ("d",),
    "score": ("m", "t"),
    "export": ("d", "c"),
    "schema": (),
    "doctor": (),
    "recipes list": (),
    "recipes show": ("smoke",),
    "recipes copy": ("smoke", "x"),
    "recipes new": ("x", "--model", "m", "--domain", "t"),
    "ladder list": ("m",),
    "ladder train": ("r.yaml",),
}
KINDS = [
    ValueError("one\ntwo"),
    StopIteration(),
    AttributeError("x"),
    MemoryError(),
    RecursionError("deep"),
    OSError(5, "io"),
]


def verbs(app: typer.Typer, before: str = "") -> dict[str, typer.models.CommandInfo]:
    found = {before + (c.name or c.callback.__name__): c for c in app.registered_commands}
    for group in app.registered_groups:
        found |= verbs(group.typer_instance, f"{group.name} ")
    return found


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["peftodyssey", *arguments])
    with pytest.raises(SystemExit) as end:
        command_line.main()
    return end.value.code, capsys.readouterr().err


def test_every_verb_is_tried():
    assert set(VERBS) == set(verbs(command_line.app))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_no_verb_ends_in_a_traceback(verb, error, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = verbs(command_line.app)[verb]

    @functools.wraps(command.callback)
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(command, "callback", fails)
    code, said = call(monkeypatch, capsys, *verb.split(), *VERBS[verb])
    assert code == 1
    assert "Traceback" not in said
    assert type(error).__name__ in said
    assert "two" not in said
    (report,) = Path().glob("peftodyssey-error-*.txt")
    content = report.read_text()
    assert report.name in said
    assert f"command: {verb}" in content
    assert "Traceback" in content
    assert "in fails" in content


def test_debug_lets_the_traceback_through_wherever_it_stands(monkeypatch):
    def fails():
        raise ValueError("planted")

    monkeypatch.setattr(command_line, "app", fails)
    for arguments in (["--debug", "schema"], ["schema", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["peftodyssey", *arguments])
        with pytest.raises(ValueError, match="planted"):
            command_line.main()
        assert sys.argv == ["peftodyssey", "schema"]


def test_where_nothing_can_be_written_the_sentence_stands_alone(monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert unexpected.sentence(KeyError("k")).endswith("with what --debug prints")


def test_errors_of_threads_are_sentences(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    unexpected.quiet_threads(False)
    thread = threading.Thread(target=lambda: [][1])
    thread.start()
    thread.join()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "IndexError" in said


def test_a_broken_file_of_any_verb_is_a_sentence_in_a_process_of_its_own(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\x00\xff\xfe broken")
    ended = micro.command("check", tmp_path / "r.yaml")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
