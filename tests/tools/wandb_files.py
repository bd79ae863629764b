"""Reads back what W&B wrote offline: a log of records in blocks, as LevelDB writes them."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER, BLOCK, CHUNK_HEADER = 7, 32768, struct.Struct("<IHB")
WHOLE, LAST = 1, 4


@dataclass
class OfflineRun:
    """The content of one .wandb file; `exit_code` is None where the run was never finished."""

    began: int = 0
    """In nanoseconds: the names of the folders know the second alone."""
    run_id: str = ""
    group: str = ""
    sweep_id: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def values(self, name: str) -> list[Any]:
        return [row[name] for row in self.history if name in row]

    @property
    def names(self) -> set[str]:
        return {name for row in self.history for name in row}


def read_runs(folder: Path, patience: float = 60) -> list[OfflineRun]:
    """All runs below a folder, in the order in which they began.

    W&B writes in a process of its own, which may be busy for some seconds after a run has ended.
    """
    files = [path for path in folder.rglob("run-*.wandb") if not path.parent.is_symlink()]
    deadline = time.monotonic() + patience
    runs = [_read(path) for path in files]
    while any(run.exit_code is None for run in runs) and time.monotonic() < deadline:
        time.sleep(0.1)
        runs = [_read(path) for path in files]
    return sorted(runs, key=lambda run: run.began)


def _read(path: Path) -> OfflineRun:
    run = OfflineRun()
    for content in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.began = record.run.start_time.ToNanoseconds()
            run.run_id, run.sweep_id = record.run.run_id, record.run.sweep_id
            run.group = record.run.run_group
            run.config |= _items(record.run.config.update)
        elif kind == "config":
            run.config |= _items(record.config.update)
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[bytes]:
    assert content[:4] in (b":W&B", b"")
    place, parts = FILE_HEADER, b""
    while place + CHUNK_HEADER.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < CHUNK_HEADER.size:
            place += left
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(content, place)
        start = place + CHUNK_HEADER.size
        if start + length > len(content):
            return
        parts += content[start : start + length]
        place = start + length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
