"""Transforms: what is learned, against NumPy and scikit-learn; few rows, no spread, files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from index.errors import StoreError
from index.transform_files import find, load, save
from index.transforms import ROWS_TO_WHITEN, Kind, Transform, choose_kind, fit, parse_kind, sample_size
from index.whitening import oas_shrinkage

KINDS = ["none", "center", "whiten", "whiten:5", "pca:5"]


def matrix(made: Transform) -> np.ndarray:
    assert made.matrix is not None
    return made.matrix


def unit(vectors):
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def narrow():
    """(900, 12) float32: a cone around a common direction, with axes of unlike spread, of any length."""
    generator = np.random.default_rng(7)
    values = 6 + generator.standard_normal((900, 12)) @ (np.diag(np.logspace(0, -2, 12)) @ _rotation(generator, 12))
    return (values * generator.uniform(0.5, 9, (900, 1))).astype(np.float32)


def _rotation(generator, dimension):
    return np.linalg.qr(generator.standard_normal((dimension, dimension)))[0]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("auto", Kind("auto")),
        ("none", Kind("none")),
        (" Center", Kind("center")),
        ("whiten", Kind("whiten")),
        ("whiten:64", Kind("whiten", 64)),
        ("PCA:3", Kind("pca", 3)),
    ],
)
def test_names(text, kind):
    assert parse_kind(text) == kind
    assert parse_kind(str(kind)) == kind


@pytest.mark.parametrize("text", ["", "pca", "pca:", "whiten:0", "whiten:-3", "whiten:x", "center:4", "auto:2", "zca"])
def test_names_that_are_none(text):
    with pytest.raises(StoreError, match="unknown; use auto, none, center, whiten, whiten:DIM or pca:DIM"):
        parse_kind(text)


def test_none_is_length_one(narrow):
    made = fit(narrow, "none")
    np.testing.assert_allclose(made.apply(narrow), unit(narrow), atol=1e-7)


def test_center_against_numpy(narrow):
    centred = unit(narrow) - unit(narrow).mean(axis=0)
    np.testing.assert_allclose(fit(narrow, "center").apply(narrow), unit(centred), atol=1e-5)


@pytest.mark.parametrize("axes", [5, 12])
def test_principal_axes_against_numpy(narrow, axes):
    centred = unit(narrow) - unit(narrow).mean(axis=0)
    right = np.linalg.svd(centred, full_matrices=False)[2][:axes].T
    made = fit(narrow, f"pca:{axes}")
    signs = np.sign((matrix(made) * right).sum(axis=0))
    np.testing.assert_allclose(matrix(made), right * signs, atol=1e-5)
    np.testing.assert_allclose(made.apply(narrow), unit(centred @ matrix(made)), atol=1e-5)
    assert (np.take_along_axis(matrix(made), np.abs(matrix(made)).argmax(axis=0)[None], 0) > 0).all()


def test_whitened_axes_are_even_and_independent(narrow):
    """All but the shrinkage, which keeps an axis from more than its share of noise."""
    made = fit(narrow, "whiten")
    centred = unit(narrow) - unit(narrow).mean(axis=0)
    variances = np.linalg.eigvalsh(np.cov(centred.T, bias=True))[::-1]
    shrinkage = made.learned["shrinkage"]
    assert 0 < shrinkage < 0.01
    expected = variances / ((1 - shrinkage) * variances + shrinkage * variances.mean())
    np.testing.assert_allclose(np.cov((centred @ matrix(made)).T, bias=True), np.diag(expected), atol=1e-5)
    assert expected[0] > 0.99
    kept = fit(narrow, "whiten:5")
    np.testing.assert_array_equal(matrix(kept), matrix(made)[:, :5])
    assert (kept.kind, kept.out_dimension, kept.apply(narrow).shape) == ("whiten:5", 5, (900, 5))


def test_shrinkage_grows_as_rows_lack_and_axes_are_even():
    generator = np.random.default_rng(2)
    even = generator.standard_normal((2000, 48)).astype(np.float32)
    steep = (even * np.logspace(0, -2, 48)).astype(np.float32)

    def shrinkage(vectors, rows):
        return fit(vectors[:rows], "whiten").learned["shrinkage"]

    assert shrinkage(even, 60) > 0.9, "60 rows do not show that any axis has more than its share"
    assert shrinkage(steep, 60) < 0.3
    assert shrinkage(steep, 2000) < 0.01
    values = np.array([3.0, 1.0])
    # By hand: tr(S^2) = 10, tr(S) = 4, D = 2: (0 * 10 + 16) / ((99 + 1 - 1) * (10 - 16 / 2)).
    assert oas_shrinkage(values, 99) == pytest.approx(16 / (99 * 2))


def test_whitening_tells_families_apart_that_raw_cosines_do_not():
    """What it is for: a large common part and a strong direction of no meaning hide a weak one that matters."""
    generator = np.random.default_rng(8)
    families = np.repeat(np.arange(40), 10)
    weak = generator.standard_normal((40, 24))[families] + 0.3 * generator.standard_normal((400, 24))
    vectors = np.hstack([20 + 5 * generator.standard_normal((400, 8)), weak]).astype(np.float32)

    def nearest_is_family(kind):
        moved = fit(vectors, kind).apply(vectors)
        scores = moved @ moved.T
        np.fill_diagonal(scores, -2)
        return (families[scores.argmax(axis=1)] == families).mean()

    assert nearest_is_family("none") < 0.5
    assert nearest_is_family("center") < 0.8
    assert nearest_is_family("whiten") > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_same_again_and_in_any_company(narrow, kind):
    made = fit(narrow, kind)
    assert made.digest == fit(narrow.copy(), kind).digest
    moved = made.apply(narrow)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)
    alone = np.vstack([made.apply(narrow[row : row + 1]) for row in range(40)])
    np.testing.assert_array_equal(alone, moved[:40])
    np.testing.assert_allclose(made.apply(narrow * 1000), moved, atol=2e-5)
    assert made.apply(narrow[:0]).shape == (0, made.out_dimension)


def test_learned_on_a_seeded_sample():
    generator = np.random.default_rng(1)
    vectors = (1 + generator.standard_normal((sample_size(2) + 500, 2))).astype(np.float32)
    made = fit(vectors, "whiten", seed=3)
    assert made.learned["rows"] == sample_size(2)
    assert made.digest == fit(vectors, "whiten", seed=3).digest
    assert made.digest != fit(vectors, "whiten", seed=4).digest
    assert made.reason == "as asked"


@pytest.mark.parametrize("kind", ["center", "whiten", "pca:4"])
@pytest.mark.parametrize("shape", ["constant axes", "copied axes", "few rows", "two kinds of row", "one axis moves"])
def test_degenerate_vectors_stay_finite(narrow, kind, shape):
    vectors = {
        "constant axes": np.hstack([narrow[:, :6], np.full((900, 6), 2, np.float32)]),
        "copied axes": np.hstack([narrow[:, :6], narrow[:, :6]]),
        "few rows": narrow[:ROWS_TO_WHITEN],
        "two kinds of row": narrow[np.arange(900) % 3 // 2],
        "one axis moves": np.where(np.arange(12) == 3, narrow, np.float32(1)),
    }[shape]
    moved = fit(vectors, kind).apply(vectors)
    assert np.isfinite(moved).all()
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)


def test_vectors_that_are_all_alike(narrow):
    alike = np.tile(narrow[:1], (500, 1))
    made = fit(alike, "auto")
    assert (made.kind, made.reason) == ("none", "all vectors are alike")
    for kind in ("center", "whiten", "pca:2"):
        with pytest.raises(StoreError, match="all vectors are alike, so there is nothing to learn; use none"):
            fit(alike, kind)


def test_a_vector_that_is_the_mean_has_no_direction(narrow):
    common = unit(narrow[:1])[0].astype(np.float32)
    made = Transform("center", 12, mean=common)
    with pytest.raises(
        StoreError, match=r"query 8: has no direction left once the mean is subtracted \(transform cent"
    ):
        made.apply(np.vstack([narrow[1:2], common]), np.array([7, 8]), "query")


@pytest.mark.parametrize(
    ("bad", "message"),
    [(0.0, "row 3: the vector is zero or not finite"), (np.nan, "row 3: the vector is zero or not finite")],
)
def test_rows_without_direction(narrow, bad, message):
    narrow[3] = bad
    with pytest.raises(StoreError, match=message):
        fit(narrow, "whiten")


def test_auto_goes_by_the_number_of_rows(narrow):
    assert choose_kind(ROWS_TO_WHITEN - 1)[0] == Kind("none")
    assert choose_kind(ROWS_TO_WHITEN)[0] == Kind("whiten")
    few, enough = fit(narrow[: ROWS_TO_WHITEN - 1], "auto"), fit(narrow[:ROWS_TO_WHITEN], "auto")
    assert few.kind == "none"
    assert few.reason == f"fewer than {ROWS_TO_WHITEN} vectors"
    assert enough.kind == "whiten"
    assert enough.digest == fit(narrow[:ROWS_TO_WHITEN], "whiten").digest


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("whiten:13", 900, "'whiten:13': the vectors have 12 axes only"),
        ("pca:13", 900, "'pca:13': the vectors have 12 axes only"),
        ("whiten:8", 20, f"'whiten:8': needs at least {ROWS_TO_WHITEN} vectors to learn, there are 20"),
        ("pca:8", 8, "'pca:8': needs at least 9 vectors to learn, there are 8"),
        ("center", 1, "'center': needs at least 2 vectors"),
        ("whiten", ROWS_TO_WHITEN - 1, f"'whiten': needs at least {ROWS_TO_WHITEN} vectors to learn, there are"),
        ("whiten", 0, "there are 0; use auto, center or none"),
    ],
)
def test_too_few_rows_or_axes(narrow, kind, rows, message):
    with pytest.raises(StoreError, match=message):
        fit(narrow[:rows], kind)


def test_other_dimension(narrow):
    with pytest.raises(StoreError, match=r"vectors of shape \(900, 11\): this transform takes vectors of 12 values"):
        fit(narrow, "center").apply(narrow[:, :11])


@pytest.mark.parametrize("kind", KINDS)
def test_files(narrow, kind, tmp_path):
    made = fit(narrow, kind, fingerprint="f" * 64)
    save(made, tmp_path / "transform.npz")
    read = load(tmp_path / "transform.npz")
    assert (read.kind, read.dimension, read.fingerprint, read.learned) == (kind, 12, "f" * 64, made.learned)
    assert read.digest == made.digest
    np.testing.assert_array_equal(read.apply(narrow), made.apply(narrow))
    written = (tmp_path / "transform.npz").read_bytes()
    save(read, tmp_path / "transform.npz")
    assert (tmp_path / "transform.npz").read_bytes() == written


def test_a_file_of_other_vectors(narrow, tmp_path):
    file = tmp_path / "transform.npz"
    save(fit(narrow, "whiten", fingerprint="f" * 64), file)
    found = find(file, "f" * 64, 12)
    assert isinstance(found, Transform)
    assert found.digest == fit(narrow, "whiten").digest
    for fingerprint, dimension in (("e" * 64, 12), ("f" * 64, 13)):
        with pytest.raises(StoreError, match="learned from vectors of another model, layer or pooling"):
            find(str(file), fingerprint, dimension)
    assert find("whiten:3", "f" * 64, 12) == Kind("whiten", 3)


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "no mean", "wrong shape", "nan", "newer", "pickle"])
def test_damaged_files(narrow, tmp_path, damage):
    file = tmp_path / "transform.npz"
    made = fit(narrow, "whiten")
    save(made, file)
    about = json.loads(str(np.load(file)["about"]))
    arrays = {"about": np.array(json.dumps(about)), "mean": made.mean, "matrix": matrix(made)}
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:300])
    elif damage == "text":
        file.write_text("no archive")
    elif damage == "no mean":
        np.savez(file, about=arrays["about"])
    elif damage == "wrong shape":
        np.savez(file, **{**arrays, "matrix": matrix(made)[:4]}, allow_pickle=False)
    elif damage == "nan":
        np.savez(file, **{**arrays, "mean": np.full(12, np.nan, np.float32)}, allow_pickle=False)
    elif damage == "newer":
        np.savez(file, **{**arrays, "about": np.array(json.dumps({**about, "format": 2}))}, allow_pickle=False)
    else:
        np.savez(file, **{**arrays, "matrix": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(StoreError, match=r"transform\.npz: (cannot be read as a transform|a transform of format 2)"):
        load(file)
