"""Owns the engine for CUDA: its Triton kernel, and what hands it a model."""
