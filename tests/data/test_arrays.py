import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer_ray.data import arrays


def saved(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), **options)
    return buffer.getvalue()


def with_header(text, numbers=bytes(64)):
    header = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + numbers


def told(shape, kind="'|u1'"):
    return with_header(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}")


@pytest.mark.parametrize(
    "array", [np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.zeros((0, 3)), np.array(["a", "bc"]), np.float64(2)]
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_writes_is_read(array, version, order):
    read = arrays.load(saved(np.asarray(array, order=order), version=version))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.asarray(array).dtype


HOSTILE = {
    "signs that take the parser's stack": with_header("-" * 9000 + "1"),
    "brackets": with_header("(" * 9000),
    "a column that steps back": with_header("  x\n y"),
    "more numbers than there are": told("(10**15,)".replace("10**15", str(10**15))),
    "numbers beyond an index": told(f"({10**30}, 0)"),
    "no numbers of a great length": told(f"(0, {2**62}, {2**62})"),
    "a negative length": told("(-1,)"),
    "a truth for a length": told("(True, 2)"),
    "objects": saved(np.array([{"a": 1}], dtype=object)),
    "a calculation": told("(2**3,)"),
    "a call": told("(exit(),)"),
    "another version": saved(np.zeros(3), version=(3, 0)),
    "an archive": b"PK\x03\x04" + bytes(100),
    "half a header": saved(np.zeros(3))[:40],
    "half its numbers": saved(np.zeros(3))[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_array_is_refused_whatever_numpy_makes_of_it(data):
    with pytest.raises(ValueError, match=r"."):
        arrays.load(data)


HEADERS = st.text(st.sampled_from("{}()[]'\"-,: \n\\0129|uifVO<>bescrTrueFalsN#@"), max_size=80).map(with_header)
CHANGED = st.tuples(st.integers(0, 127), st.binary(min_size=1, max_size=4)).map(
    lambda change: saved(np.zeros((2, 3), np.float32)).replace(b" ", change[1], 1)[: 64 + change[0]]
)


@given(st.one_of(HEADERS, CHANGED, st.binary(max_size=200)))
def test_any_bytes_are_an_array_or_are_refused(data):
    try:
        assert isinstance(arrays.load(data), np.ndarray)
    except ValueError:
        return
