"""Each record and its Arrow schema: the same fields, in the same order, of types that fit."""

import dataclasses
import types
import typing
from typing import Any, Literal, get_args, get_origin

import pyarrow as pa
import pytest
from pydantic import ValidationError

from tempo_ray import schema
from tempo_ray.records import (
    Answer,
    Clip,
    Pair,
    RuleResult,
    Score,
    Shot,
    TransientFailure,
    Video,
    VideoAnswers,
    read_row,
    write_row,
)

ROWS = {
    Video: schema.VIDEO,
    VideoAnswers: schema.VIDEO_ANSWERS,
    TransientFailure: schema.FAILURE,
    Pair: schema.PAIR,
    Score: schema.SCORE,
}
NESTED = {
    Shot: schema.SHOT,
    Clip: schema.CLIP,
    Answer: schema.ANSWER,
    RuleResult: schema.RULE_RESULT,
}
ARROW_OF = {
    str: {pa.string()},
    int: {pa.int64()},
    float: {pa.float64(), pa.float32()},
    bool: {pa.bool_()},
}


def without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (types.UnionType, typing.Union):
        return annotation
    (kind,) = [arg for arg in get_args(annotation) if arg is not types.NoneType]
    return kind


def fits(annotation: Any, arrow: pa.DataType) -> bool:
    kind = without_none(annotation)
    if get_origin(kind) is Literal:
        return bool(arrow == pa.string()) and all(isinstance(arg, str) for arg in get_args(kind))
    if get_origin(kind) is tuple:
        item, ellipsis = get_args(kind)
        return ellipsis is ... and pa.types.is_list(arrow) and fits(item, arrow.value_type)
    if kind in NESTED:
        return bool(NESTED[kind] == arrow)
    return arrow in ARROW_OF.get(kind, set())


@pytest.mark.parametrize(
    ("record", "arrow"),
    [*ROWS.items(), *NESTED.items()],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_record_has_the_columns_of_its_schema(
    record: Any, arrow: pa.Schema | pa.StructType
) -> None:
    annotations = typing.get_type_hints(record)
    names = [field.name for field in dataclasses.fields(record)]
    assert names == [field.name for field in arrow]
    for field in arrow:
        assert fits(annotations[field.name], field.type), f"{record.__name__}.{field.name}"


def example(annotation: Any) -> Any:
    """A value of this type that is not its default."""
    kind = without_none(annotation)
    if get_origin(kind) is Literal:
        return get_args(kind)[-1]
    if get_origin(kind) is tuple:
        return (example(get_args(kind)[0]),)
    if dataclasses.is_dataclass(kind):
        return filled(kind)  # type: ignore[arg-type]  # a class: never an instance here
    return {str: "text", int: 3, float: 0.5, bool: True}[kind]


def filled(record: type) -> Any:
    annotations = typing.get_type_hints(record)
    names = [field.name for field in dataclasses.fields(record)]
    return record(**{name: example(annotations[name]) for name in names})


@pytest.mark.parametrize("record", ROWS, ids=lambda record: record.__name__)
def test_a_row_survives_arrow(record: Any) -> None:
    row = filled(record)
    assert None not in write_row(row).values()
    table = pa.Table.from_pylist([write_row(row)], schema=ROWS[record])
    assert [read_row(record, read) for read in table.to_pylist()] == [row]


@pytest.mark.parametrize("record", ROWS, ids=lambda record: record.__name__)
def test_missing_values_survive_arrow(record: Any) -> None:
    annotations = typing.get_type_hints(record)
    missing = {
        field.name: None
        for field in dataclasses.fields(record)
        if without_none(annotations[field.name]) is not annotations[field.name]
    }
    row = dataclasses.replace(filled(record), **missing)
    table = pa.Table.from_pylist([write_row(row)], schema=ROWS[record])
    assert [read_row(record, read) for read in table.to_pylist()] == [row]


def test_a_row_of_another_shape_is_refused() -> None:
    with pytest.raises(ValidationError, match="uri"):
        read_row(Video, {"video_id": "v"})
    with pytest.raises(ValidationError, match="status"):
        read_row(VideoAnswers, {"video_id": "v", "uri": "u", "status": "unheard of"})
