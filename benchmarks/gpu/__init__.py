"""One command for a machine with an NVIDIA GPU: ``python -m benchmarks.gpu --out FOLDER``."""
