"""Which factors of the embedded world the studies look at."""

__all__ = ["APPEARANCE", "FREE", "LOOKS"]

APPEARANCE = ("body", "headgear", "headgear_color")  # of a character, besides its class
LOOKS = ("class", *APPEARANCE)
FREE = ("position", "background", "facing", "style")  # not said in "a picture of …", so that nothing should teach them
