"""A reader's notes and tags, in a file beside the run folder: ``<run>.notes.json``. The run's own record is never touched."""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import ConfigError, StoreError
from ...store import write_json
from .files import table

FORMAT = 1
LONGEST = 20_000  # characters of a note


def path_of(folder: Path) -> Path:
    """The file of the notes on a run."""
    return folder.parent / f"{folder.name}.notes.json"


def read(folder: Path) -> list[dict[str, Any]]:
    """The notes on a run: {"g", "n", "event", "kind", "note", "tags", "saved"}; g and event are None for one on the whole run or step.

    Raises:
        StoreError: the file is damaged, or another version wrote it.
    """
    path = path_of(folder)
    try:
        found = table(path)
    except StoreError:
        raise StoreError(f"notes: {path} is damaged: it holds no JSON object. Mend it, or move it away to begin anew.") from None
    if found and found.get("format") != FORMAT:
        raise StoreError(f"{path}: format {found.get('format')!r}, expected {FORMAT}; another version wrote it, move it away")
    notes = found.get("notes")
    return [note for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []


def save(folder: Path, about: dict[str, Any], note: Any, tags: Any) -> dict[str, Any]:
    """Keep a note; it replaces the one on the same thing, and one without text and tags removes it.

    Args:
        about: g, n, event and kind of what the note is on.

    Raises:
        ConfigError: note or tags of a wrong type, or too long. StoreError: the file cannot be written, or is damaged.
    """
    if not isinstance(note, str) or len(note) > LONGEST:
        raise ConfigError(f"note: {str(note)[:60]!r}; expected a text of at most {LONGEST} characters")
    if not isinstance(tags, list) or not all(isinstance(tag, str) and len(tag) <= 100 for tag in tags) or len(tags) > 50:
        raise ConfigError(f"tags: {str(tags)[:60]!r}; expected a list of at most 50 short texts")
    tags = list(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    path, place = path_of(folder), (about["g"], about["event"])
    try:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # two explorers may save at once
            kept = [old for old in read(folder) if (old.get("g"), old.get("event")) != place]
            if note.strip() or tags:
                kept.append(about | {"note": note, "tags": tags, "saved": datetime.now(UTC).isoformat(timespec="seconds")})
            write_json(path, {"format": FORMAT, "run": folder.name, "notes": kept})
        finally:
            os.close(handle)
    except OSError as error:
        raise StoreError(f"notes: {path} cannot be written: {error.strerror}. Check the folder and its rights.") from None
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise StoreError(f"notes: {path} cannot be written: {cause.strerror}. Check the folder and its rights.") from None
        raise
    return {"saved": str(path), "notes": kept}
