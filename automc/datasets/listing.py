"""Which files of an image folder are images of which split and class, as people's tools leave such folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automc.errors import DataError

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
PART_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"), "test": ("test", "testing"), "validation": ("val", "valid", "validation"),
}  # fmt: skip
"""How tools call the splits, in whatever case."""
_LITTER = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"))
"""What systems leave in folders, besides names that begin with a dot; in lower case."""
SHOWN = 5


@dataclass(frozen=True)
class Listing:
    """The image files of one split, by class in order, their labels, and sentences on what was left out."""

    folder: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...] = ()


def find_parts(root: Path) -> dict[str, Path]:
    """Return the folders of the splits that are there: "train", and maybe "test" and "validation".

    Raises:
        DataError: there is no train/, or one of them is there twice.
    """
    found: dict[str, Path] = {}
    for name in _sub_folders(root):
        for part, names in PART_NAMES.items():
            if name.lower() in names:
                if part in found:
                    raise DataError(f"{root} holds both {found[part].name}/ and {name}/. Keep one of them.")
                found[part] = root / name
    if "train" not in found:
        raise DataError(f"{root} has no train/ folder. {_instead(root)}")
    return {part: found[part] for part in PART_NAMES if part in found}


def with_test(root: Path, parts: dict[str, Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the splits with a test set, which is val/ where there is no test/, and sentences on them.

    Raises:
        DataError: there is neither.
    """
    own = parts.get("validation")
    if "test" in parts:
        return parts, () if own is None else (f"Validation images come from {own}.",)
    if own is None:
        raise DataError(f"{root} has neither test/ nor val/ beside train/. One of them is needed to test on.")
    note = f"There is no test/ in {root}: {own.name}/ is the test set, and validation is held out of train/."
    return {"train": parts["train"], "test": own}, (note,)


def _instead(root: Path) -> str:
    """What a folder without train/ holds, and what to do."""
    wanted = "An image folder holds train/CLASS/… and test/CLASS/… (or val/)."
    folders = _sub_folders(root)
    inner = [name for name in folders if any(sub.lower() in PART_NAMES["train"] for sub in _sub_folders(root / name))]
    if inner:
        return f"Did you mean {root / inner[0]}?"
    here = [entry.name for entry in root.iterdir() if _is_image(entry.name)]
    if here:
        return f"It holds {len(here)} image(s) directly, such as {here[0]}, which have no class. {wanted}"
    holding = [name for name in folders if any(_is_image(entry.name) for entry in (root / name).iterdir())]
    if holding:
        return f"It holds {len(holding)} folders of images ({_some(holding)}): are they classes? {wanted}"
    tables = [entry.name for entry in root.iterdir() if entry.suffix.lower() in (".csv", ".json", ".parquet", ".zip")]
    return (f"{_some(tables)} is not read. " if tables else "") + wanted


def find_classes(train: Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes: the sub-folders of train/ in alphabetical order, or `wanted`, which must name the same.

    Raises:
        DataError: there is none, or `wanted` names others.
    """
    found = _sub_folders(train)
    if not found:
        here = sum(_is_image(entry.name) for entry in train.iterdir())
        stray = f" {here} image(s) lie directly in it, without a class." if here else ""
        raise DataError(f"{train} has no sub-folder: it needs one per class, with that class's images.{stray}")
    if wanted is None:
        return tuple(found)
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        what = f"{missing[0]!r} has no folder in {train}" if missing else f"folder {train / extra[0]} is not named"
        raise DataError(f"--classes: {what}. Name every sub-folder of train/ exactly once.")
    return tuple(wanted)


def list_images(folder: Path, classes: Sequence[str], *, every_class: bool) -> Listing:
    """Return the images of one split.

    Files that are no images are counted and named; what systems leave there is passed over.

    Args:
        every_class: a class without an image is a mistake, as in train/; else it is rare, and may be missing.

    Raises:
        DataError: a sub-folder is no class, a class (or all of them) has no image, or a folder cannot be read.
    """
    strange = sorted(set(_sub_folders(folder)) - set(classes))
    if strange:
        raise DataError(f"{folder / strange[0]} is no class of the training images. Remove it, or add it to train/.")
    files: list[str] = []
    labels: list[int] = []
    skipped: Counter[str] = Counter()
    empty: list[str] = []
    notes: list[str] = []
    for label, name in enumerate(classes):
        inside = sorted(_walk(folder / name))
        images = [file for file in inside if _is_image(file)]
        others = Counter(
            os.path.splitext(file)[1].lower() or "without a suffix" for file in inside if not _is_image(file)
        )
        skipped += others
        if not images:
            why = "holds no image" if (folder / name).is_dir() else "is missing"
            empty.append(f"{folder / name} {why}" + (f" that is read ({_counted(others)} skipped)" if others else ""))
        below = {
            os.path.relpath(file, folder / name).split(os.sep)[0]
            for file in images
            if os.path.dirname(file) != str(folder / name)
        }
        if len(below) > 1 and not any(os.path.dirname(file) == str(folder / name) for file in images):
            notes.append(
                f"{folder / name} holds images in sub-folders alone ({_some(sorted(below))}): they are one class."
            )
        files += images
        labels += [label] * len(images)
    stray = sum(_is_image(entry.name) for entry in folder.iterdir() if entry.is_file())
    if empty and (every_class or not files):
        lost = f" {stray} image(s) lie directly in {folder}, without a class." if stray else ""
        raise DataError(
            f"{_some(empty)}: every class needs images in {folder.name}/ ({' '.join(sorted(EXTENSIONS))}).{lost}"
        )
    if stray:
        notes.append(f"{stray} image(s) that lie directly in {folder} have no class and are skipped.")
    if skipped:
        notes.append(
            f"Of {folder}, {sum(skipped.values())} files are no images that are read, and skipped: {_counted(skipped)}."
        )
    return Listing(folder, tuple(files), tuple(labels), tuple(notes))


def _sub_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _litter(entry.name))


def _walk(folder: Path) -> Iterator[str]:
    """Every file below a folder; links are followed, each folder once, and none that leads back up."""
    seen = {(stat.st_dev, stat.st_ino) for stat in map(os.stat, folder.absolute().parents)}

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise DataError(f"{error.filename} cannot be read: {error.strerror}. Change its permissions.") from error

    for parent, inner, names in os.walk(folder, followlinks=True, onerror=unreadable):
        stat = os.stat(parent)
        if (stat.st_dev, stat.st_ino) in seen:
            inner.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        inner[:] = sorted(name for name in inner if not _litter(name))
        yield from (os.path.join(parent, name) for name in names if not _litter(name))


def _is_image(name: str) -> bool:
    return not _litter(os.path.basename(name)) and os.path.splitext(name)[1].lower() in EXTENSIONS


def _litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _counted(suffixes: Counter[str]) -> str:
    said = [f"{count} {suffix}" for suffix, count in suffixes.most_common(SHOWN)]
    return ", ".join(said) + (", …" if len(suffixes) > SHOWN else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
