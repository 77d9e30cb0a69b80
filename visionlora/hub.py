"""Files of the Hugging Face hub by name, `hf://owner/name[@revision][/file]`: fetched when somebody names them.

No other module asks the hub for a file. The library, `huggingface_hub`, is optional and loaded with the first name; it
takes the token of `HF_TOKEN` or of its own log-in, and the server of `HF_ENDPOINT`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from visionlora.errors import HubError, UsageError
from visionlora.files import atomic_output, sha256_of
from visionlora.formats.kinds import ADAPTER, FileKind
from visionlora.formats.text import printable
from visionlora.isolation import cache_folder, isolate_hub
from visionlora.progress import counting

SCHEME = "hf://"
MOST_BYTES = 1 << 30
"""Bytes that a file may have: several times those of the largest detector."""
_PART = r"\w(?:[\w.-]{0,94}\w)?"
_NAME = re.compile(
    rf"hf://(?P<repository>{_PART}/{_PART})(?:@(?P<revision>refs/pr/\d+|[\w.-]+))?(?:/(?P<file>[^@+]+))?", re.ASCII
)
_COMMIT = re.compile("[0-9a-f]{40}")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_LONGEST_SECONDS = 30
"""That a listing may be waited for."""
_SHOWN = 8
"""How many files of a repository a message lists."""


@dataclass(frozen=True)
class HubName:
    """A repository of models on the hub, or a file in it.

    Attributes:
        repository: `owner/name`.
        revision: a branch, a tag or a commit; None for the main branch.
        file: a path in it; None where the only fitting one is meant.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision, file = f"@{self.revision}" if self.revision else "", f"/{self.file}" if self.file else ""
        return f"{SCHEME}{self.repository}{revision}{file}"


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it.

    Attributes:
        bytes: its size.
        sha256: of its bytes, where the hub keeps it outside of git.
        blob: else its SHA-1 as git computes it.
    """

    bytes: int
    sha256: str | None
    blob: str | None

    def describes(self, path: Path) -> bool:
        """Whether a file has these bytes."""
        if path.stat().st_size != self.bytes:
            return False
        if self.sha256 is not None:
            return sha256_of(path) == self.sha256
        content = path.read_bytes()
        return self.blob is None or hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == self.blob


@dataclass(frozen=True)
class HubListing:
    """What a repository holds at one commit.

    Attributes:
        repository: `owner/name`.
        commit: its hash.
        private: whether only its owners see it.
        files: by their path in it, those alone whose path is one that can be written here.
    """

    repository: str
    commit: str
    private: bool
    files: Mapping[str, HubFile]


def typed(path: Path | str) -> str:
    """Return a path as it was typed: of the two slashes of a name on the hub, `Path` keeps one.

    Example:
        >>> typed(Path("hf://owner/steel")), typed("runs/steel")
        ('hf://owner/steel', 'runs/steel')
    """
    return path if isinstance(path, str) else re.sub("^hf:/", SCHEME, str(path))


def is_hub_name(path: Path | str) -> bool:
    """Return whether a path is a name on the hub.

    Example:
        >>> is_hub_name("hf://owner/steel"), is_hub_name("runs/steel")
        (True, False)
    """
    return typed(path).startswith(SCHEME)


def parse_hub_name(text: Path | str) -> HubName:
    """Read `hf://owner/name`, `@revision` and `/file` behind it or not.

    Raises:
        UsageError: it is another text.

    Example:
        >>> parse_hub_name("hf://owner/steel@v2/adapter.safetensors")
        HubName(repository='owner/steel', revision='v2', file='adapter.safetensors')
    """
    found = _NAME.fullmatch(typed(text))
    name = None if found is None else HubName(found["repository"], found["revision"], found["file"])
    if name is None or ".." in name.repository or "--" in name.repository or not _is_inside(name.file or "a"):
        raise UsageError(f"{typed(text)}: expected hf://owner/name, hf://owner/name@revision or hf://owner/name/file")
    return name


def local_file(path: Path | str, *kinds: FileKind) -> Path | str:
    """Return where a file lies here: what is named `hf://owner/name` is fetched into the cache, any other path is kept.

    What lies beside an OpenVINO or ncnn model is fetched with it. A name with the whole hash of a commit and a file is
    asked for once, and needs no network afterwards.

    Args:
        path: a path, or a name on the hub.
        kinds: what is expected there; of a repository without a named file the only file of these kinds is taken.

    Raises:
        UsageError: the name is none, or `huggingface_hub` is not installed.
        HubError: the hub cannot be reached, has no such file or several that fit, or gives other bytes than it lists.
    """
    if not is_hub_name(path):
        return path
    name = parse_hub_name(path)
    if name.file is not None and name.revision is not None and _COMMIT.fullmatch(name.revision):
        kept = _place(name.repository, name.revision, name.file)
        if kept.is_file():
            return kept
    listing = look_up(name)
    chosen = _chosen(name, listing.files, kinds)
    kind = next((kind for kind in kinds if kind.suffix == PurePosixPath(chosen).suffix), None)
    root = Path("/")
    beside = [] if kind is None else [file.relative_to(root).as_posix() for file in kind.files(root / chosen)]
    for file in beside:
        if file in listing.files and file != chosen:
            fetch(listing, file)
    return fetch(listing, chosen)


def refuse_hub_name(path: Path | str, option: str) -> None:
    """Refuse a name on the hub where a file is to be changed.

    Raises:
        UsageError: it is one; `option` is named.
    """
    if is_hub_name(path):
        raise UsageError(f"{option} {typed(path)}: this file is written into; `visionlora pull` it, and pass its path")


def look_up(name: HubName) -> HubListing:
    """Ask the hub what a repository holds.

    Raises:
        UsageError: `huggingface_hub` is not installed.
        HubError: the hub cannot be reached, has no such repository or revision, or does not let you see it.
    """
    with explaining(str(HubName(name.repository, name.revision))):
        found = hub_api().model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=_LONGEST_SECONDS
        )
        if not isinstance(found.sha, str) or not _COMMIT.fullmatch(found.sha):
            raise ValueError(f"expected the hash of a commit from the hub, got {found.sha!r:.60}")
        files = {
            each.rfilename: HubFile(each.size, each.lfs and each.lfs["sha256"], each.blob_id)
            for each in found.siblings or ()
            if isinstance(each.rfilename, str) and isinstance(each.size, int) and _is_inside(each.rfilename)
        }
    return HubListing(name.repository, found.sha, bool(found.private), files)


def fetch(listing: HubListing, file: str) -> Path:
    """Return one of the files of a listing in the cache, fetched where it is not there; its bytes are those listed.

    Raises:
        HubError: it is too large, cannot be fetched, or comes as other bytes.
        OutputError: the cache cannot be written.
    """
    where = str(HubName(listing.repository, listing.commit, file))
    expected, place = listing.files[file], _place(listing.repository, listing.commit, file)
    if expected.bytes > MOST_BYTES:
        raise HubError(f"{where}: expected at most {MOST_BYTES} bytes, got a file of {expected.bytes}")
    if place.is_file() and expected.describes(place):
        return place
    with atomic_output(place) as partial, tempfile.TemporaryDirectory(prefix=".", dir=place.parent) as folder:
        with counting("fetch", 1, "file", where) as advance, explaining(where):
            made = hub_api().hf_hub_download(listing.repository, file, revision=listing.commit, local_dir=folder)
            advance()
        if not expected.describes(Path(made)):
            raise HubError(f"{where}: damaged: what came is not the file that the hub lists; try again")
        shutil.copyfile(made, partial)
    return place


def writing_api(name: str) -> tuple[Any, Any, Any]:
    """Return the client, and what makes an operation of a commit that adds a file and one that deletes a file.

    Args:
        name: of what is to be written, for the message.

    Raises:
        HubError: there is no token.
        UsageError: `huggingface_hub` is not installed.
    """
    library = _library()
    if library.get_token() is None:
        raise HubError(f"{name}: the hub takes files with a token alone; {_LOG_IN}")
    return hub_api(), library.CommitOperationAdd, library.CommitOperationDelete


def hub_api() -> Any:
    """Return the client of the hub, `huggingface_hub.HfApi`, for the server that `HF_ENDPOINT` names.

    Raises:
        UsageError: `huggingface_hub` is not installed.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    return _library().HfApi(endpoint=endpoint, library_name="visionlora", library_version=version("visionlora"))


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """Turn what the library raises inside into a HubError that says what to do.

    Args:
        name: of the repository or file that is asked for.

    Raises:
        HubError: the library raised something.
        UsageError: it is not installed.
    """
    errors = importlib.import_module(f"{_library().__name__}.errors")
    try:
        yield
    except (errors.HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise HubError(f"{name}: {_reason(error, errors)}") from error


def _library() -> Any:
    isolate_hub()
    try:
        return importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise UsageError(
            "models on the hub need the package huggingface_hub: pip install '.[hub]' in a clone of visionlora"
        ) from error


def _reason(error: Exception, errors: Any) -> str:
    """Return what is wrong and what to do, in a line."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    lines = str(getattr(cause, "server_message", None) or cause).strip().splitlines()
    lines = lines if isinstance(cause, ValueError) else lines[:1]  # what follows is advice for who calls the library
    said = printable(" ".join(lines) or type(cause).__name__)[:300]
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the hub; unset it, or pass the path of a file that `pull` has written"
    if isinstance(cause, errors.GatedRepoError):
        return f"the owner lets in only who has agreed to the terms on the repository's page; do, then {_LOG_IN}"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return f"no such repository, or a private one that you may not see; check the name, and {_LOG_IN}"
    if isinstance(cause, errors.RevisionNotFoundError):
        return "no such branch, tag or commit"
    if status in (401, 403):
        return f"your token is none that the hub knows, or may not do this: {said}; {_LOG_IN}"
    if status is not None:
        return f"the hub answered {status}: {said}"
    if isinstance(cause, errors.HTTPError | errors.LocalEntryNotFoundError):
        return f"the hub cannot be reached: {said}; check the network, and HF_ENDPOINT if it is set"
    if isinstance(cause, AttributeError | KeyError | TypeError | json.JSONDecodeError):
        return f"the hub's answer cannot be used: {said}"
    return said


def _chosen(name: HubName, files: Collection[str], kinds: tuple[FileKind, ...]) -> str:
    """Return the file that a name means.

    Raises:
        HubError: there is none, or there are several.
    """
    if name.file is not None:
        if name.file not in files:
            raise HubError(f"{name}: no such file; {listed(files)}")
        return name.file
    suffixes = [kind.suffix for kind in kinds]
    fitting = [file for file in files if PurePosixPath(file).suffix in suffixes]
    if len(fitting) == 1:
        return fitting[0]
    expected = f"{name}: expected one file that ends in {' or '.join(suffixes)}"
    if fitting:
        names = ", ".join(map(printable, fitting[:_SHOWN]))
        raise HubError(f"{expected}, got {len(fitting)}: {names}; name one of them, such as {name}/{fitting[0]}")
    lone = any(PurePosixPath(file).suffix == ADAPTER.suffix for file in files)
    advice = f"; an adapter needs its base: write base.pt+{name}" if lone else ""
    raise HubError(f"{expected}; {listed(files)}{advice}")


def listed(files: Collection[str]) -> str:
    """Say which files a repository holds, the first few of many."""
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return f"it holds {', '.join(map(printable, list(files)[:_SHOWN])) or 'nothing'}{more}"


def _is_inside(file: str) -> bool:
    """Whether a path of a repository stays in the folder that it is written into, on any system."""
    plain = file.isprintable() and not set(file) & set('\\:*?"<>|')
    return plain and all(part.strip(" .") and part == part.strip() for part in file.split("/"))


def _place(repository: str, commit: str, file: str) -> Path:
    return cache_folder() / "hub" / repository / commit / file
