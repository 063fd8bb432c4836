"""The looks of every figure: one palette (Okabe-Ito), one colour per method, one way to say right and wrong."""

from zlib import crc32

# Okabe and Ito, Color Universal Design (2008): told apart with every common colour vision.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY = "#888888"
RIGHT, WRONG = GREEN, VERMILION
RIGHT_SIGN, WRONG_SIGN = "✓", "✗"

METHOD_COLOURS = {
    "MixVPR": BLUE, "Lightweight-MixVPR": SKY, "Lightweight-MixVPR KD": "#00768F", "DINO-Mix": PURPLE, "ClusVPR": VERMILION, "DistilVPR": GREEN,
    "NetVLAD": ORANGE, "CosPlace": "#8C6D1F", "Conv-AP": "#5D3A9B", "GeM": "#4D7C8A", "AVG": "#333333",
    "Raw pixels": GREY, "Untrained": "#BBBBBB",
}  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
_markers: dict[str, str] = {}  # name: its marker


def method_colour(system: str) -> str:
    """The colour of a method, the same in the whole workbook; unknown methods get a stable one of the palette."""
    spare = (ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE)
    return METHOD_COLOURS.get(system, spare[crc32(system.encode()) % len(spare)])


def method_marker(name: str) -> str:
    """A marker of its own for every name of a session, in the order they come, so that lines differ without colour too."""
    return _markers.setdefault(name, MARKERS[len(_markers) % len(MARKERS)])


def bare(ax) -> None:
    """Take ticks, grid and frame from axes that show something without a scale."""
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def panels(count: int, columns: int, width: float, height: float, **options):
    """A figure with so many panels in rows of `columns`, each (width, height) inches, and its axes in reading order."""
    import matplotlib.pyplot as plt

    columns = min(columns, count)
    lines = -(-count // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(width * columns, height * lines), squeeze=False, **options)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, axes.flat[:count]


def use_style() -> None:
    """Set matplotlib's defaults; notebooks call it once through `open_notebook`."""
    import matplotlib as mpl

    mpl.rcParams.update({
        "figure.dpi": 110, "savefig.dpi": 160, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
        "font.size": 10.5, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": "#E3E3E3", "grid.linewidth": 0.8, "legend.frameon": False, "lines.linewidth": 2,
        "lines.markersize": 5.5, "image.interpolation": "nearest",
        "axes.prop_cycle": mpl.cycler(color=[BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK]),
    })  # fmt: skip
