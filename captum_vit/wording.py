"""How numbers are written, the same on pictures, figures, pages and terminals."""


def percent(share: float) -> str:
    """A share in 0..1, without a false zero: "81.3 %", "0.24 %", "< 0.01 %"."""
    if 0 < share < 5e-5:
        return "< 0.01 %"
    return f"{100 * share:.{2 if 0 < share < 0.01 else 1}f} %"


def number(value: float) -> str:
    """Three significant digits: "0.21", "12.8", "1290"; of what is very small or large "2.50e-5".

    The page's script writes what it tells of a patch in the same way.
    """
    size = abs(value)
    if not 1e-3 <= float(f"{size:.3g}") < 1e5 and size:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits}e{int(exponent):+d}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:.6f}".rstrip("0").rstrip(".") if rounded else "0"
