"""CANN's C interfaces in host memory: runs the unmodified torch-npu wheel on any CPU."""

from cannsim import counters as counters
from cannsim import faults as faults
from cannsim._timeline import timeline as timeline
