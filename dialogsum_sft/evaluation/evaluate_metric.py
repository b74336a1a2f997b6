"""Our ROUGE as a metric of the library `evaluate`; no other module needs that library."""

from dialogsum_sft.evaluation.rouge import aggregate_scores, rouge_scores

import datasets
import evaluate


class DialogueRouge(evaluate.Metric):
    """`DialogueRouge().compute(predictions=..., references=...)`, without a network.

    `predictions` is a list of str, `references` a list of lists of str; returns {type: mean over references, x 100}
    and {type_max: max over references}.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F1 x 100 with stemmer, mean and max over several references",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[list[str]], tokenizer: str = "default"
    ) -> dict[str, float]:
        scores = aggregate_scores(rouge_scores(predictions, references, tokenizer))
        means = {name: values["mean"] for name, values in scores.items()}
        return means | {f"{name}_max": values["max"] for name, values in scores.items()}
