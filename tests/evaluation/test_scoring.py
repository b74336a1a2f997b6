"""The scores of a run: deterministic by seed, and fast."""

import json
import time
from pathlib import Path

from conftest import sample_dialogues
from dialogsum_sft.evaluation import runs
from dialogsum_sft.evaluation.runs import score_run

import numpy as np


def score(rows, **options):
    return score_run("a", Path(), rows, **options).record


def lead_rows():
    return [row | {"prediction": row["dialogue"].split("\n")[0]} for row in sample_dialogues()]


def test_scores_depend_on_the_seed_and_leave_the_global_random_state():
    rows = lead_rows()
    before = np.random.get_state()[1].copy()
    first = score(rows, seed=1)
    runs._dataset_scores.cache_clear()
    assert json.dumps(score(rows, seed=1)) == json.dumps(first)
    assert score(rows, seed=2)["rouge1"]["ci95"] != first["rouge1"]["ci95"]
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_500_dialogues_with_three_references_cost_under_20_seconds():
    rows = lead_rows() * 3
    runs._dataset_scores.cache_clear()
    started = time.process_time()
    score(rows)
    assert time.process_time() - started < 20 * len(rows) / 500
