"""Sweeps of recipes/sweep.py: what is searched, the study that workers share, a trial's processes, the results.

Only the module `study` needs optuna.
"""
