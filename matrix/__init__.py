"""What we claim: models, features, CANN versions and hardware as data, expanded into cells."""

from matrix.cells import Cell, expand
from matrix.claims import Matrix
from matrix.combining import combine, everything
from matrix.covering import covering
from matrix.errors import MatrixError
from matrix.loader import load
from matrix.rotation import Night, Seen, night
from matrix.schema import (
    AccuracySuite,
    CannVersion,
    ChangeGate,
    Combination,
    Feature,
    Hardware,
    Model,
    PortGate,
    Release,
    Rule,
    Selection,
)
from matrix.selecting import candidates, required, select

__all__ = [
    "AccuracySuite",
    "CannVersion",
    "Cell",
    "ChangeGate",
    "Combination",
    "Feature",
    "Hardware",
    "Matrix",
    "MatrixError",
    "Model",
    "Night",
    "PortGate",
    "Release",
    "Rule",
    "Seen",
    "Selection",
    "candidates",
    "combine",
    "covering",
    "everything",
    "expand",
    "load",
    "night",
    "required",
    "select",
]
