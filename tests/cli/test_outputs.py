"""Every command with an output leaves alone what it was not meant for, before any work."""

from __future__ import annotations

import typer.main

from automc.cli.main import app

NET = "from torch import nn\ndef build(classes=10):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
SCHEME = "NS[HP1=0.1,HP2=0.1,HP6=0.9]\n"


def commands(group=None, path=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), {parameter.name for parameter in command.params}


def test_every_command_with_an_output_can_be_forced():
    found = {name: names for name, names in commands() if names & {"out", "html"}}
    assert len(found) >= 9
    assert [name for name, names in found.items() if "force" not in names] == []


def test_inputs_and_strangers_stay_as_they_are(automc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / "home"))
    files = {"net.py": NET, "scheme.txt": SCHEME, "weights.pth": "x", "notes.am": "mine", "page.html": "mine"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "other.am").symlink_to("net.py")
    net = ("net.py:build", "--data", "digits")
    lines = [
        ("train", *net, "--out", "net.py"),
        ("train", *net, "--out", "other.am"),
        ("train", *net, "--out", "notes.am"),
        ("train", *net, "--weights", "weights.pth", "--out", "weights.pth"),
        ("compress", *net, "--scheme", "scheme.txt", "--out", "scheme.txt"),
        ("compress", *net, "--scheme", "scheme.txt", "--out", "notes.am"),
        ("search", *net, "--out", "net.py"),
        ("search", *net, "--out", "notes.am"),
        ("export", "net.py:build", "--size", "8", "--out", "net.py"),
        ("export", "net.py:build", "--size", "8", "--out", "page.html"),
        ("report", "resnet20-digits-1", "--html", "page.html"),
        ("kg", "view", "--out", "page.html"),
        ("kg", "export", "--out", "page.html"),
        ("experience", "new", "--no-ask", "--out", "page.html"),
        ("experience", "export", "resnet20-digits-1", "--out", "page.html"),
    ]
    for line in lines:
        result = automc(*line)
        assert result.exit_code == 2, (line, result.output)
        assert "--force" in result.stderr or "must end in .am" in result.stderr, (line, result.stderr)
        assert not (tmp_path / "home").exists() or not any((tmp_path / "home").glob("*scratch-*")), line
    assert {name: (tmp_path / name).read_text() for name in files} == files


def test_a_full_device_is_the_machine_s_fault(automc, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / "home"))
    result = automc("train", "resnet8", "--data", "digits", "--out", "/dev/full")
    assert result.exit_code == 1, result.output
    assert "No space left on device" in result.stderr
