from dialogsum_sft.report import charts

import pytest


@pytest.mark.parametrize(
    ("values", "zero", "ticks"),
    [
        ([17.0, 55.3], True, [0, 20, 40, 60]),
        ([1.84, 3.47], False, [1.5, 2, 2.5, 3, 3.5]),
        ([1e-3, 0.0], True, [0, 0.0005, 0.001]),
        ([-5, 48], True, [-20, 0, 20, 40, 60]),
        ([40.0, 60.0], True, [0, 20, 40, 60]),
        ([7.0, 7.0], False, [6, 8]),
        ([0.0], True, [0, 0.5, 1]),
        ([], True, [0, 0.5, 1]),
    ],
)
def test_axes_have_round_ticks_and_cover_all_values(values: list[float], zero: bool, ticks: list[float]):
    assert charts.scale(values, zero=zero).ticks == ticks


def test_exact_axis_ends_at_its_values():
    axis = charts.scale([1, 1200], exact=True)
    assert axis == charts.Scale([0, 500, 1000], 0, 1200)
    assert axis.at(1200, 40, 312) == 352


def test_positions_on_axes_to_the_right_and_upwards():
    axis = charts.Scale([0, 20, 40], 0, 40)
    assert [axis.at(value, 100, 50) for value in (0, 10, 40)] == [100, 112.5, 150]
    assert [axis.at(value, 150, -136) for value in (0, 20, 40)] == [150, 82, 14]


def test_bins_are_shares_and_outer_bins_count_values_beyond_the_axis():
    axis = charts.Scale([0, 10, 20], 0, 20)
    assert charts.histogram([0, 4.9, 5, 19.9, 20, 300, -1], axis, 4) == pytest.approx([300 / 7, 100 / 7, 0, 300 / 7])


def test_tenths_fall_into_separate_bins():
    axis = charts.Scale([0, 0.5, 1], 0, 1)
    assert charts.histogram([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], axis, 10) == [10.0] * 10


def test_long_curves_are_thinned_to_means_of_neighbours():
    points = [(1.0, 10.0), (2.0, 20.0), (3.0, 60.0), (4.0, 80.0), (5.0, 7.0)]
    assert charts.thin(points, 3) == [(1.5, 15.0), (3.5, 70.0), (5.0, 7.0)]
    assert charts.thin(points, 5) == points


def test_bins_of_words_are_whole():
    panel = charts.histograms("lengths", "words", [[1, 12, 30, 34]], [18, 22])
    assert panel["x"].ticks == [0, 10, 20, 30, 40]
    assert len(panel["series"][0]["shares"]) == 8  # of five words
    assert panel["series"][0]["mean"] == 19.25
    assert [series["style"] for series in panel["series"]] == ["s0", "references"]


def test_gains_are_sorted_and_counted():
    panel = charts.gains("tuned", [10.0, 20.0, 30.0, 40.0], [15.0, 20.0, 20.0, 60.0])
    assert (panel["gains"], panel["wins"], panel["losses"]) == ([-10.0, 0.0, 5.0, 20.0], 2, 1)


def test_order_is_human_systems_baselines():
    system = {"mean": 30.0, "ci95": [28.0, 33.0]}
    panel = charts.scores("ROUGE-1", {"a": system}, {"lead-1": 12.0, "lead-3": 18.0}, 55.0)
    assert [row["label"] for row in panel["rows"]] == ["human", "a", "lead-3", "lead-1"]
    assert charts.scores("ROUGE-1", {"a": system}, {}, None)["rows"][0]["style"] == "s0"
