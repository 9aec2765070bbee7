import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score

from hf_cxr import reliability
from hf_cxr.bootstrap import Resamples
from hf_cxr.change import ChangeError, annotated_labels, compare_models
from hf_cxr.change.pairs import EQUAL, HIGHER, LOWER, OPEN
from hf_cxr.intervals import compare
from hf_cxr.predictions import PredictionTable
from tests.change.films import GROWN, OLD, make_side, truths, with_probability


@pytest.fixture(scope="module")
def models():
    """Adapted: better on pneumonia, worse on masses."""
    return make_side(Mass=2.5), make_side(GROWN, 2.5, seed=1, Mass=0.5)


@pytest.fixture(scope="module")
def change(models):
    return compare_models("test films", *models, n_resamples=300, seed=3)


def test_it_is_plain_data(change):
    assert json.loads(json.dumps(change, allow_nan=False)) == change
    assert (change["name"], change["n_images"], change["n_patients"]) == ("test films", 400, 200)


def test_figures_are_scikit_learns(change, models):
    for side, model in zip(("before", "after"), models, strict=True):
        for name in model.table.names:
            truth, probability = model.table.column(name)
            row = change["labels"][name]
            assert row["auroc"][side] == pytest.approx(roc_auc_score(truth, probability), abs=1e-9)
            assert row["brier"][side] == pytest.approx(brier_score_loss(truth, probability), abs=1e-9)
            assert row["ece"][side] == reliability.ece(truth, probability)
            (tn, fp), (fn, tp) = confusion_matrix(truth, probability >= 0.4)
            assert row["sensitivity"][side] == pytest.approx(tp / (tp + fn), abs=1e-9)
            assert row["specificity"][side] == pytest.approx(tn / (tn + fp), abs=1e-9)
            assert row["threshold"][side] == 0.4


def test_differences_are_those_of_a_paired_comparison(change, models):
    before, after = (model.table.in_order(OLD.names) for model in models)
    subsets = {"shared": ("Pneumonia", "Mass")}
    resamples = Resamples.of(before.patients, 300, 3)
    expected = compare(OLD.names, before.truth, after.probability, before.probability, resamples, subsets)
    rows = {(f, n): change["labels"][n][f] for n in OLD.names for f in ("auroc", "brier")}
    rows["macro_auroc", "shared"] = change["macro_auroc"]["shared"]
    for key, row in rows.items():
        assert row["difference"] == expected[key].difference == row["after"] - row["before"]
        assert row["difference_ci"] == [expected[key].interval.low, expected[key].interval.high]
        assert row["p"] == expected[key].p


def test_known_differences_are_found(change):
    assert change["labels"]["Pneumonia"]["auroc"]["outcome"] == HIGHER
    assert change["labels"]["Pneumonia"]["brier"]["outcome"] == LOWER
    assert change["labels"]["Mass"]["auroc"]["outcome"] == LOWER


def test_an_interval_that_holds_0_says_nothing():
    change = compare_models("films", make_side(), make_side(seed=1), n_resamples=300)
    for name in OLD.names:
        row = change["labels"][name]["auroc"]
        low, high = row["difference_ci"]
        assert (row["outcome"] == OPEN) == (low <= 0 <= high)
    assert change["macro_auroc"]["shared"]["outcome"] == OPEN


def test_the_same_model_twice_is_the_same():
    change = compare_models("films", make_side(), make_side(), n_resamples=100)
    for row in change["labels"].values():
        assert row["auroc"]["outcome"] == row["brier"]["outcome"] == EQUAL
        assert row["auroc"]["difference_ci"] is None
        assert row["auroc"]["p"] is None
        assert "every resample" in row["auroc"]["undefined"]["difference_ci"]
        assert row["auroc"]["before_ci"] is not None


def test_new_labels_have_no_before(change):
    for name in ("Bacterial", "Viral"):
        row = change["labels"][name]
        assert row["outputs"] == "after"
        for figure in ("auroc", "brier", "ece", "sensitivity"):
            assert row[figure]["before"] is None
            assert row[figure]["undefined"]["before"] == "the model before has no output for it"
            assert row[figure]["after"] is not None
        assert row["auroc"]["difference"] is row["auroc"]["p"] is row["auroc"]["outcome"] is None
        assert row["auroc"]["undefined"]["difference"] == "the model before has no output for it"
    assert change["macro_auroc"]["shared"]["labels"] == ["Pneumonia", "Mass"]


def test_macro_figures_are_means_over_their_labels(models):
    change = compare_models("films", *models, annotated=("Pneumonia", "Bacterial", "Abnormal"), n_resamples=50)
    for key, names in {"shared": ["Pneumonia", "Mass"], "annotated": ["Pneumonia"], "others": ["Mass"]}.items():
        row = change["macro_auroc"][key]
        assert row["labels"] == names
        for side in ("before", "after"):
            assert row[side] == pytest.approx(np.mean([change["labels"][n]["auroc"][side] for n in names]), abs=1e-12)


def test_siblings_are_told_apart_among_films_of_one_of_them(change, models):
    (pair,) = change["siblings"]
    table = models[1].table
    (one, p_one), (other, p_other) = table.column("Bacterial"), table.column("Viral")
    kept = one + other == 1
    expected = roc_auc_score(one[kept], np.log(p_one / p_other)[kept])
    assert pair["auroc"]["after"] == pytest.approx(expected, abs=1e-9)
    assert pair["auroc"]["before"] is None
    assert "no output for Bacterial and Viral" in pair["auroc"]["undefined"]["before"]
    assert (pair["parent"], pair["n_first"], pair["n_second"]) == ("Pneumonia", one.sum(), other.sum())
    assert pair["auroc"]["after_ci"][0] < expected < pair["auroc"]["after_ci"][1]


def test_finding_the_parent_is_not_telling_its_children_apart():
    """Both children as probable as each other: pneumonia is found, its kind is not."""
    side = make_side(GROWN, 3.0)
    parent = side.table.column("Pneumonia")[1]
    side = with_probability(with_probability(side, "Bacterial", parent / 2), "Viral", parent / 2)
    change = compare_models("films", make_side(), side, n_resamples=50)
    assert change["labels"]["Bacterial"]["auroc"]["after"] > 0.7
    assert change["siblings"][0]["auroc"]["after"] == 0.5


def test_films_of_both_siblings_or_without_the_parent_are_left_out():
    truth = truths(400)
    truth["Viral"][truth["Bacterial"] == 1] = np.arange((truth["Bacterial"] == 1).sum()) % 2
    truth["Pneumonia"][:10] = truth["Viral"][:10] = 0
    truth["Bacterial"][:10] = 1
    after = make_side(GROWN, truth=truth)
    change = compare_models("films", make_side(truth=truth), after, n_resamples=50)
    kept = (truth["Bacterial"] + truth["Viral"] == 1) & (truth["Pneumonia"] == 1)
    assert change["siblings"][0]["n_first"] == (kept & (truth["Bacterial"] == 1)).sum()
    assert change["siblings"][0]["n_second"] == (kept & (truth["Viral"] == 1)).sum()


def test_probabilities_of_0_tell_nothing_apart():
    side = make_side(GROWN)
    side = with_probability(with_probability(side, "Bacterial", 0.0), "Viral", 0.0)
    change = compare_models("films", make_side(), side, n_resamples=50)
    assert change["siblings"][0]["auroc"]["after"] == 0.5


def test_the_gate_at_each_models_own_threshold(models):
    before, after = models
    after = replace(after, operating_points=replace(after.operating_points, gate_threshold=0.6))
    gate = compare_models("films", before, after, n_resamples=100)["gate"]
    assert gate["threshold"] == {"before": 0.3, "after": 0.6}
    for side, model, threshold in (("before", before, 0.3), ("after", after, 0.6)):
        truth, probability = model.table.column("Abnormal")
        cleared = probability < threshold
        assert gate["counts"][side]["n_cleared"] == cleared.sum()
        assert gate["counts"][side]["fn"] == (cleared & (truth == 1)).sum()
        assert gate["skip_rate"][side] == pytest.approx(cleared.mean(), abs=1e-9)
        assert gate["sensitivity"][side] == pytest.approx(1 - cleared[truth == 1].mean(), abs=1e-9)
        assert gate["specificity"][side] == pytest.approx(cleared[truth == 0].mean(), abs=1e-9)
        assert gate["auroc"][side] == pytest.approx(roc_auc_score(truth, probability), abs=1e-9)
        # Also of the old gate, which does not know that finding.
        viral = after.table.column("Viral")[0] == 1
        assert gate["missed"]["Viral"][side] == (viral & cleared).sum()
        assert gate["missed"]["Viral"]["share"][side] == pytest.approx(cleared[viral].mean(), abs=1e-9)
    assert set(gate["missed"]) == {"Pneumonia", "Mass", "Bacterial", "Viral"}


def test_without_operating_points_there_are_no_decisions(models):
    before = replace(models[0], operating_points=None)
    change = compare_models("films", before, models[1], n_resamples=50)
    gate = change["gate"]
    assert gate["counts"]["before"] is gate["missed"]["Mass"]["before"] is gate["sensitivity"]["before"] is None
    assert gate["sensitivity"]["undefined"]["before"] == "the model before has no stored threshold for the gate"
    assert gate["auroc"]["before"] is not None
    assert "no stored threshold" in change["labels"]["Mass"]["sensitivity"]["undefined"]["before"]
    assert change["operating_points"]["before"] is None
    assert change["operating_points"]["after"]["split"] == "validation"


def test_no_gate_and_other_gates():
    flat = OLD.subset(["Pneumonia", "Mass"])
    assert compare_models("films", make_side(flat), make_side(flat, seed=1), n_resamples=20)["gate"] is None
    one_sided = compare_models("films", make_side(flat), make_side(seed=1), n_resamples=20)["gate"]
    assert one_sided["sensitivity"]["undefined"]["before"] == "the model before has no gate"
    truth = truths(400)
    nodes = (replace(OLD.nodes[0], name="Sick"), *(replace(n, parents=()) for n in OLD.nodes[1:]))
    other = make_side(replace(OLD, nodes=nodes), truth=truth | {"Sick": truth["Abnormal"]})
    assert "other gates" in compare_models("films", make_side(), other, n_resamples=20)["gate"]["undefined"]


def test_a_label_of_one_class_is_null_with_the_reason():
    truth = truths(400)
    truth["Mass"] = np.where(truth["Mass"] == 1, np.nan, 0.0)
    truth["Abnormal"][:] = np.nan
    change = compare_models("films", make_side(truth=truth), make_side(GROWN, truth=truth, seed=1), n_resamples=50)
    row = change["labels"]["Mass"]
    assert row["auroc"]["before"] is row["auroc"]["after"] is row["auroc"]["difference"] is None
    assert row["auroc"]["undefined"] == dict.fromkeys(("before", "after", "difference"), "no positive film")
    assert row["brier"]["before"] is not None
    assert change["macro_auroc"]["shared"]["left_out"] == {"Mass": "no positive film"}
    assert change["labels"]["Abnormal"]["ece"]["undefined"]["after"] == "no film with known truth"
    assert change["gate"]["auroc"]["undefined"]["after"] == "no film with known truth"
    assert change["gate"]["sensitivity"]["after"] is None
    assert change["gate"]["skip_rate"]["after"] is not None
    assert annotated_labels(change) == ("Pneumonia", "Bacterial", "Viral")


def test_without_patients_the_unit_is_said():
    def lone(side):
        return replace(side, table=replace(side.table, patients=side.table.ids, unit="image"))

    change = compare_models("films", lone(make_side()), lone(make_side(seed=1)), n_resamples=20)
    assert change["n_patients"] is None
    assert change["intervals"]["unit"] == "image"


def with_table(side, **values):
    return replace(side, table=replace(side.table, **values))


def reordered(side):
    table = side.table
    rows = np.arange(len(table))
    rows[[4, 7]] = rows[[7, 4]]
    return with_table(
        side, ids=table.ids[rows], patients=table.patients[rows], truth=table.truth[rows],
        probability=table.probability[rows],
    )  # fmt: skip


def other_truth(side):
    truth = side.table.truth.copy()
    truth[5, side.table.names.index("Mass")] = np.nan
    return with_table(side, truth=truth)


def other_films(side):
    return with_table(side, ids=np.array(["another", *side.table.ids[1:]]))


MISTAKES = {
    "order": (reordered, r"another order, first in row 5: 'film0004' before, 'film0007' after; sort both by id"),
    "films": (
        other_films,
        r"different films: 1 only before, e\.g\. \['film0000'\], 1 only after, e\.g\. \['another'\]",
    ),
    "truth": (other_truth, r"label 'Mass': .* disagree on the truth of 1 films, first 'film0005'"),
    "patients": (lambda side: with_table(side, patients=side.table.ids), "other patients"),
    "labels": (lambda side: replace(side, hierarchy=GROWN), r"after: the table lacks \['Bacterial', 'Viral'\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_compared_is_refused(mistake):
    spoil, words = MISTAKES[mistake]
    with pytest.raises(ChangeError, match=words):
        compare_models("films", make_side(), spoil(make_side(seed=1)))


def test_unknown_annotated_labels_are_refused():
    with pytest.raises(ChangeError, match=r"\['Masses'\] are of neither model"):
        compare_models("films", make_side(), make_side(seed=1), annotated=("Masses",))


def test_a_table_read_back_compares_alike(models, tmp_path, change):
    read = []
    for side, model in zip(("before", "after"), models, strict=True):
        model.table.to_csv(tmp_path / f"{side}.csv")
        read.append(replace(model, table=PredictionTable.read(tmp_path / f"{side}.csv")))
    assert compare_models("test films", *read, n_resamples=300, seed=3) == change
