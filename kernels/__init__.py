"""Triton kernels, a file an operator: forward, backward, launchers."""
