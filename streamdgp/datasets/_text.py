"""Files of numbers, read strictly: a bad token names its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamdgp.errors import DatasetError

__all__ = ["parse_numbers", "read_numbers", "read_rows", "read_text"]


def read_text(path: Path, holds: str) -> str:
    """Text of a file that must exist; ``holds`` says what it should contain.

    Raises
    ------
    DatasetError
        Missing, unreadable, not text, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DatasetError(
            f"a file {path} with {holds}", "no such file", "Add it, or check the folder and the format."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"a text file {path} with {holds}", str(error), "Restore it.") from error
    if not text.strip():
        raise DatasetError(f"{holds} in {path}", "an empty file", "Restore it.")
    return text


def parse_numbers(text: str, path: Path, holds: str) -> npt.NDArray[np.float64]:
    """All numbers of a text, flat.

    Raises
    ------
    DatasetError
        A token is no number.
    """
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise DatasetError(f"{holds} in {path}", str(error), "Restore the file.") from error


def read_numbers(path: Path, count: int, holds: str) -> npt.NDArray[np.float64]:
    """Exactly ``count`` numbers of a file, flat.

    Raises
    ------
    DatasetError
        Missing file, another count, or a token that is no number.
    """
    numbers = parse_numbers(read_text(path, holds), path, holds)
    if numbers.size != count:
        raise DatasetError(
            f"{holds} ({count} numbers) in {path}", f"{numbers.size} numbers", "Restore the file."
        )
    return numbers


def read_rows(path: Path, holds: str) -> list[list[str]]:
    """Words of every line that is neither empty nor a ``#`` comment."""
    lines = (line.split("#", 1)[0].split() for line in read_text(path, holds).splitlines())
    rows = [words for words in lines if words]
    if not rows:
        raise DatasetError(f"{holds} in {path}", "only comments", "Restore the file.")
    return rows
