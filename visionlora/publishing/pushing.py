"""Putting an adapter onto the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from visionlora.cards import family_in, licence_of
from visionlora.errors import AdapterError, HubError, OutputError, UsageError
from visionlora.files import atomic_output
from visionlora.formats.text import class_words, size_words
from visionlora.hub import HubName, explaining, is_hub_name, look_up, parse_hub_name, typed, writing_api
from visionlora.publishing.card import model_card
from visionlora.publishing.files import ADAPTER_FILE, CARD_FILE, DETECTIONS, KNOWN, AdapterFiles, read_files

"""As the hub calls it: that of Ultralytics' bases."""


@dataclass(frozen=True)
class PushedAdapter:
    """An adapter that was put onto the hub.

    Attributes:
        repository: `owner/name`.
        commit: the commit with these files; empty where they were only written.
        page: where a browser shows it; empty likewise.
        folder: where they were written instead; None where they were uploaded.
        files: name -> size in bytes.
    """

    repository: str
    commit: str
    page: str
    folder: Path | None
    files: Mapping[str, int]

    def __str__(self) -> str:
        listed = ", ".join(f"{name} ({size_words(size)})" for name, size in self.files.items())
        if self.folder is not None:
            return f"{self.folder}: {listed}; this would be uploaded to hf://{self.repository}"
        return f"hf://{self.repository}: {listed}; see {self.page}"


def push(
    adapter: Path | str,
    to: str,
    *,
    private: bool = False,
    message: str | None = None,
    licence: str | None = None,
    pictures: bool = False,
    dry_run: Path | str | None = None,
) -> PushedAdapter:
    """Put an adapter into a repository on the Hugging Face hub, with a model card, which is made if it is not there.

    Of a run's folder `report.json`, the picture of its scores and `curves.png` go along where they are, and a
    `README.md` there is taken as the card. Files of an earlier push that are not in this one are removed. The token is
    that of `HF_TOKEN`, or of `hf auth login`.

    Args:
        adapter: the folder of a run, or an adapter file, which goes alone.
        to: the repository, `owner/name`; made if there is none.
        private: let only its owners see it; an existing public repository is refused.
        message: of the commit.
        licence: of the adapter, as the hub calls it; that of its base's family of detectors if None.
        pictures: let `report_detections.png` go along, which shows pictures of the data set.
        dry_run: a new folder to write the files into, instead of uploading them; the hub is not asked.

    Raises:
        AdapterError: there is no adapter, or it is damaged.
        DataError: a file beside it is damaged, or its report is of other models.
        HubError: the hub cannot be reached, or does not allow it.
        OutputError: the folder of the dry run exists, or cannot be written.
        UsageError: an option is wrong, or `huggingface_hub` is not installed.

    Example:
        >>> import visionlora as vl
        >>> vl.push("runs/steel", "owner/steel", private=True)  # doctest: +SKIP
    """
    name = _repository(to)
    if message is not None and not message.strip():
        raise UsageError("--message: expected some text, got none")
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UsageError(f"--licence: expected a licence as the hub calls it, such as agpl-3.0, got {licence!r:.60}")
    if is_hub_name(adapter):
        raise UsageError(f"{typed(adapter)}: expected a run or an adapter here, got one on the hub; pull it first")
    files = _with_card(read_files(_found(Path(adapter), pictures=pictures)), name.repository, licence)
    sizes = {file: len(content) for file, content in files.content.items()}
    if dry_run is not None:
        folder = Path(dry_run)
        _write(files, folder)
        return PushedAdapter(name.repository, "", "", folder, sizes)
    message = message or f"Adapter of {class_words(len(files.card.names))}"
    commit, page = _upload(files, name, private=private, message=message)
    return PushedAdapter(name.repository, commit, page, None, sizes)


def _repository(to: str) -> HubName:
    try:
        name = parse_hub_name(to if is_hub_name(to) else f"hf://{to}")
    except UsageError:
        name = None
    if name is None or name.file is not None or name.revision is not None:
        raise UsageError(f"--to {to}: expected owner/name alone, without a revision or a file")
    return name


def _found(path: Path, *, pictures: bool) -> dict[str, Path]:
    """Return where the files lie that are to go onto the hub, by their name there."""
    if not path.is_dir():
        return {ADAPTER_FILE: path}
    if not (path / ADAPTER_FILE).is_file():
        raise AdapterError(f"{path}: expected the folder of a run with {ADAPTER_FILE}, found none")
    names = [name for name in KNOWN if pictures or name != DETECTIONS]
    return {name: path / name for name in names if (path / name).is_file()}


def _with_card(files: AdapterFiles, repository: str, licence: str | None) -> AdapterFiles:
    """Return the files with README.md: the one that is there, or a new one."""
    if CARD_FILE in files.content:
        return files
    own = licence_of(family_in(files.card.base)).removesuffix("-only").lower()
    card = model_card(files, repository, licence=licence or own).encode()
    return replace(files, content={CARD_FILE: card, **files.content})


def _write(files: AdapterFiles, folder: Path) -> None:
    if folder.exists():
        raise OutputError(f"{folder}: exists already; choose another folder for --dry-run")
    for name, content in files.content.items():
        with atomic_output(folder / name) as partial:
            partial.write_bytes(content)


def _upload(files: AdapterFiles, name: HubName, *, private: bool, message: str) -> tuple[str, str]:
    """Make the repository if there is none, and a commit in it; return its hash and its page."""
    api, add, delete = writing_api(str(name))
    with explaining(str(name)):
        api.create_repo(name.repository, private=private or None, exist_ok=True)
    there = look_up(name)
    if private and not there.private:
        raise HubError(f"{name}: --private, but it is public already; make it private on its page, or choose another")
    operations = [add(path_in_repo=file, path_or_fileobj=content) for file, content in files.content.items()]
    operations += [delete(path_in_repo=file) for file in KNOWN if file in there.files and file not in files.content]
    with explaining(str(name)):
        made = api.create_commit(name.repository, operations, commit_message=message, parent_commit=there.commit)
        return str(made.oid), str(made.commit_url)
