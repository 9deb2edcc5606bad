"""The reference page is that of the present schema."""

from pathlib import Path

from pti.config.reference import reference
from pti.config.schema import Config

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python bin/write-configuration"


def test_the_page_has_every_setting_with_its_values():
    text = reference()
    for name in Config().flat():
        assert f"- **`{name.partition('.')[2]}`** (" in text
    assert "- **`learning_rate`** (number, above 0; default `0.0001`; miniworld `0.004`)" in text
    assert '- **`locality_t`** (number or "uniform", at least 0, at most 1; default `0.5`)' in text
