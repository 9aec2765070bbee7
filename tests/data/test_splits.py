import numpy as np
import pytest

from hf_cxr.data.splits import check_disjoint, patient_disjoint_split


def films(patients, findings, seed=0, rate=0.1):
    rng = np.random.default_rng(seed)
    owner = np.repeat([f"p{i}" for i in range(patients)], rng.integers(1, 5, patients))
    return owner, rng.random((len(owner), findings)) < rate


def sides(owner, labels, held):
    """Patients with each finding on either side, by a plain loop."""
    count = {True: [set() for _ in range(labels.shape[1])], False: [set() for _ in range(labels.shape[1])]}
    for patient, row, out in zip(owner, labels, held, strict=True):
        for finding in np.flatnonzero(row):
            count[bool(out)][finding].add(patient)
    return [len(s) for s in count[True]], [len(s) for s in count[False]]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.8])
def test_whole_patients_in_the_fraction_asked_for_and_stratified(fraction):
    owner, labels = films(2000, 6)
    held = patient_disjoint_split(owner, labels, fraction, seed=3)
    assert not set(owner[held]) & set(owner[~held])
    assert len(set(owner[held])) / 2000 == pytest.approx(fraction, abs=0.01)
    out, kept = sides(owner, labels, held)
    for a, b in zip(out, kept, strict=True):
        assert a / (a + b) == pytest.approx(fraction, abs=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_a_finding_of_two_patients_stands_on_both_sides(seed):
    owner, labels = films(60, 3, seed)
    rare = np.zeros((len(owner), 3), dtype=bool)
    rare[owner == "p7", 0] = rare[owner == "p31", 0] = True
    for patient in ("p1", "p2", "p3"):
        rare[owner == patient, 1] = True
    rare[owner == "p9", 2] = True
    labels = np.hstack([labels, rare])
    held = patient_disjoint_split(owner, labels, 0.1, seed)
    out, kept = sides(owner, labels, held)
    assert out[3] == 1
    assert kept[3] == 1
    assert min(out[4], kept[4]) >= 1
    assert out[5] + kept[5] == 1


def test_the_seed_decides_and_the_order_of_the_films_does_not():
    owner, labels = films(300, 4)
    held = patient_disjoint_split(owner, labels, 0.2, 5)
    order = np.random.default_rng(1).permutation(len(owner))
    again = patient_disjoint_split(owner[order], labels[order], 0.2, 5)
    assert set(owner[held]) == set(owner[order][again])
    assert set(owner[held]) != set(owner[patient_disjoint_split(owner, labels, 0.2, 6)])


@pytest.mark.parametrize("findings", [0, 1, 2])
@pytest.mark.parametrize("patients", [2, 3, 10])
def test_few_patients_and_few_findings(patients, findings):
    owner, labels = films(patients, findings, rate=0.5)
    held = patient_disjoint_split(owner, labels, 0.1, 0)
    assert held.any()
    assert not held.all()
    assert not set(owner[held]) & set(owner[~held])


@pytest.mark.parametrize(
    ("patients", "labels", "fraction", "message"),
    [
        (["a", "b"], [[1], [0]], 0.0, "received fraction 0.0"),
        (["a", "b"], [[1], [0]], 1.0, "received fraction 1.0"),
        (["a", "a"], [[1], [0]], 0.5, r"received 1 patient\(s\)"),
        (["a", "b"], [1, 0], 0.5, r"\(2,\) and labels \(2,\)"),
        (["a", "b"], [[1]], 0.5, r"\(2,\) and labels \(1, 1\)"),
    ],
)
def test_refusals(patients, labels, fraction, message):
    with pytest.raises(ValueError, match=message):
        patient_disjoint_split(patients, labels, fraction, 0)


def test_shared_patients_are_named():
    check_disjoint({"train": {"a", "b"}, "validation": {"c"}, "test": set()})
    ours = {f"p{i:02d}" for i in range(9)}
    with pytest.raises(ValueError, match=r"7 .* in both train and test: p02, p03, p04, p05, p06, …"):
        check_disjoint({"train": ours, "validation": {"c"}, "test": ours - {"p00", "p01"}})
