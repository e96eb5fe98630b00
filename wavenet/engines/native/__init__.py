"""Owns the compiled engine for CPUs: its C++ source, the compiler, and what hands it a model."""
