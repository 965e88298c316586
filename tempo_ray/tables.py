"""Our Parquet folders and Arrow tables <-> the records of records.py."""

from collections.abc import Iterable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tempo_ray.records import read_row, write_row
from tempo_ray.schema import check_version
from tempo_ray.storage import parquet_dataset, resolve

Record = TypeVar("Record")


def open_dataset(folder: str) -> ds.Dataset | None:
    """The Parquet of a folder of a run; None where there is no such folder.

    Raises UserError where another schema version wrote it.
    """
    dataset = parquet_dataset(folder)
    if dataset is not None:
        check_version(dataset.schema, folder)
    return dataset


def count_rows(folder: str) -> int:
    """0 without the folder. Raises UserError as `open_dataset` does."""
    dataset = open_dataset(folder)
    return 0 if dataset is None else int(dataset.count_rows())


def records_of(record: type[Record], table: pa.Table | pa.RecordBatch) -> list[Record]:
    return [read_row(record, row) for row in table.to_pylist()]


def read_records(record: type[Record], file: str) -> list[Record]:
    """The rows of a Parquet file of a run. Raises UserError as `open_dataset` does."""
    filesystem, path = resolve(file)
    table = pq.read_table(path, filesystem=filesystem)
    check_version(table.schema, file)
    return records_of(record, table)


def table_of(records: Iterable[Any], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([write_row(record) for record in records], schema=schema)
