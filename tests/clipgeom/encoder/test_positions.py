import numpy as np
import pytest

from clipgeom import ConfigError
from clipgeom.encoder import Position, parse_positions


def test_written_forms_are_read_and_written_back():
    places = parse_positions("eos, 5,padded:20")
    assert places == (Position("eos"), Position("content", 5), Position("padded", 20))
    assert [str(place) for place in places] == ["eos", "5", "padded:20"]
    assert parse_positions(5) == parse_positions(["5"]) == (Position("content", 5),)


def test_content_ends_before_eos_and_padding_begins_after_it():
    eos = np.array([4, 5, 6])
    assert Position("content", 5).present(eos).tolist() == [False, False, True]
    assert Position("padded", 5).present(eos).tolist() == [True, False, False]
    assert Position("eos").present(eos).all()
    assert Position("eos").rows(eos).tolist() == [4, 5, 6]
    assert Position("content", 5).rows(eos).tolist() == [5, 5, 5]


@pytest.mark.parametrize("bad", ["77", "padded:77", "last", "-1", "5.0", "", ",", "eos,eos", "5,05"])
def test_bad_positions_are_refused(bad):
    with pytest.raises(ConfigError):
        parse_positions(bad)


def test_the_last_position_depends_on_the_encoder():
    assert parse_positions("20", max_positions=21)
    with pytest.raises(ConfigError, match="positions 0 to 20"):
        parse_positions("21", max_positions=21)
