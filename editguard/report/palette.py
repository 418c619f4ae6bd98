"""Colours of lines that are told apart also with colour blindness."""

from __future__ import annotations

from typing import Final

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#5b4b8a")
"""On a light ground (after Okabe and Ito 2008)."""
ON_DARK: Final = ("#4aa3ff", "#ff8c4a", "#2fc796", "#e79cc6", "#e0ad3c", "#a5e0ff", "#b3a5ee")
"""The same hues, lighter, on a dark ground."""
_HEAT: Final = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#fee838")
_FIRST_LIGHT: Final = 5
"""From this step on the ground is light, and what is written on it dark."""


def heat(share: float) -> tuple[str, str]:
    """Ground and ink of a share in [0, 1]: nine steps of cividis, of rising lightness for every kind of eye.

    Source: Nuñez, Anderton, Renslow, "Optimizing colormaps with consideration for color vision deficiency" (2018).
    """
    step = round(min(max(share, 0.0), 1.0) * (len(_HEAT) - 1))
    return _HEAT[step], "#000000" if step >= _FIRST_LIGHT else "#ffffff"
