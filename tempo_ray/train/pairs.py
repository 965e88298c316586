"""Folders of Parquet files -> the preference pairs in them, checked column by column.

Tested in tests/train/run/test_plan.py.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tempo_ray.errors import UserError
from tempo_ray.schema import PAIR
from tempo_ray.tables import open_dataset

REQUIRED = ("uri", "prompt", "chosen", "rejected", "strength")
NULLABLE = ("order_distance", "kept_share", "text_distance")
COLUMNS = (*REQUIRED, *NULLABLE)


@dataclass(frozen=True)
class TrainingPair:
    """The columns of schema.PAIR that training reads."""

    uri: str
    prompt: str
    chosen: str
    rejected: str
    strength: int
    order_distance: float | None
    kept_share: float | None = None
    text_distance: float | None = None

    @property
    def order_lost(self) -> float | None:
        """Share of the clean order that rejected was not shown, because clips were dropped or
        inverted; 0 to 1, larger is easier. None where it was not measured."""
        if self.order_distance is None:
            return None
        kept_share = 1.0 if self.kept_share is None else self.kept_share
        return 1 - kept_share * (1 - self.order_distance)


def read_pairs(*folders: str) -> list[TrainingPair]:
    """All pairs of the folders, sorted: in another order of files and rows, which a job writes as
    they come, training would not be the same to the bit. Raises UserError."""
    pairs = [pair for folder in folders for pair in _read_folder(folder)]
    return sorted(
        pairs,
        key=lambda pair: (pair.uri, -pair.strength, pair.prompt, pair.chosen, pair.rejected),
    )


def _read_folder(folder: str) -> list[TrainingPair]:
    table = _read_table(folder)
    for name in COLUMNS:
        column = _cast(table[name], name, folder)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    for name in REQUIRED:
        _check_filled(table[name], name, folder)
    if not len(table):
        raise UserError(
            f"{folder}: no pairs in it; generate_pairs says why each candidate was dropped"
        )
    return [TrainingPair(**row) for row in table.to_pylist()]


def _read_table(folder: str) -> pa.Table:
    try:
        dataset = open_dataset(folder)
        if dataset is None:
            raise UserError(
                f"{folder}: no such folder of pairs; make them with generate_pairs, or name "
                "another folder with pairs="
            )
        if not dataset.files:
            raise UserError(f"{folder}: no Parquet files in it")
        missing = [name for name in COLUMNS if name not in dataset.schema.names]
        if missing:
            raise UserError(
                f"{folder}: no column {', '.join(missing)}; a pair has {', '.join(COLUMNS)}, the "
                "last three may be null"
            )
        return dataset.to_table(columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: not Parquet files of pairs: {reason}") from error


def _cast(column: pa.ChunkedArray, name: str, folder: str) -> pa.ChunkedArray:
    wanted = PAIR.field(name).type
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{folder}: column {name} is {column.type}, not {wanted}: {error}"
        ) from error


def _check_filled(column: pa.ChunkedArray, name: str, folder: str) -> None:
    empty = pc.is_null(column)
    if column.type == pa.string():
        empty = pc.or_(empty, pc.fill_null(pc.equal(column, ""), fill_value=False))
    rows = pc.indices_nonzero(empty).to_pylist()
    if rows:
        raise UserError(
            f"{folder}: {len(rows)} of {len(column)} pairs have no {name}, for example row "
            f"{rows[0]}: remove them"
        )
