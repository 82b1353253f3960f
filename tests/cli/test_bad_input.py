"""What a user or the machine can get wrong: one clear message, the right exit code, and nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import Result

from automc import knowledge
from automc.models import load, structure
from kg.resources import experience_dir, methods_dir
from kg.schema import LABELS

AUTOMC = [sys.executable, "-c", "from automc.cli.main import main; main()"]


def expect_refused(result: Result, *said: str, code: int = 2) -> None:
    """Exactly one message, on stderr, that says `said`."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: "), result.stderr
    assert "\nError: " not in result.stderr
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr


def nodes() -> dict[str, int]:
    with knowledge.graph() as store:
        return {label: store.read(f"MATCH (n:{label}) RETURN count(n) AS n").rows[0][0] for label in LABELS}


@pytest.fixture
def digits(prepared_home: Path, automc_home: Path, tmp_path: Path) -> Path:
    """The small trained network, in a home of its own without a graph."""
    return Path(shutil.copyfile(prepared_home / "digits.am", tmp_path / "digits.am"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image folder: 3 classes of 10 grey images."""
    rng = np.random.default_rng(0)
    for split, name in product(("train", "test"), ("cat", "dog", "emu")):
        folder = tmp_path / "photos" / split / name
        folder.mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


# Everything that opens a model says the same; `search` must say it before it starts a graph.
@pytest.fixture(params=["measure", "search"])
def opens(request: pytest.FixtureRequest, automc, automc_home: Path):
    def run(model: object, data: object = "digits", *more: object) -> Result:
        result = automc(request.param, model, "--data", data, "--device", "cpu", *more)
        assert not (automc_home / "graph").exists()
        assert not (automc_home / "studies").exists()
        return result

    return run


def test_unknown_model(opens):
    expect_refused(opens("resnet21"), "resnet21", "Did you mean", "resnet20")
    expect_refused(opens("torchvision:resnet19"), "resnet19", "Did you mean", "resnet18")


def test_missing_files(opens, tmp_path):
    expect_refused(opens(tmp_path / "none.am"), "none.am")
    expect_refused(opens(f"{tmp_path}/none.py:build"), "none.py")
    expect_refused(opens("resnet8", "digits", "--weights", tmp_path / "none.pt"), "none.pt")
    expect_refused(opens("resnet8", tmp_path / "no-photos"), "no-photos")


def test_unknown_data(opens):
    expect_refused(opens("resnet8", "digit"), "digit", "Did you mean digits")


def test_corrupt_checkpoints(opens, digits, tmp_path):
    whole = digits.read_bytes()
    digits.write_bytes(whole[: len(whole) // 2])
    expect_refused(opens(digits), "digits.am")
    flipped = bytearray(whole)
    flipped[-100] ^= 0xFF
    digits.write_bytes(flipped)
    expect_refused(opens(digits), "digits.am is damaged")
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04 not really")
    expect_refused(opens("resnet8", "digits", "--weights", tmp_path / "weights.pt"), "weights.pt")
    torch.save({"state_dict": {"nonsense": torch.zeros(2)}}, tmp_path / "other.pt")
    expect_refused(opens("resnet8", "digits", "--weights", tmp_path / "other.pt"), "other.pt")


def test_wrong_number_of_classes(opens, digits, photos):
    expect_refused(opens(digits, photos), "10", "3", "classes")


def test_empty_image_folder(opens, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "empty" / "train" / name).mkdir(parents=True)
    expect_refused(opens("resnet8", tmp_path / "empty"), "empty")


def test_grey_images_for_a_colour_model(opens, tmp_path):
    colour = load.load("resnet8", classes=10, channels=3)
    structure.save(tmp_path / "colour.am", colour.model, colour.source, metadata={})
    expect_refused(opens(tmp_path / "colour.am"), "3", "1", "channel")


def test_a_model_that_is_no_classifier(opens, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def pixels(classes=10, channels=1):\n    return nn.Conv2d(channels, classes, 3, padding=1)\n"
        "def number(classes=10, channels=1):\n    return 42\n"
        "def broken(classes=10, channels=1):\n    raise KeyError('width')\n"
    )
    expect_refused(opens(f"{tmp_path}/net.py:pixels"), "classifier")
    expect_refused(opens(f"{tmp_path}/net.py:number"), "net.py")
    expect_refused(opens(f"{tmp_path}/net.py:broken"), "net.py", "width")
    expect_refused(opens(f"{tmp_path}/net.py:absent"), "net.py", "absent")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gamma", "0.9"), "--gamma must lie in (0, 0.84]"),
        (("--gamma", "0"), "--gamma must lie in (0, 0.84]"),
        (("--gamma", "nan"), "--gamma must lie in (0, 0.84]"),
        (("--max-flops", "20 parsecs"), "--max-flops '20 parsecs' is not understood. Write a share of the model's"),
        (("--max-flops", "40"), "such as 40%, or an amount with its unit, such as 20M"),
        (("--max-flops", "-5M"), "--max-flops must be above 0 and finite, it is -5M"),
        (("--max-size", "0%"), "--max-size must be above 0"),
        (("--max-size", "500"), "--max-size '500' is not understood"),
        (("--max-latency", "3"), "--max-latency '3' is not understood"),
        (("--max-drop", "0.5"), "--max-drop '0.5' is not understood. Write percentage points"),
        (("--max-drop", "0.5%"), "--max-drop '0.5%' is not understood"),
        (("--max-drop", "-1pp"), "--max-drop must lie in [0, 100) points, it is -1pp"),
        (("--max-drop", "100pp"), "--max-drop must lie in [0, 100) points"),
        (("--max-drop", "1pp", "--gamma", "0.9"), "--gamma must lie in (0, 0.84]"),
        (("--budget", "soon"), "--budget 'soon' is not understood. Write 30m"),
        (("--budget", "0steps"), "nothing to spend"),
        (("--searcher", "psychic"), "no searcher 'psychic'. Choose one of: "),
        (("--max-length", "0"), "--max-length must be a whole number in [1, 100], it is 0"),
        (("--workers", "-1"), "--workers must be a whole number in [1, 4096], it is -1"),
        (("--workers", "0"), "--workers must be a whole number in [1, 4096], it is 0"),
        (("--unit-epochs", "0"), "--unit-epochs must lie in (0, 10000], it is 0"),
        (("--fraction", "1.5"), "--fraction must lie in (0, 1]"),
        (("--batch", "0"), "--batch must be a whole number in [1, 1000000]"),
        (("--lr", "0"), "--lr must lie in (0, 100]"),
        (("--round-to", "0"), "--round-to must be a whole number in [1, 4096]"),
        (("--step-timeout", "0"), "--step-timeout must lie in (0, 31622400] seconds"),
        (("--precision", "float8"), "--precision must be auto, float32 or bfloat16"),
        (("--final", "maybe"), "--final must be full or none"),
        (("--cache-size", "big"), "'big' is not a size"),
        (("--mean", "0.5"), "--mean and --std go together"),
        (("--mean", "grey", "--std", "1"), "--mean 'grey' is not a list of numbers"),
        (("--augment", "mirror"), "--augment must be one of"),
    ],
)
def test_limits_that_cannot_be_met(automc, digits, automc_home, words, said):
    expect_refused(automc("search", digits, "--data", "digits", *words), said)
    assert not (automc_home / "graph").exists()


@pytest.mark.parametrize("name", ["abacus", "gpu", "mps", "xpu", "meta", "cpu:1", "cuda:-1", ""])
def test_a_device_that_nothing_runs_on(automc, digits, name):
    expect_refused(automc("search", digits, "--data", "digits", f"--device={name}"), f"--device '{name}'", "auto, cpu")


def test_a_missing_device_is_the_machines_fault(automc, digits):
    expect_refused(automc("search", digits, "--data", "digits", "--device", "cuda:99"), "There is no cuda:99", code=1)


def test_broken_card_or_experience_leaves_the_graph_alone(automc, full_home, tmp_path, monkeypatch):
    before = nodes()
    cards = Path(shutil.copytree(methods_dir(), tmp_path / "methods"))
    card = yaml.safe_load((cards / "ns.yaml").read_text())
    card["hyperparameters"][0]["values"] = [0.1, 0.1]
    (cards / "ns.yaml").write_text(yaml.safe_dump(card))
    with monkeypatch.context() as patch:
        patch.setattr("kg.cards.methods_dir", lambda: cards)
        expect_refused(automc("kg", "sync"), "ns.yaml: hyperparameters.HP1.values: duplicate setting 0.1")
    papers = Path(shutil.copytree(experience_dir(), tmp_path / "papers"))
    paper = yaml.safe_load((papers / "he2018_sfp.yaml").read_text())
    paper["records"][0]["top1_percent"] = 192.2
    (papers / "he2018_sfp.yaml").write_text(yaml.safe_dump(paper))
    with monkeypatch.context() as patch:
        patch.setattr("kg.experience.experience_dir", lambda: papers)
        expect_refused(automc("kg", "sync"), "he2018_sfp.yaml: records.sfp_001.top1_percent")
    expect_refused(automc("experience", "check", papers / "he2018_sfp.yaml"), "records.sfp_001.top1_percent")

    expect_refused(automc("kg", "query", "MATCH (m:Method) RETRUN m"))
    expect_refused(automc("kg", "query", "MATCH (m:Method) DETACH DELETE m"), "read-only")
    assert nodes() == before


def test_unreachable_server(automc, digits, automc_home, monkeypatch):
    monkeypatch.setenv("AUTOMC_GRAPH", "bolt://127.0.0.1:1")
    for words in (("kg", "init"), ("study", "list"), ("show", "digits-digits-1"), ("resume", "digits-digits-1")):
        expect_refused(automc(*words), "127.0.0.1:1", code=1)
    quick = ("--data", "digits", "--precision", "float32", "--device", "cpu")
    expect_refused(automc("search", digits, *quick), "127.0.0.1:1", code=1)
    assert not (automc_home / "graph").exists()
    assert not (automc_home / "studies").exists()


def test_home_below_a_file(automc, digits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / "file" / "home"))
    for words in (("kg", "init"), ("study", "list"), ("search", digits, "--data", "digits"), ("cache", "show")):
        expect_refused(automc(*words), "AUTOMC_HOME", code=1)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("home", ["~nobody-of-this-name/x", "x" * 300, "/dev/null"])
def test_home_that_cannot_be(automc, monkeypatch, home):
    monkeypatch.setenv("AUTOMC_HOME", home)
    for words in (("kg", "status"), ("cache", "show")):
        expect_refused(automc(*words), "AUTOMC_HOME", code=1)


@pytest.mark.parametrize(
    "url", ["garbage", "http://x", " ", "bolt://127.0.0.1:abc", "bolt://127.0.0.1:99999", "neo4j://[::1"]
)
def test_graph_that_is_no_address(automc, automc_home, monkeypatch, url):
    monkeypatch.setenv("AUTOMC_GRAPH", url)
    expect_refused(automc("kg", "status"), f"AUTOMC_GRAPH={url} is not the address of a Neo4j server")


def test_files_of_another_kind(automc, automc_home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bytes").write_bytes(b"\xff\xfe\0\1" * 50)
    Path("empty").touch()
    Path("folder").mkdir()
    for words, said in (
        (("measure", "folder"), "'folder' is a folder. A model is"),
        (("measure", "bytes"), "'bytes' is a file of another kind. A model is"),
        (("measure", "resnet8", "--weights", "folder"), "folder"),
        (("measure", "resnet8", "--weights", "empty"), "empty"),
        (("measure", "resnet8", "--data", "bytes"), "it is a file"),
        (("measure", "resnet8", "--data", ""), "--data is empty"),
        (("measure", "resnet8", "--data", "digits", "--classes", "bytes"), "--classes bytes cannot be read"),
        (("measure", "resnet8", "--mean", "0.5", "--std", "0.5"), "Name the data with --data"),
        (("measure", "resnet8", "--data", "~nobody-of-this-name/x"), "~nobody-of-this-name/x"),
        (("compress", "x.am", "--data", "digits", "--scheme", "folder"), "Is a directory"),
        (("compress", "x.am", "--data", "digits", "--scheme", "bytes"), "it is not a text file"),
        (("compress", "x.am", "--data", "digits", "--scheme", "empty"), "has no step"),
        (("compress", "x.am", "--data", "digits", "--scheme", "/dev/zero"), "larger than"),
        (("method", "check", "bytes"), "is not UTF-8 text"),
        (("method", "check", "folder"), "Is a directory"),
        (("method", "check", "empty"), "is empty"),
        (("method", "check", "/dev/zero"), "is larger than"),
        (("experience", "check", "bytes"), "is not UTF-8 text"),
        (("experience", "check", "empty"), "is empty"),
        (("experience", "check", "--rows", "empty"), "belongs to one experience file"),
        (("kg", "query", "--file", "bytes"), "is not UTF-8 text"),
    ):
        expect_refused(automc(*words), said)


def test_what_nobody_foresaw_is_a_sentence_too(tmp_path):
    code = "from automc.cli import main; main.app = lambda: {}['what nobody foresaw']; main.main()"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: AutoMC failed: KeyError: 'what nobody foresaw'. This is a fault of AutoMC")
    (trace,) = tmp_path.iterdir()
    assert str(trace) in done.stderr
    assert "Traceback" in trace.read_text()
    assert "Traceback" not in done.stderr


def test_result_below_a_file_is_said_before_the_work(automc, digits, tmp_path):
    (tmp_path / "file").write_text("precious")
    out = tmp_path / "file" / "small.am"
    (tmp_path / "scheme.txt").write_text("SFP[HP2=0.2,HP9=0.2,HP10=1]\n")
    for words in (
        ("train", "resnet8"),
        ("compress", digits, "--scheme", tmp_path / "scheme.txt"),
        ("search", digits),
    ):
        expect_refused(automc(*words, "--data", "digits", "--out", out), str(out), "cannot be written")
    expect_refused(automc("train", "resnet8", "--data", "digits", "--out", tmp_path), "it is a folder")
    assert (tmp_path / "file").read_text() == "precious"


def with_limited_files(limit: int, *words: object) -> Result | subprocess.CompletedProcess[str]:
    """Run `automc` in a process whose files may not grow past `limit` bytes, as on a full disk."""
    return subprocess.run(
        [*AUTOMC, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def test_full_disk_while_saving(digits, tmp_path):
    old = digits.read_bytes()
    quick = ("--data", "digits", "--precision", "float32", "--device", "cpu", "--out", digits)
    done = with_limited_files(100_000, "train", "resnet8", "--epochs", "0.1", *quick)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if not line.startswith("training: ")] == [
        f"Error: {digits} cannot be written: File too large. The file that was there is unchanged."
    ]
    assert digits.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.am", "home"]
