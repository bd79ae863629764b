"""[records → **records that can be read** → batch → model → loss → metric]

Find which of the listed videos exist and can be read: by the manifest of the dataset if there is one, else by checking
each file.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from pytorch_lightning.utilities import rank_zero_warn

from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.decode import VideoError, probe
from hcml_lightning.data.manifest import MANIFEST_NAME, ManifestRow, is_current, read_manifest

# A split; `listed.py`, which uses this module, defines which there are.
Name = TypeVar("Name", bound=str)


class _Look(NamedTuple):
    """Result of checking one video.

    Attributes:
        record: the record, with what the manifest says about the video if it is known.
        problem: why the video cannot be used; empty if nothing is known to be wrong.
        known: whether the manifest has a row for the video as it is now.
    """

    record: VideoRecord
    problem: str
    known: bool


def usable_records(
    root: str,
    splits: Mapping[Name, Sequence[VideoRecord]],
    on_error: str,
    if_empty: str,
    probe_unknown: Collection[Name] = (),
) -> dict[Name, list[VideoRecord]]:
    """Find the videos of some splits that are neither missing nor broken.

    Args:
        root: folder of the dataset, and of its manifest if it has one.
        splits: videos of each split.
        on_error: "raise", or "skip" to leave out the videos that cannot be read.
        if_empty: what to do if a split has no videos, for the error.
        probe_unknown: splits whose videos to open if the manifest does not know them.

    Returns:
        The records of videos that can be read, as far as is known, of each split.

    Raises:
        FileNotFoundError: if no video of a split is left, or one cannot be read and `on_error` is "raise"; the message
            names those of all splits.
    """
    manifest = manifest_of(root)
    looks = {s: _look_at(root, manifest, s, splits[s], s in probe_unknown) for s in splits}
    broken = {s: found for s in splits if (found := [x.problem for x in looks[s] if x.problem])}
    if broken:
        message = "\n".join(_named(s, found, len(splits[s])) for s, found in broken.items())
        if on_error == "raise":
            whole = [splits[s] for s in broken if len(broken[s]) == len(splits[s])]
            raise FileNotFoundError(f"{message}\n{_advice(whole)}")
        rank_zero_warn(f"{message}\nThey are skipped.")
    usable = {s: [look.record for look in looks[s] if not look.problem] for s in splits}
    for split, records in usable.items():
        if not records:
            raise FileNotFoundError(f"root={root}: the {split} split has no videos; {if_empty}")
    return usable


def manifest_of(root: str) -> Mapping[str, ManifestRow] | None:
    """Read the manifest of a dataset; return None if it has none."""
    file = Path(root) / MANIFEST_NAME
    return read_manifest(file) if file.is_file() else None


def relative_names(root: str, paths: Sequence[str]) -> list[str]:
    """Return the names of videos as in a manifest: relative to the root of the dataset, with `/`."""
    start = os.path.join(root, "")
    return [
        (path.removeprefix(start) if path.startswith(start) else os.path.relpath(path, root))
        for path in paths
    ]


def _missing_folder(path: str) -> str | None:
    """Return the topmost missing folder on the path of a file; None if all exist."""
    return next((str(p) for p in reversed(Path(path).parents) if not p.is_dir()), None)


def _look_at(
    root: str,
    manifest: Mapping[str, ManifestRow] | None,
    split: str,
    records: Sequence[VideoRecord],
    probe_unknown: bool,
) -> list[_Look]:
    """Check the videos of a split, and warn if the manifest does not know them."""
    names = relative_names(root, [record.path for record in records])
    rows = [(manifest or {}).get(name) for name in names]
    with ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(_look, records, rows, [probe_unknown] * len(records)))
    unknown = [look.record.path for look in looks if not look.known]
    if manifest is not None and unknown:
        rank_zero_warn(
            f"{Path(root) / MANIFEST_NAME} is out of date for {len(unknown)} of {len(records)} videos of the {split} "
            f"split (first: {unknown[0]}); run `hcml data check` to check only those"
        )
    return looks


def _named(split: str, problems: Sequence[str], total: int) -> str:
    """Return how many videos of a split cannot be read, and the first of them."""
    return (
        f"{len(problems)} of {total} video{'s' * (total != 1)} of the {split} split cannot be read:\n  "
        + "\n  ".join(problems[:5])
        + "\n  …" * (len(problems) > 5)
    )


def _advice(unreadable: Sequence[Sequence[VideoRecord]]) -> str:
    """Return what to do about broken videos, given the splits of which none can be read."""
    if not unreadable:
        return "Set on_error='skip' (--data.on_error skip) to skip them."
    gone = _missing_folder(unreadable[0][0].path)
    if gone:
        return f"There is no folder {gone}; put the videos there."
    return "None of them can be read; check that root (--data.root) contains the listed videos."


def _look(record: VideoRecord, row: ManifestRow | None, probe_unknown: bool) -> _Look:
    if row is not None and is_current(row, record.path):
        problem = row.error and f"{record.path}: {row.error}"
        return _Look(replace(record, stored=row.stored()), problem, True)
    if not os.path.exists(record.path):
        return _Look(record, f"{record.path}: there is no such file", False)
    if probe_unknown:
        try:
            probe(record.path)
        except VideoError as error:
            return _Look(record, str(error), False)
    return _Look(record, "", False)
