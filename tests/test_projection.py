from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog, minimize
from scipy.stats import rankdata
from sklearn.isotonic import isotonic_regression

from hf_cxr.bootstrap import Resamples
from hf_cxr.hierarchy import Hierarchy, Node
from hf_cxr.intervals import compare
from hf_cxr.projection import METHODS, SPACES, ProjectionError, down, least_squares, project, up
from tests.conftest import TEST_DATA

KITE = Hierarchy(
    "kite",
    (
        Node("both", parents=("left", "right")),
        Node("top"),
        Node("left", parents=("top",)),
        Node("below", parents=("both", "side", "top"), aliases=("under",)),
        Node("right", parents=("top",)),
        Node("side"),
    ),
)
"""Labels with two and three parents, one edge that follows from others, children before parents."""


def random_dag(random, n_labels, density):
    """Parents are earlier in a hidden order; the labels stand in another."""
    parents = {j: tuple(f"n{i}" for i in range(j) if random.random() < density) for j in range(n_labels)}
    return Hierarchy("random", tuple(Node(f"n{j}", parents=parents[j]) for j in random.permutation(n_labels)))


def edges(hierarchy):
    return tuple(list(side) for side in hierarchy.edge_indices)


def worst_gap(table, hierarchy):
    parents, children = edges(hierarchy)
    return (table[:, children] - table[:, parents]).max()


def awkward_tables(random, n_labels, n_films=60):
    """Plain, tied, near-tied and extreme values."""
    plain = random.random((n_films, n_labels))
    near = 0.5 + random.integers(-3, 4, plain.shape) * 2.0**-53
    return [plain, random.integers(0, 3, plain.shape) / 2, np.round(plain, 1), near, plain**40, 1 - 1e-9 * plain]


# Against something independent


def brute_force(y, hierarchy, weight):
    """Over all sets of tied edges: block means, the feasible one nearest to y."""
    parents, children = edges(hierarchy)
    best, nearest = np.inf, None
    for tied in product((False, True), repeat=len(parents)):
        block = list(range(len(y)))
        for on, p, c in zip(tied, parents, children, strict=True):
            if on:
                block = [block[p] if b == block[c] else b for b in block]
        x = np.array([np.average(y[[b == own for b in block]], weights=weight[[b == own for b in block]])
                      for own in block])  # fmt: skip
        distance = (weight * (x - y) ** 2).sum()
        if (x[children] <= x[parents] + 1e-12).all() and distance < best:
            best, nearest = distance, x
    return nearest


@pytest.mark.parametrize("spread", [0, 3])
def test_least_squares_is_the_best_of_all_block_means(spread):
    random = np.random.default_rng(0)
    weight = np.exp(spread * random.normal(size=6))
    table = random.random((25, 6))
    expected = [brute_force(y, KITE, weight) for y in table]
    np.testing.assert_allclose(least_squares(table, KITE, weight), expected, atol=1e-12, rtol=0)


def test_a_film_whose_ties_are_undone_twice():
    """In order after the first tie is undone, but not yet nearest: 1 film in 6,000 on dense graphs."""
    parents = {"b": "a", "c": "ab", "d": "ac", "e": "cd", "f": "bcde"}
    hierarchy = Hierarchy("six", tuple(Node(n, parents=tuple(parents.get(n, ""))) for n in "dbacef"))
    table = np.array([[0.77248177, 0.0538138, 0.45342884, 0.52936389, 0.06563516, 0.59200936]])
    expected = brute_force(table[0], hierarchy, np.ones(6))
    np.testing.assert_allclose(least_squares(table, hierarchy)[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("space", SPACES)
def test_least_squares_is_what_a_qp_solver_finds(chexpert, space):
    random = np.random.default_rng(1)
    weights = dict(zip(chexpert.names, random.uniform(0.5, 2, 21), strict=True))
    table = random.uniform(0.02, 0.98, (4, 21))
    parents, children = edges(chexpert)
    difference = np.zeros((20, 21))
    difference[range(20), parents], difference[range(20), children] = 1, -1
    weight = np.array(list(weights.values()))
    found = project(table, chexpert, "least_squares", space=space, weights=weights)
    for y, x in zip(table, found, strict=True):
        y, x = (np.log(v / (1 - v)) if space == "logit" else v for v in (y, x))
        solved = minimize(
            lambda v, y=y: (weight * (v - y) ** 2).sum(), np.zeros(21), jac=lambda v, y=y: 2 * weight * (v - y),
            method="SLSQP", options={"ftol": 1e-13, "maxiter": 1000},
            constraints={"type": "ineq", "fun": lambda v: difference @ v, "jac": lambda v: difference},
        )  # fmt: skip
        assert solved.success
        np.testing.assert_allclose(x, solved.x, atol=1e-6, rtol=0)


def test_a_chain_is_isotonic_regression():
    random = np.random.default_rng(2)
    chain = Hierarchy("chain", tuple(Node(f"n{i}", parents=(f"n{i - 1}",) if i else ()) for i in range(12)))
    weight = random.uniform(0.1, 5, 12)
    for y in random.random((50, 12)):
        expected = isotonic_regression(y, sample_weight=weight, increasing=False)
        np.testing.assert_allclose(least_squares(y[None], chain, weight)[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("density", [0.15, 0.5, 1.0])
def test_least_squares_fulfils_kkt_on_any_dag(density):
    """Residuals are a non-negative combination of tight edges (found by HiGHS), ties and far weights included."""
    random = np.random.default_rng(3)
    for trial in range(6):
        hierarchy = random_dag(random, 10, density)
        if not hierarchy.edges:
            continue
        parents, children = edges(hierarchy)
        weight = np.exp((trial % 3) * random.normal(size=10))
        for table in awkward_tables(random, 10, n_films=4)[:4]:
            for y, x in zip(table, least_squares(table, hierarchy, weight), strict=True):
                assert (x[children] - x[parents]).max() <= 1e-12
                # A label below its parent by more than rounding leaves the edge's multiplier 0.
                bounds = [(0, None if x[p] - x[c] < 1e-9 else 0) for p, c in zip(parents, children, strict=True)]
                flow = np.zeros((10, len(parents)))
                flow[children, range(len(parents))] = 1
                flow[parents, range(len(parents))] -= 1
                slack = np.hstack([flow, np.eye(10), -np.eye(10)])
                cost = [0] * len(parents) + [1] * 20
                solved = linprog(cost, A_eq=slack, b_eq=weight * (y - x), bounds=[*bounds, *[(0, None)] * 20])
                assert solved.status == 0
                assert solved.fun < 1e-9 * weight.max()


def test_up_and_down_are_maxima_and_minima_over_relatives(chexpert, nih):
    random = np.random.default_rng(4)
    for hierarchy in (chexpert, nih, KITE):
        table = random.random((30, len(hierarchy.names)))
        for i, name in enumerate(hierarchy.names):
            below = [hierarchy.names.index(n) for n in hierarchy.descendants(name)]
            above = [hierarchy.names.index(n) for n in hierarchy.ancestors(name)]
            assert (up(table, hierarchy)[:, i] == table[:, [i, *below]].max(axis=1)).all()
            assert (down(table, hierarchy)[:, i] == table[:, [i, *above]].min(axis=1)).all()


# The promises of `project`


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", METHODS)
def test_order_is_exact_range_is_kept_and_twice_is_once(chexpert, nih, method, space):
    random = np.random.default_rng(5)
    for hierarchy in (chexpert, nih, KITE, random_dag(random, 15, 0.4)):
        for weighted in (False, True) if method == "least_squares" else (False,):
            far = 10 ** random.uniform(-6, 6, len(hierarchy.names))
            weights = dict(zip(hierarchy.names, far, strict=True)) if weighted else None
            for table in awkward_tables(random, len(hierarchy.names)):
                assert worst_gap(table, hierarchy) > 0
                kept = table.copy()
                result = project(table, hierarchy, method, space=space, weights=weights)
                assert worst_gap(result, hierarchy) <= 0
                assert result.min() >= 0
                assert result.max() <= 1
                np.testing.assert_array_equal(table, kept)
                np.testing.assert_array_equal(project(result, hierarchy, method, space=space, weights=weights), result)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_in_order_keeps_its_bits(chexpert, method, space):
    random = np.random.default_rng(6)
    table = random.random((200, 21))
    table[::2] = up(table[::2], chexpert)
    outside = [chexpert.names.index("No Finding"), chexpert.names.index("Uncertain")]
    result = project(table, chexpert, method, space=space)
    np.testing.assert_array_equal(result[::2], table[::2])
    np.testing.assert_array_equal(result[:, outside], table[:, outside])
    assert (result[1::2] != table[1::2]).any(axis=1).all()
    if method == "least_squares":
        weights = dict(zip(chexpert.names, random.uniform(0.1, 10, 21), strict=True))
        weighted = project(table, chexpert, method, space=space, weights=weights)
        np.testing.assert_array_equal(weighted[:, outside], table[:, outside])


@pytest.mark.parametrize("space", SPACES)
def test_a_film_is_projected_by_itself(chexpert, space, monkeypatch):
    table = np.random.default_rng(9).random((20, 21))
    whole = project(table, chexpert, "least_squares", space=space)
    single = [project(film[None], chexpert, "least_squares", space=space)[0] for film in table]
    monkeypatch.setattr("hf_cxr.projection.FILMS_AT_ONCE", 7)
    batched = project(table, chexpert, "least_squares", space=space)
    np.testing.assert_allclose(single, whole, atol=1e-14, rtol=0)
    np.testing.assert_allclose(batched, whole, atol=1e-14, rtol=0)


def test_pooled_labels_are_equal_and_lie_between(nih):
    table = np.full((1, 21), 0.5)
    cardiac, cardiomegaly = nih.names.index("Cardiac"), nih.names.index("Cardiomegaly")
    table[0, cardiac], table[0, cardiomegaly] = 0.1, 0.4
    result = project(table, nih, "least_squares")
    assert result[0, cardiac] == result[0, cardiomegaly] == pytest.approx(0.25, abs=1e-15)
    weights = dict.fromkeys(nih.names, 1.0) | {"Cardiac": 3.0}
    assert project(table, nih, "least_squares", weights=weights)[0, cardiac] == pytest.approx(0.175, abs=1e-15)
    logit = project(table, nih, "least_squares", space="logit")
    assert logit[0, cardiac] == pytest.approx(1 / (1 + np.sqrt(9 * 1.5)), abs=1e-15)  # geometric mean of the odds
    assert project(table, nih, "midpoint")[0, cardiac] == pytest.approx(0.25, abs=1e-15)


def test_nothing_to_do(nih):
    table = np.random.default_rng(7).random((5, 21))
    flat = Hierarchy("flat", tuple(Node(name) for name in nih.names))
    for method in METHODS:
        np.testing.assert_array_equal(project(table, flat, method), table)
        assert project(table[:0], nih, method).shape == (0, 21)
    assert project(table.astype(np.float32), nih).dtype == np.float64


def test_weights_by_alias():
    weights = {"both": 1, "top": 2, "left": 3, "under": 4, "right": 5, "side": 6}
    table = np.random.default_rng(8).random((20, 6))
    expected = least_squares(table, KITE, np.array([1.0, 2, 3, 4, 5, 6]))
    result = project(table, KITE, "least_squares", weights=weights)
    np.testing.assert_allclose(result, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"row 2, label 'Edema': probability nan, expected \[0, 1\] \(1 such cells\)"),
        (1.5, "row 2, label 'Edema': probability 1.5"),
        (-1e-9, "row 2, label 'Edema': probability -1e-09"),
    ],
)
def test_bad_cells_are_named(nih, value, message):
    table = np.full((4, 21), 0.5)
    table[2, nih.names.index("Edema")] = value
    with pytest.raises(ProjectionError, match=message):
        project(table, nih)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sideways"}, "method is 'sideways', expected one of up, down, midpoint, least_squares"),
        ({"space": "odds"}, "space is 'odds', expected one of probability, logit"),
        ({"weights": {"top": 1}}, "weights are for method 'least_squares', got method 'up'"),
        ({"method": "least_squares", "weights": {"top": 1}}, "no weight for both, left, below, right, side"),
        ({"method": "least_squares", "weights": dict.fromkeys(KITE.names, 0)}, "weight of 'both' is 0.0"),
        (
            {"method": "least_squares", "weights": dict.fromkeys(KITE.names, 1) | {"left": 1e-13}},
            r"weights of 'left' \(1e-13\) and 'both' \(1.0\) are too far apart; expected a ratio of 1e\+12",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ProjectionError, match=message):
        project(np.full((2, 6), 0.5), KITE, **arguments)


@pytest.mark.parametrize("table", [np.full((2, 5), 0.5), np.full(6, 0.5)])
def test_bad_shapes(table):
    with pytest.raises(ProjectionError, match=r"expected \(films, 6\), one column for each of both, top"):
        project(table, KITE)


# R1's published outputs


@pytest.fixture(scope="module")
def r1(chexpert):
    """Truth and probabilities, 325 films x 21 labels in the order of the taxonomy."""
    file = TEST_DATA / "chexpert_test_predictions" / "cihmlc_densenet121.csv"
    if not file.exists():
        pytest.skip(f"published predictions not found at {file}; set HF_CXR_TEST_DATA")
    frame = pd.read_csv(file).set_index("Path")
    sides = {}
    for suffix in ("_GT", "_Pred"):
        side = frame[[c for c in frame if c.endswith(suffix)]]
        side.columns = [chexpert.resolve(c.removesuffix(suffix)) for c in side]
        sides[suffix] = side[list(chexpert.names)].to_numpy(float)
    return sides["_GT"], sides["_Pred"]


def aggregates(truth, probability, hierarchy):
    """AUROC as the rank sum (Mann & Whitney): mean, mean by positives, mean over the five competition labels."""
    positives = truth.sum(axis=0)
    ranks = (rankdata(probability, axis=0) * truth).sum(axis=0)
    auroc = (ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))
    five = [hierarchy.names.index(name) for name in hierarchy.subsets["competition"]]
    assert len(five) == 5
    return np.array([auroc.mean(), np.average(auroc, weights=positives), auroc[five].mean()])


RAW = (0.880383, 0.898002, 0.868880)
PROJECTED = {
    ("up", "probability"): (0.880846, 0.897495, 0.871489),
    ("down", "probability"): (0.878837, 0.898125, 0.868812),
    ("midpoint", "probability"): (0.879987, 0.897997, 0.870104),
    ("midpoint", "logit"): (0.879668, 0.897956, 0.869845),
    ("least_squares", "probability"): (0.879744, 0.897826, 0.870111),
    ("least_squares", "logit"): (0.879442, 0.897835, 0.869835),
}
"""Macro, support-weighted and five-label AUROC."""


def test_r1_as_published(r1, chexpert):
    truth, raw = r1
    parents, children = edges(chexpert)
    violated = (raw[:, parents] < 0.5) & (raw[:, children] > 0.5)
    assert (len(parents), violated.sum(), violated.any(axis=1).sum()) == (20, 10, 8)
    assert (raw[:, children] > raw[:, parents]).any(axis=1).sum() == 248
    assert aggregates(truth, raw, chexpert) == pytest.approx(RAW, abs=5e-7)


@pytest.mark.parametrize(("method", "space"), PROJECTED)
def test_r1_projected(r1, chexpert, method, space):
    truth, raw = r1
    result = project(raw, chexpert, method, space=space)
    assert worst_gap(result, chexpert) <= 0
    found = aggregates(truth, result, chexpert)
    assert found == pytest.approx(PROJECTED[method, space], abs=5e-7)
    # Acceptance: no aggregate lower by more than 0.001. `down` fails it, which is why it is no default.
    assert (found >= np.array(RAW) - 0.001).all() == (method != "down")


def test_r1_every_difference_could_be_none(r1, chexpert):
    """The intervals over patients of the differences that `up` makes contain 0."""
    truth, raw = r1
    frame = pd.read_csv(TEST_DATA / "chexpert_test_predictions" / "cihmlc_densenet121.csv")
    resamples = Resamples.of(frame["Path"].str.extract(r"(patient\d+)")[0], 1000)
    subsets = {"": chexpert.names, "five": chexpert.subsets["competition"]}
    compared = compare(chexpert.names, truth, project(raw, chexpert), raw, resamples, subsets)
    for figure in (("macro_auroc", ""), ("weighted_auroc", ""), ("macro_auroc", "five")):
        interval = compared[figure].interval
        assert interval.low < 0 < interval.high


def test_r1_the_default_does_best(r1, chexpert):
    truth, raw = r1
    default = aggregates(truth, project(raw, chexpert), chexpert)
    others = [aggregates(truth, project(raw, chexpert, m, space=s), chexpert) for m, s in PROJECTED if m != "up"]
    assert default[0] > max(o[0] for o in others)
    assert default[2] > max(o[2] for o in others)
