"""The user's Python files, imported as they are: with their neighbours, their package, and a command line of their own.

Each file sees the modules of its own folders, whatever another file of the same process imported under the same names:
those are put aside while it runs. What a file has imported stays as it is for this process until somebody asks for it
anew after a change.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import site
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from automc.errors import AutoMCError

_OWN = Path(__file__).resolve().parents[1]


class UserFileError(AutoMCError):
    """A file of the user's cannot be imported; the message says why and where."""


@dataclass
class UserFile:
    """A file as it was imported, with everything of the user's that it pulled in."""

    path: Path
    name: str
    """Of its module: dotted inside a package."""
    folders: tuple[str, ...]
    """Where its imports are looked for before everything else."""
    modules: dict[str, ModuleType] = field(default_factory=dict)
    sources: dict[Path, str] = field(default_factory=dict)
    """sha256 of each file, itself among them."""
    first: dict[Path, str] = field(default_factory=dict)
    """Those of them that its import read: what it imports later, while it runs, comes at its time."""

    @property
    def module(self) -> ModuleType:
        """The imported module."""
        return self.modules[self.name]

    @property
    def sha256(self) -> str:
        """Hash of the file itself, when it was imported."""
        return self.sources[self.path]

    def used(self) -> tuple[str, ...]:
        """Return those folders that hold something it imported and that do not follow from its own place."""
        own = (self.folders[0], str(self.path.parent))
        roots = {_root(name, module) for name, module in self.modules.items()}
        return tuple(f for f in self.folders if f not in own and os.path.realpath(f) in roots)

    def unchanged(self) -> bool:
        """Tell whether every file is on disk as it was imported."""
        return all(sha256(path) == known for path, known in self.sources.items())


_imported: dict[Path, list[UserFile]] = {}
_installed_ones: dict[str, ModuleType] = {}
_threads: set[threading.Thread] = set()
_running: list[Path] = []


def load(path: Path, folders: Sequence[str] = ()) -> UserFile:
    """Import a file, once for each state of it and of what it pulls in.

    Args:
        folders: further places of imports, after its own folder or package and the working directory.

    Raises:
        UserFileError: it is not there, or raises.
    """
    path = path.resolve()
    if not path.is_file():
        raise UserFileError(f"There is no file {path}.")
    for known in reversed(_imported.get(path, [])):
        if known.unchanged():
            return known
    file = _located(path, folders)
    try:
        with running(file):
            spec = importlib.util.spec_from_file_location(file.name, path)
            if spec is None or spec.loader is None:
                raise UserFileError(f"{path} is not a Python file.")
            _import_parents(file.name)
            module = sys.modules.get(file.name)
            if module is None:
                module = importlib.util.module_from_spec(spec)
                sys.modules[file.name] = module
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    sys.modules.pop(file.name, None)
                    raise
            file.modules[file.name] = module
            file.sources[path] = sha256(path)
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        if isinstance(error, UserFileError):
            raise
        raise UserFileError(f"{path} cannot be imported: {said(error, path)}{_advice(error, file)}") from error
    file.first = dict(file.sources)
    _imported.setdefault(path, []).append(file)
    return file


def known(path: Path, sha256: str | None = None) -> UserFile | None:
    """Return the latest import of `path`, with this content of its own; None where this process has none."""
    found = (f for f in reversed(_imported.get(path.resolve(), [])) if sha256 in (None, f.sha256))
    return next(found, None)


@contextlib.contextmanager
def running(file: UserFile) -> Iterator[None]:
    """Let code of a file run: its folders on the path, its modules in place, its own command line, prints on stderr.

    What it imports meanwhile is its own from then on. The working directory is as before afterwards.
    """
    before, path, arguments, folder = dict(sys.modules), list(sys.path), list(sys.argv), os.getcwd()
    threads = set(threading.enumerate())
    for name in _aside(file):
        del sys.modules[name]
    sys.modules.update(file.modules)
    visible = dict(sys.modules)
    sys.path[:] = [*file.folders, *(p for p in path if p not in file.folders)]
    sys.argv[:] = [str(file.path)]
    _running.append(file.path)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _running.pop()
        _keep(file, visible)
        older = {id(m) for f in _imported.get(file.path, []) if f is not file for m in f.modules.values()}
        for name, module in before.items():
            taken = name in sys.modules and (name not in file.modules or id(module) in older)
            if sys.modules.get(name) is not module and not taken:
                sys.modules[name] = module
        # Folders that the file itself put on the path stay there: it may import from them later.
        added = [p for p in sys.path if p not in path and p not in file.folders]
        sys.path[:] = [*path, *added]
        sys.argv[:] = arguments
        with contextlib.suppress(OSError):
            os.chdir(folder)
        _threads.update(t for t in threading.enumerate() if t not in threads and not t.daemon)


def under_way() -> Path | None:
    """Return the file whose code is running now, because AutoMC imports or calls it; None for none."""
    return _running[-1] if _running else None


def left_running() -> bool:
    """Tell whether code of the user's left threads behind that would keep the process from ending."""
    return any(thread.is_alive() for thread in _threads)


def said(error: BaseException, path: Path) -> str:
    """Return an error in one line, with the last line of the user's code that led to it."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    if not frames:
        return text
    last = frames[-1]
    where = (
        f"line {last.lineno}"
        if Path(last.filename).resolve() == path.resolve()
        else f"{last.filename}, line {last.lineno}"
    )
    return f"{text} ({where})"


def sha256(path: Path) -> str:
    """Return the hash of a file's content, empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _located(path: Path, further: Sequence[str]) -> UserFile:
    """Find out what a file is called, and where its imports are."""
    parts, top = [path.stem], path.parent
    # A folder that is imported from relatively is a package, whether it says so or not.
    depth = max((level for level, _ in _imports(path)), default=0)
    while ((top / "__init__.py").is_file() or len(parts) <= depth) and top.name.isidentifier():
        parts.insert(0, top.name)
        top = top.parent
    here = [str(top), *further]
    with contextlib.suppress(OSError):  # the working directory may be gone
        here.insert(1, os.getcwd())
    if len(parts) == 1:
        name = "automc_user_" + hashlib.sha256(f"{path}:{sha256(path)}".encode()).hexdigest()[:16]
    else:
        name = ".".join(parts[:-1] if path.stem == "__init__" else parts)
        here.append(str(path.parent))  # as a script in this folder would have it, but after all else
    return UserFile(path, name, tuple(dict.fromkeys(here)))


def _import_parents(name: str) -> None:
    """Import the packages around a module, so that its relative imports find them."""
    parent = name.rpartition(".")[0]
    if parent:
        importlib.import_module(parent)


def _aside(file: UserFile) -> list[str]:
    """Names of modules that this file must not see: other files' own, and what its folders have under the same name.

    Never installed ones: a function of torch's may be the loss that one file has, and its module is there for all.
    """
    others = {id(m) for files in _imported.values() for f in files if f is not file for m in f.modules.values()}
    own = {id(module) for module in file.modules.values()}
    found = []
    for name, module in _of_users():
        if id(module) in own or name == "__main__":
            continue
        if id(module) in others or _hidden(name, module, file.folders):
            found.append(name)
    return found


def _hidden(name: str, module: ModuleType, folders: Sequence[str]) -> bool:
    """Whether `folders` have another module of this name than the one that is loaded."""
    top, place = name.partition(".")[0], _file_of(module)
    for folder in folders:
        base = Path(folder) / top
        package = base.is_dir() if os.path.isdir(place) else (base / "__init__.py").is_file()
        if package or base.with_suffix(".py").is_file():
            return not place.startswith(str(base.resolve()))
    return False


def _keep(file: UserFile, before: dict[str, ModuleType]) -> None:
    """Note what a file has imported, also what was there already, and the content of all of it."""
    new = [n for n, m in _of_users() if before.get(n) is not m]
    # What the sources name is looked up once; later only what comes newly.
    for name in [*new, *(_named(file, before) if new or not file.sources else ())]:
        module = sys.modules.get(name)
        place = _file_of(module)
        if module is not None and _is_users(place):
            file.modules[name] = module
            if os.path.isfile(place):
                file.sources.setdefault(Path(place), sha256(Path(place)))


def _named(file: UserFile, loaded: dict[str, ModuleType]) -> list[str]:
    """Modules that were loaded before and that the file's sources import by name, and theirs in turn."""
    found: dict[str, None] = {}
    waiting = [(file.name, file.path), *((n, Path(_file_of(m))) for n, m in file.modules.items())]
    seen: set[Path] = set()
    while waiting:
        name, path = waiting.pop()
        if path in seen or path.suffix != ".py":
            continue
        seen.add(path)
        for wanted in _imported_by(path, name):
            module = loaded.get(wanted)
            if module is not None and wanted not in found and _is_users(_file_of(module)):
                found[wanted] = None
                waiting.append((wanted, Path(_file_of(module))))
    return list(found)


def _imports(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Imports of a source file: how many dots lead them, and the names."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield 0, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            yield node.level, [".".join(base), *(".".join([*base, alias.name]) for alias in node.names)]


def _imported_by(path: Path, name: str) -> Iterator[str]:
    """Full names of what the module `name` imports, each with what it may be a part of."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for level, names in _imports(path):
        around = package[: len(package) - level + 1] if level else []
        for wanted in names:
            parts = [*around, *filter(None, wanted.split("."))]
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _of_users() -> Iterator[tuple[str, ModuleType]]:
    """Loaded modules that are the user's own. Of the thousands that are not, each is looked at once."""
    for name, module in list(sys.modules.items()):
        if _installed_ones.get(name) is not module:
            place = _file_of(module)
            if _is_users(place):
                yield name, module
            elif place:
                _installed_ones[name] = module


def _file_of(module: ModuleType | None) -> str:
    """Where a module is: its file, or the folder of a package that has none."""
    try:
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    except Exception:  # a lazy module can raise anything
        return ""
    return _real(place) if isinstance(place, str) else ""


def _root(name: str, module: ModuleType) -> str:
    """The folder that a module was found from."""
    place = Path(_file_of(module))
    up = name.count(".") + (place.name == "__init__.py")
    return str(place.parents[min(up, len(place.parents) - 1)])


@functools.cache
def _real(place: str) -> str:
    return os.path.realpath(place)


def _is_users(place: str) -> bool:
    """Whether a file is the user's own: neither Python's, nor installed, nor AutoMC's."""
    return bool(place) and not place.startswith("<") and not place.startswith(_installed())


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    with contextlib.suppress(AttributeError):  # not in every virtual environment
        paths += [*site.getsitepackages(), site.getusersitepackages()]
    own = [str(_OWN / "automc"), str(_OWN / "kg")]
    return tuple(os.path.realpath(p) + os.sep for p in [*paths, *own] if p)


def _advice(error: BaseException, file: UserFile) -> str:
    if isinstance(error, ModuleNotFoundError):
        places = ", ".join(file.folders)
        return f". Imports were looked for in {places}; start automc in the project's folder, or set PYTHONPATH."
    return ""
