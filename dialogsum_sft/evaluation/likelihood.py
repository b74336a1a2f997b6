"""The likelihood of summaries under a model, as rows of predictions.jsonl have it: means and paired values."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dialogsum_sft.evaluation.prediction_files import Row
from dialogsum_sft.evaluation.rouge import mean
from dialogsum_sft.evaluation.significance import confidence_interval

# The fields of a row, in nats per token of the summary, with their labels: the mean log-probability of a token given
# the dialogue, and the same minus that without the dialogue.
LIKELIHOOD = {"log_likelihood": "per token", "log_likelihood_gain": "gained by the dialogue"}
LEAST = 10  # ids in metrics.json


def likelihood_record(rows: Sequence[Row], *, seed: int = 42) -> dict[str, Any]:
    """What metrics.json says of rows that have the fields of LIKELIHOOD, which are None where nothing was measured.

    Each field's `mean` has a `ci95` as ROUGE has; both are None where there is no value. `least` are the ids of the
    summaries that gain least by their dialogue, `summaries_sha256` says which summaries were measured.
    """
    aggregates: dict[str, Any] = {}
    for name in LIKELIHOOD:
        values = [row[name] for row in rows if row[name] is not None]
        aggregates[name] = {"mean": None, "ci95": None}
        if values:
            aggregates[name] = {"mean": mean(values), "ci95": confidence_interval(values, seed=seed)}
    gains = {row["id"]: row["log_likelihood_gain"] for row in rows if row["log_likelihood_gain"] is not None}
    return aggregates | {
        "summaries": len(gains),
        "least": sorted(gains, key=gains.__getitem__)[:LEAST],
        "summaries_sha256": _digest(rows),
    }


def own_likelihoods(row: Row) -> Row:
    """The fields of LIKELIHOOD of a row as it is read from a file, without values that are no numbers."""
    found = {name: row[name] for name in LIKELIHOOD if name in row}
    return {
        name: value
        for name, value in found.items()
        if value is None or (isinstance(value, (int, float)) and math.isfinite(value))
    }


def kept_likelihood(rows: Sequence[Row], record: Mapping[str, Any]) -> tuple[list[Row], dict[str, Any]]:
    """`rows` and `record` of an earlier evaluation, without its likelihoods where they are of other summaries."""
    if _is_of(record.get("likelihood") or {}, rows):
        return list(rows), dict(record)
    bare = [{name: value for name, value in row.items() if name not in LIKELIHOOD} for row in rows]
    return bare, {name: value for name, value in record.items() if name != "likelihood"}


def measured_alike(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all these metrics.json have likelihoods of one measure."""
    measures = [(record.get("likelihood") or {}).get("fingerprint") for record in records]
    return bool(measures[0]) and all(one == measures[0] for one in measures)


def paired_values(name: str, a: Sequence[Row], b: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The values of a field of LIKELIHOOD of the dialogues for which both runs have one."""
    pairs = [
        (one[name], other[name])
        for one, other in zip(a, b, strict=True)
        if one.get(name) is not None and other.get(name) is not None
    ]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _is_of(known: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    if known.get("summaries_sha256") != _digest(rows) or not all(row.keys() >= LIKELIHOOD.keys() for row in rows):
        return False
    values = [row["log_likelihood"] for row in rows if row["log_likelihood"] is not None]
    recorded = (known.get("log_likelihood") or {}).get("mean")
    return math.isclose(mean(values), recorded) if values and recorded is not None else not values


def _digest(rows: Sequence[Row]) -> str:
    text = "\0".join(part for row in rows for part in (row["dialogue"], row["prediction"]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
