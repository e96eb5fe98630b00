"""Owns the compiled engine for CPUs: its C++ source, the compiler, and what hands it a model."""

from pathlib import Path

SOURCE = Path(__file__).with_name("native.cpp")
