"""Whether answers are right: tasks, lm-eval runs, and gates that pair tokens and items."""

from accuracy.errors import AccuracyError
from accuracy.gates import Change, Port, judge_change, judge_port

__all__ = ["AccuracyError", "Change", "Port", "judge_change", "judge_port"]
