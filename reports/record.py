"""The record: what one run of one cell yielded, as one JSON document."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reports import strict_json
from reports.errors import RecordError
from reports.text import cut, is_storable_json, plain, storable

SCHEMA = 1
"""The version of the record schema that this code writes, and the newest that it reads."""

MAX_BYTES = 16 * 2**20
"""The most bytes of one record's file; one with 14,000 answers has a quarter of it."""

MAX_LOG, MAX_MESSAGE = 64_000, 16_000
"""The most characters that a record keeps of a log and of an error's message: the last ones."""

Log = Annotated[str, AfterValidator(lambda text: cut(plain(text), MAX_LOG))]
Message = Annotated[str, AfterValidator(lambda text: cut(plain(text), MAX_MESSAGE))]

Kind = Literal["e2e", "accuracy", "perf"]
Verdict = Literal["passed", "failed", "error", "inconclusive"]
Evidence = Literal["hardware", "simulated"]


_CLEAN = {"clean": True}  # told to validation where no text has to be looked through
_NAME = r"[^/\s\p{C}\x{FFFD}]+"  # \p{C}: control and format characters
_CELL = f"^{_NAME}/{_NAME}/cann-{_NAME}/{_NAME}$"


class _Part(BaseModel):
    """A part of a record; no text in it holds what a database or a page cannot take."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    clean_themselves: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict) or info.context:
            return data
        own = cls.clean_themselves
        return {storable(name): v if name in own else storable(v) for name, v in data.items()}


class Versions(_Part):
    """The versions of everything that took part; None where it took no part or is not known."""

    cann: str
    plugin: str | None = None
    commit: str | None = Field(default=None, description="Commit of the plugin's repository.")
    dirty: bool | None = Field(default=None, description="Whether that checkout was changed.")
    vllm: str | None = None
    torch: str | None = None
    torch_npu: str | None = None
    transformers: str | None = None
    python: str | None = None
    driver: str | None = Field(default=None, description="NPU driver; none when simulated.")
    cannsim: str | None = Field(default=None, description="Simulator; none on hardware.")


class Chip(_Part):
    """What a cell ran on."""

    chip: str = Field(description="As torch_npu reports it, such as Ascend910B1.")
    cards: int = Field(ge=1)


class Metric(_Part):
    """A measured value with its unit."""

    value: FiniteFloat
    unit: str


class Failure(_Part):
    """Why a run did not pass."""

    clean_themselves: ClassVar = frozenset({"message", "log_tail"})
    class_: str = Field(alias="class", description="Exception class, or a word such as timeout.")
    message: Message
    log_tail: Log = ""


class Record(_Part):
    """One run of one cell. Times are UTC, durations are seconds.

    A passed record carries a proof that the feature was on, and one that did not pass says why;
    a record that contradicts itself (another CANN version than its cell, a simulator in hardware
    evidence) is refused.
    """

    clean_themselves: ClassVar = frozenset({"error"})
    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern=r"^[0-9a-zA-Z-]{8,64}$")
    cell: str = Field(pattern=_CELL, max_length=255)
    kind: Kind
    verdict: Verdict
    evidence: Evidence
    versions: Versions
    hardware: Chip
    runner: str = Field(max_length=255)
    started: AwareDatetime
    seconds: FiniteFloat = Field(ge=0)
    timings: dict[str, FiniteFloat] = Field(default_factory=dict)
    metrics: dict[str, Metric] = Field(default_factory=dict)
    proof: dict[str, JsonValue] = Field(default_factory=dict)
    samples: tuple[dict[str, JsonValue], ...] = ()
    error: Failure | None = None
    run_url: str | None = Field(default=None, pattern=r"^https?://[^\s\p{C}\"'<>`]+$")
    artifacts: tuple[str, ...] = ()

    @field_validator("started")
    @classmethod
    def _in_utc(cls, started: datetime) -> datetime:
        return started.astimezone(UTC)

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if self.verdict == "passed" and not self.proof:
            raise ValueError("a feature that cannot prove itself does not pass: proof is empty")
        if self.verdict in ("failed", "error") and self.error is None:
            raise ValueError(f"the verdict is {self.verdict!r}; error has to say why")
        if self.evidence == "hardware" and self.versions.cannsim is not None:
            raise ValueError("versions name the simulator cannsim; that is no hardware evidence")
        claimed = self.cell.split("/")[2].removeprefix("cann-")
        if self.versions.cann != claimed:
            raise ValueError(f"the cell is of CANN {claimed}, it ran on CANN {self.versions.cann}")
        return self

    def document(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self, indent: int | None = None) -> str:
        """Return the record as JSON text."""
        return self.model_dump_json(by_alias=True, indent=indent)


def parse(document: str | bytes | Mapping[str, Any], origin: str = "record") -> Record:
    """Return the record in a JSON text or mapping; `origin` names it in errors.

    Raises:
        RecordError: not JSON, of a newer schema, or not what the schema allows.
    """
    clean = None
    if isinstance(document, str | bytes):
        data = _load(document, origin)
        clean = _CLEAN if is_storable_json(document) else None
    else:
        data = dict(document)
    version = data.get("schema") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise RecordError(
            f"{origin}: a record of schema {version}; this version reads up to {SCHEMA}.",
            "A newer version of this project wrote it.",
            "Update this checkout, or use the one that wrote the record.",
        )
    if version is None:
        raise RecordError(f"{origin}: not a record: the key 'schema' is missing.")
    if "id" not in data:  # the same file makes the same record, however often it is read
        text = json.dumps(data, sort_keys=True)
        data = {**data, "id": hashlib.sha256(text.encode()).hexdigest()[:32]}
    try:
        return Record.model_validate(data, context=clean)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors(include_url=False)]
        raise RecordError(f"{origin}: not a valid record:\n  " + "\n  ".join(lines)) from None


def _load(document: str | bytes, origin: str) -> Any:
    if len(document) > MAX_BYTES:
        raise RecordError(
            f"{origin}: {len(document):,} bytes; a record has at most {MAX_BYTES:,}.",
            "A whole log or another file was put into it.",
            "Keep the log as an artifact, and its end in the record.",
        )
    try:
        return strict_json.loads(document)
    except ValueError as error:
        raise RecordError(
            f"{origin}: not JSON of one meaning ({error}).",
            "The file is no record, or it was cut off while it was copied.",
            "Copy it again from where it was written.",
        ) from None


def _explain(error: Any) -> str:
    where = ".".join(str(step) for step in error["loc"]) or "(record)"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
