import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgeom import ClipGeomError, ConfigError, DomainError, ShapeError
from clipgeom.geometry.embedding_files import check_embeddings_path, load_embeddings, save_embeddings


def whole(vectors):
    return np.concatenate(list(vectors.blocks()))


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_what_is_saved_is_read_back(tmp_path, rows, suffix):
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, {"hidden.eos": rows})
    vectors = load_embeddings(path)
    assert (vectors.n, vectors.dim) == (30, 5)
    np.testing.assert_array_equal(whole(vectors), rows.astype(float))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_one_of_several_is_named(tmp_path, rows, suffix):
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, {"a": rows, "b": rows + 1})
    np.testing.assert_array_equal(whole(load_embeddings(f"{path}::b")), (rows + 1).astype(float))
    with pytest.raises(ConfigError, match=r"holds 2 arrays \(a, b\); choose one"):
        load_embeddings(path)
    with pytest.raises(ConfigError, match="no array 'c'; there are: a, b"):
        load_embeddings(f"{path}::c")


def test_one_of_a_stack_is_chosen_by_its_index(tmp_path, rows):
    path = tmp_path / "stack.npy"
    np.save(path, np.stack([rows, rows + 1]))
    np.testing.assert_array_equal(whole(load_embeddings(f"{path}::1")), (rows + 1).astype(float))
    for wrong in (path, f"{path}::2", f"{path}::\u00b2", f"{path}::[:, 30]"):
        with pytest.raises(ShapeError, match="one of 0 to 1, such as"):
            load_embeddings(wrong)


def test_a_token_position_is_one_index_of_the_second_axis(tmp_path):
    path = tmp_path / "tokens.npy"
    states = np.random.default_rng(0).normal(size=(30, 77, 4))
    np.save(path, states)
    with pytest.raises(ShapeError, match="second axis is the token position") as caught:
        load_embeddings(path)
    advice = f"{path}::[:, 5]"
    assert f"'{advice}'" in str(caught.value)
    np.testing.assert_array_equal(whole(load_embeddings(advice)), states[:, 5])
    np.testing.assert_array_equal(whole(load_embeddings(f"{path}::[:,76]")), states[:, 76])


@settings(max_examples=25)
@given(
    n=st.integers(1, 20),
    d=st.integers(1, 6),
    dtype=st.sampled_from(["<f2", "<f4", "<f8", ">f4"]),
    order=st.sampled_from("CF"),
)
def test_any_layout_of_an_npy_file(tmp_path_factory, n, d, dtype, order):
    path = tmp_path_factory.mktemp("npy") / "x.npy"
    array = np.asarray(np.random.default_rng(n).normal(size=(n, d)), dtype=dtype, order=order)
    np.save(path, array)
    np.testing.assert_array_equal(whole(load_embeddings(path)), array.astype(float))


def test_bfloat16_is_read_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_file({"other": torch.zeros(2, 2), "x": x}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(whole(load_embeddings(f"{tmp_path / 'x.safetensors'}::x")), x.double().numpy())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, np.nan]] * 3), "row 0 holds NaN"),
        (np.array([[1.0, 2.0], [np.inf, 0.0]]), "row 1 holds NaN or infinity"),
        (np.zeros(4), r"matrix \(n, d\), got shape \(4,\)"),
        (np.zeros((2, 3, 4, 5)), "matrix"),
        (np.zeros((3, 2), dtype=int), "not real floating-point"),
        (np.zeros((3, 2), dtype=complex), "not real floating-point"),
        (np.empty((0, 4)), "holds no vectors"),
    ],
)
def test_arrays_that_are_no_embeddings(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ClipGeomError, match=message):
        load_embeddings(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_objects_are_never_unpickled(tmp_path, suffix):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("an object was unpickled",))

    path = tmp_path / f"x{suffix}"
    array = np.array([Bomb(), 1], dtype=object)
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, x=array)
    with pytest.raises(DomainError, match="refused"):
        load_embeddings(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_damaged_files(tmp_path, rows, suffix):
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, {"x": rows})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ClipGeomError):
        load_embeddings(path)
    path.write_bytes(b"")
    with pytest.raises(ClipGeomError):
        load_embeddings(path)


def test_lists_of_different_lengths(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [[1.0, 2.0], [1.0]]}), tmp_path / "x.parquet")
    with pytest.raises(ShapeError, match="different lengths"):
        load_embeddings(tmp_path / "x.parquet")
    pq.write_table(pa.table({"x": [[1.0, 2.0], None]}), tmp_path / "y.parquet")
    with pytest.raises(DomainError, match="empty row"):
        load_embeddings(tmp_path / "y.parquet")


def test_unit_length_is_checked_where_it_is_promised(tmp_path, rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(tmp_path / "unit.npy", unit)
    np.save(tmp_path / "x.npy", rows)
    assert load_embeddings(tmp_path / "unit.npy", unit=True).n == 30
    with pytest.raises(DomainError, match="no unit length"):
        load_embeddings(tmp_path / "x.npy", unit=True)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_only_files_that_encode_made_are_replaced(tmp_path, rows, suffix):
    """A model, a table or an archive of something else is refused; so is one that is damaged."""
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, {"hidden.eos": rows}, metadata={"model": "m\udcff"})
    check_embeddings_path(path)
    content = path.read_bytes()
    others = [content[: len(content) // 2], b"mine"]
    if suffix == ".npz":
        np.savez(tmp_path / "other.npz", a=rows)
    elif suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"weight": rows}, tmp_path / "other.safetensors", {"format": "pt"})
    else:
        import pandas as pd

        pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "other.parquet")
    others.append((tmp_path / f"other{suffix}").read_bytes())
    for other in others:
        path.write_bytes(other)
        with pytest.raises(ConfigError, match=r"not made by `clipgeom encode` .* add --overwrite"):
            check_embeddings_path(path)
        check_embeddings_path(path, overwrite=True)
        assert path.read_bytes() == other


def test_a_plain_array_cannot_tell_who_made_it_and_is_kept(tmp_path, rows):
    save_embeddings(tmp_path / "x.npy", {"a": rows})
    with pytest.raises(ConfigError, match=r"a .npy file does not show what wrote it; .* add --overwrite"):
        check_embeddings_path(tmp_path / "x.npy")
    check_embeddings_path(tmp_path / "x.npy", overwrite=True)


def test_the_file_that_a_link_points_to_is_replaced(tmp_path, rows):
    (tmp_path / "link.npz").symlink_to("real.npz")
    for scale in (1, 2):
        save_embeddings(tmp_path / "link.npz", {"a": scale * rows})
        assert (tmp_path / "link.npz").is_symlink()
        np.testing.assert_array_equal(whole(load_embeddings(tmp_path / "real.npz")), scale * rows.astype(float))


def test_paths(tmp_path, rows):
    with pytest.raises(ConfigError, match="there is no file"):
        load_embeddings(tmp_path / "absent.npy")
    with pytest.raises(ConfigError, match="no ending of embeddings"):
        load_embeddings(tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="no ending of embeddings"):
        check_embeddings_path(tmp_path / "x.pt")
    check_embeddings_path(tmp_path / "absent" / "x.npy")  # its folder is made when there is something to write
    with pytest.raises(ConfigError, match="one matrix"):
        save_embeddings(tmp_path / "x.npy", {"a": rows, "b": rows})
    with pytest.raises(ConfigError, match="one position"):
        save_embeddings(tmp_path / "x.parquet", {"a": rows, "b": rows[:5]})
    assert not list(tmp_path.iterdir())
