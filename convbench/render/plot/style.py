"""How plots look: colours, markers, and files that come out the same each time."""

from __future__ import annotations

import html
import io
import textwrap
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from convbench.compare import Verdict
from convbench.roofline import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.axes import Axes

    from convbench.render.plot.scene import Scene

MARKERS = {Bound.COMPUTE: "o", Bound.BANDWIDTH: "s", Bound.LATENCY: "^"}
VERDICT_MARKERS = {
    Verdict.REGRESSION: (">", True), Verdict.SUSPECT: (">", False), Verdict.INCONCLUSIVE: ("o", False),
    Verdict.ALGORITHM_CHANGED: ("s", True), Verdict.IMPROVED: ("<", True), Verdict.OK: ("o", True),
}  # fmt: skip
"""Marker, and whether it is solid, of the verdicts that a row with a ratio may have."""
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "++", "oo", "--")
"""Beside the colours of series, so that they are told apart in print."""
PNG_DPI = 200
TEXT, SMALL, TINY = 8.0, 7.0, 6.5
"""Sizes in points: labels, legends, long tables."""
SMALL_LETTER = 0.056
"""Inches that a letter of that size takes on average."""
NOTE_LINES = 3
"""As many fit below the lowest axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours of a plot.

    Those of `bounds`, `verdicts` and `series` follow Okabe and Ito's palette, which colour-blind readers can tell apart
    (jfly.uni-koeln.de/color, 2008), lighter on dark ground.
    """

    face: str
    ground: str
    text: str
    muted: str
    grid: str
    band: str
    bounds: Mapping[Bound, str]
    verdicts: Mapping[Verdict, str]
    series: tuple[str, ...]


def _verdicts(slower: str, faster: str, changed: str, none: str) -> dict[Verdict, str]:
    return {Verdict.REGRESSION: slower, Verdict.SUSPECT: slower, Verdict.IMPROVED: faster,
            Verdict.ALGORITHM_CHANGED: changed, Verdict.INCONCLUSIVE: none, Verdict.OK: none}  # fmt: skip


THEME = {
    "light": Theme(
        face="#ffffff", ground="#ffffff", text="#1b1f24", muted="#59636e", grid="#e4e8ec", band="#eceff3",
        bounds={Bound.COMPUTE: "#0072b2", Bound.BANDWIDTH: "#d55e00", Bound.LATENCY: "#009e73"},
        verdicts=_verdicts(slower="#d55e00", faster="#0072b2", changed="#5e2a84", none="#59636e"),
        series=("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f", "#b8a400"),
    ),
    "dark": Theme(
        face="#0d1117", ground="#0d1117", text="#e6edf3", muted="#9aa5b1", grid="#21272f", band="#1c222b",
        bounds={Bound.COMPUTE: "#56b4e9", Bound.BANDWIDTH: "#ff9a3c", Bound.LATENCY: "#2bd9a0"},
        verdicts=_verdicts(slower="#ff9a3c", faster="#56b4e9", changed="#ffd1f0", none="#9aa5b1"),
        series=("#56b4e9", "#e69f00", "#2bd9a0", "#e59ac4", "#f0784a", "#3d8fd1", "#a0a0a0", "#f0e442"),
    ),
}  # fmt: skip


@contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Matplotlib as we need it, whatever the user's settings are; to draw and to encode in."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script without letters here
        mpl.rcdefaults()
        mpl.rcParams.update({
            "svg.hashsalt": "convbench", "svg.fonttype": "path", "pdf.fonttype": 42, "text.parse_math": False,
            "text.hinting": "none", "font.size": TEXT, "hatch.linewidth": 0.6,
            "figure.facecolor": theme.face, "axes.facecolor": theme.ground, "savefig.facecolor": theme.face,
            "text.color": theme.text, "axes.labelcolor": theme.text, "axes.edgecolor": theme.muted,
            "axes.linewidth": 0.8, "xtick.color": theme.muted, "ytick.color": theme.muted,
            "xtick.labelcolor": theme.text, "ytick.labelcolor": theme.text, "grid.color": theme.grid,
            "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
            "legend.frameon": False, "hatch.color": theme.ground,
        })  # fmt: skip
        yield


class Titled(Protocol):
    """What a picture is of."""

    @property
    def title(self) -> str:
        """One line."""

    @property
    def subtitle(self) -> str:
        """Lines below it."""


def new_figure(scene: Titled, theme: Theme, width: float, height: float) -> Figure:
    """An empty figure of so many inches, with the scene's title."""
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    _fitted(figure, 1 - 0.18 / height, scene.title, 13, weight="bold", va="top")
    _fitted(figure, 1 - 0.45 / height, scene.subtitle, TEXT, color=theme.muted, va="top", linespacing=1.4)
    return figure


def header_inches(scene: Titled) -> float:
    """What the title needs."""
    return 0.5 + 0.16 * (1 + scene.subtitle.count("\n"))


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def add_notes(figure: Figure, theme: Theme, notes: list[str]) -> None:
    """What is not shown, below."""
    across, up = figure.get_size_inches()
    lines = textwrap.wrap(" · ".join(notes), int((across - 0.6) / SMALL_LETTER), max_lines=NOTE_LINES, placeholder=" …")
    _fitted(figure, 0.1 / up, "\n".join(lines), SMALL, color=theme.muted, va="bottom")


def _fitted(figure: Figure, y: float, content: str, size: float, **style: Any) -> None:
    """A text as wide as the figure at most: smaller where it is longer, down to TINY, then cut."""
    x = 0.3 / figure.get_size_inches()[0]
    text = figure.text(x, y, content, size=size, **style)
    ratio = figure.bbox.width * (1 - 2 * x) / max(1.0, text.get_window_extent().width)
    if ratio < 1:
        smaller = max(TINY, size * ratio * 0.99)
        text.set_fontsize(smaller)
        most = int(max(map(len, content.split("\n"))) * ratio * size / smaller * 0.97)
        text.set_text("\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in content.split("\n")))


def alternative(scene: Scene, kind: str) -> str:
    """What the picture shows, for those who cannot see it."""
    what = {
        "roofline": "Roofline: each convolution's rate over its arithmetic intensity, under the machine's roofs",
        "model": "Measured time over modelled time of each convolution, both axes logarithmic",
        "speedup": "Speed-up of backends and algorithms, problem by problem",
        "phases": "Share of each phase in the time of each convolution",
        "network": "Time of whole networks by pass",
        "ceilings": "Bandwidth over the size of the working set",
    }[kind]
    rows = "" if kind == "ceilings" else f"; {len(scene.rows)} rows of {scene.title}"
    return f"{what}{rows}. {scene.subtitle}".replace("\n", "; ")


def encoded(figure: Figure, title: str, text: str, suffix: str) -> bytes:
    """The figure as a file's content: no date, no random identifiers; its title and alternative text are inside."""
    metadata: dict[str, str | None] = {
        ".svg": {"Title": title, "Date": None, "Creator": None},
        ".png": {"Title": title, "Description": text, "Software": None},
        ".pdf": {"Title": title, "Subject": text, "CreationDate": None, "Creator": None, "Producer": None},
    }[suffix]
    content = io.BytesIO()
    figure.savefig(content, format=suffix[1:], dpi=PNG_DPI if suffix == ".png" else "figure", metadata=metadata)
    if suffix != ".svg":
        return content.getvalue()
    drawn = content.getvalue().decode()
    described = f"</title>\n <desc>{html.escape(text)}</desc>"
    return drawn.replace("</title>", described, 1).replace("<svg ", '<svg role="img" ', 1).encode()
