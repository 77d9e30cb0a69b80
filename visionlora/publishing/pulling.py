"""Fetching an adapter from the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visionlora.adapters import AdapterCard
from visionlora.errors import HubError, UsageError
from visionlora.files import atomic_output, exclusive, refuse_existing
from visionlora.formats.text import printable, size_words
from visionlora.hub import fetch, listed, look_up, parse_hub_name
from visionlora.publishing.files import ADAPTER_FILE, KNOWN, read_files


@dataclass(frozen=True, repr=False)
class PulledAdapter:
    """An adapter that was fetched from the hub.

    Attributes:
        path: the adapter file.
        name: what was fetched, with the commit that it was.
        bytes: its size.
        files: all that was written.
        card: what the adapter says about itself.
    """

    path: Path
    name: str
    bytes: int
    files: tuple[Path, ...]
    card: AdapterCard

    def __repr__(self) -> str:
        return f"PulledAdapter({str(self.path)!r}, {self.name})"

    def __str__(self) -> str:
        card, count = self.card, len(self.card.names)
        return (
            f"{self.path}: {size_words(self.bytes)}, {count} class{'es' * (count != 1)}, "
            f"{card.image_size} px, for the base {printable(card.base.get('name', 'with its fingerprint'))}; "
            f"{len(self.files)} files of {self.name}"
        )


def pull(name: str, out: Path | str, *, overwrite: bool = False) -> PulledAdapter:
    """Fetch an adapter from the Hugging Face hub with its card and report, check them and write them into a folder.

    Files that no push of visionlora writes are left where they are, and nothing of what comes is run.

    Args:
        name: `hf://owner/name`, or `hf://owner/name@revision`.
        out: the folder; it may hold other files.
        overwrite: replace files of the same names.

    Raises:
        AdapterError: what comes is no adapter, or a damaged one; nothing is written then.
        DataError: another file is not what its name says; nothing is written then.
        HubError: the hub cannot be reached, or has no such adapter.
        OutputError: a file is there already, or cannot be written.
        UsageError: the name is none, or `huggingface_hub` is not installed.

    Example:
        >>> import visionlora as vl
        >>> vl.pull("hf://owner/steel", "steel")  # doctest: +SKIP
    """
    asked = parse_hub_name(name)
    if asked.file is not None:
        raise UsageError(f"{name}: expected a repository, got a file in it; drop /{asked.file}")
    with exclusive(out) as folder:
        there = look_up(asked)
        names = [file for file in KNOWN if file in there.files]
        if ADAPTER_FILE not in names:
            raise HubError(f"{asked}: expected an adapter that push has written, {ADAPTER_FILE}; {listed(there.files)}")
        for file in names:
            refuse_existing(folder / file, overwrite=overwrite)
        files = read_files({file: fetch(there, file) for file in names})
        for file, content in files.content.items():
            with atomic_output(folder / file) as partial:
                partial.write_bytes(content)
    written, size = tuple(folder / file for file in names), len(files.content[ADAPTER_FILE])
    return PulledAdapter(folder / ADAPTER_FILE, f"hf://{there.repository}@{there.commit}", size, written, files.card)
