"""Records as Parquet for pandas, Polars and DuckDB: one table of records, one of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from reports.errors import StoreError
from reports.record import Versions
from reports.store import Store, Stored

RECORDS, METRICS = "records.parquet", "metrics.parquet"
"""The names of the two files."""

_GROUP = 10_000  # rows that are held at a time
_TIME = pa.timestamp("us", tz="UTC")
_VERSIONS = {name: pa.bool_() if name == "dirty" else pa.string() for name in Versions.model_fields}

RECORD_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("cell", pa.string()),
        ("model", pa.string()),
        ("feature", pa.string()),
        ("hardware", pa.string()),
        ("kind", pa.string()),
        ("verdict", pa.string()),
        ("evidence", pa.string()),
        ("started", _TIME),
        ("received", _TIME),
        ("ahead", pa.bool_()),
        ("whole", pa.bool_()),
        ("seconds", pa.float64()),
        ("runner", pa.string()),
        ("chip", pa.string()),
        ("cards", pa.int32()),
        *_VERSIONS.items(),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("run_url", pa.string()),
        ("document", pa.string()),
    ]
)
"""One row for each record, the oldest first.

`cann`, `vllm` and the other versions are columns of their own; `ahead` and `whole` are as in
`reports.store.Stored`; `document` is the whole record as JSON, from which it can be stored again.
"""

METRIC_SCHEMA = pa.schema(
    [
        ("record", pa.string()),
        ("cell", pa.string()),
        ("kind", pa.string()),
        ("evidence", pa.string()),
        ("started", _TIME),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
    ]
)
"""One row for each metric and each timing (`timings/NAME`, in seconds) of each record."""


def export(store: Store, folder: Path) -> tuple[Path, Path]:
    """Write both tables into a folder; return the files. They are there whole or not at all.

    Raises:
        StoreError: the store cannot be read, or the folder not be written.
    """
    paths = folder / RECORDS, folder / METRICS
    drafts = [path.with_name(f".{path.name}.tmp") for path in paths]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            parquet.ParquetWriter(drafts[0], RECORD_SCHEMA, compression="zstd") as records,
            parquet.ParquetWriter(drafts[1], METRIC_SCHEMA, compression="zstd") as metrics,
        ):
            for group in _groups(store.stored()):
                rows = [_record(stored) for stored in group]
                records.write_table(pa.Table.from_pylist(rows, RECORD_SCHEMA))
                measured = [row for stored in group for row in _metrics(stored)]
                metrics.write_table(pa.Table.from_pylist(measured, METRIC_SCHEMA))
        for draft, path in zip(drafts, paths, strict=True):
            draft.replace(path)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error.strerror or error}.",
            "The disk is full, or the folder belongs to somebody else.",
            "Name another folder.",
        ) from error
    finally:
        for draft in drafts:
            with suppress(OSError):
                draft.unlink()
    return paths


def documents(path: Path) -> Iterator[str]:
    """Yield the document of each record in a table of records.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet, or has no documents.
    """
    with parquet.ParquetFile(path) as file:
        if "document" not in file.schema_arrow.names:
            raise ValueError("it has no column 'document'; name records.parquet")
        for batch in file.iter_batches(1000, columns=["document"]):
            yield from (str(text) for text in batch.column(0).to_pylist())


def _groups(rows: Iterable[Stored]) -> Iterator[list[Stored]]:
    remaining = iter(rows)
    while group := list(islice(remaining, _GROUP)):
        yield group


def _record(stored: Stored) -> dict[str, Any]:
    record = stored.record
    model, feature, _, hardware = record.cell.split("/")
    return {
        "id": record.id,
        "cell": record.cell,
        "model": model,
        "feature": feature,
        "hardware": hardware,
        "kind": record.kind,
        "verdict": record.verdict,
        "evidence": record.evidence,
        "started": record.started,
        "received": stored.received,
        "ahead": stored.ahead,
        "whole": stored.whole,
        "seconds": record.seconds,
        "runner": record.runner,
        "chip": record.hardware.chip,
        "cards": record.hardware.cards,
        **record.versions.model_dump(),
        "error_class": record.error and record.error.class_,
        "error_message": record.error and record.error.message,
        "run_url": record.run_url,
        "document": record.to_json(),
    }


def _metrics(stored: Stored) -> Iterator[dict[str, Any]]:
    record = stored.record
    shared = {
        "record": record.id,
        "cell": record.cell,
        "kind": record.kind,
        "evidence": record.evidence,
        "started": record.started,
    }
    for name, metric in record.metrics.items():
        yield {**shared, "metric": name, "value": metric.value, "unit": metric.unit}
    for name, seconds in record.timings.items():
        yield {**shared, "metric": f"timings/{name}", "value": seconds, "unit": "s"}
