"""The version of the schemas: written with every file, refused where it is another one."""

import pyarrow as pa
import pytest

from tempo_ray.errors import UserError
from tempo_ray.schema import PAIR, SCHEMA_VERSION, check_version, with_metadata


def test_a_file_has_the_version_and_the_hash_of_its_config() -> None:
    metadata = with_metadata(PAIR, "abc").metadata
    assert metadata[b"tempo_ray.schema_version"].decode() == SCHEMA_VERSION
    assert metadata[b"tempo_ray.config_hash"] == b"abc"


def test_another_version_is_refused_and_both_are_named() -> None:
    check_version(with_metadata(PAIR, "abc"), "pairs/")
    check_version(pa.schema([("uri", pa.string())]), "a user's own file")
    old = PAIR.with_metadata({"tempo_ray.schema_version": "2"})
    with pytest.raises(UserError, match=f"pairs/ has schema version 2 and .* {SCHEMA_VERSION}"):
        check_version(old, "pairs/")
