"""CANN's C interfaces in host memory: runs the unmodified torch-npu wheel on any CPU."""
