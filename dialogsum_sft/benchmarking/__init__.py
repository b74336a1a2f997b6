"""What recipes/benchmark.py compares: training runs, ways to generate, the floors under both, and their figures."""
