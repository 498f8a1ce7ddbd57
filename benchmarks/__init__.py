"""Speed and memory: asv suites, side-by-side peers, local A/B timings. See README.md."""
