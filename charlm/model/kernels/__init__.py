"""Kernels that run a recurrent layer over a window, forward and backward."""
