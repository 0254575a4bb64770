"""Runs as pictures: what is drawn, and in which formats. How to read each: docs/plots.md.

`scene` chooses and checks, `terminal` draws with characters; the other modules draw with matplotlib, which only they
load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convbench.compare import Compared
    from convbench.render.plot.scene import Scene

SCENE_KINDS = ("roofline", "model", "speedup", "phases", "network", "ceilings")
"""Of the rows of a scene; a comparison is of two runs."""
KINDS = (*SCENE_KINDS, "comparison")
SUFFIXES = (".svg", ".png", ".pdf")
THEMES = ("light", "dark")


def picture(scene: Scene, kind: str, suffix: str, theme: str = "light") -> bytes:
    """The plot as a file's content, the same bytes each time.

    Raises:
        InputError: the scene lacks what this kind shows, or has more than one picture can hold.
    """
    from convbench.render.plot.facts import titled
    from convbench.render.plot.style import THEME, alternative, drawing, encoded

    with drawing(THEME[theme]):
        title = f"{titled(scene, kind).title}: {kind}"
        return encoded(draw(scene, kind, theme), title, alternative(scene, kind), suffix)


def comparison_picture(compared: Compared, title: str, suffix: str, theme: str = "light") -> bytes:
    """The ratios of two runs as a file's content, the same bytes each time; a header alone where no row has one."""
    from convbench.render.plot.comparison import draw
    from convbench.render.plot.ratios import ratios_of
    from convbench.render.plot.style import THEME, drawing, encoded

    ratios = ratios_of(compared, title)
    with drawing(THEME[theme]):
        return encoded(draw(ratios, THEME[theme]), f"{title}: comparison", ratios.alternative, suffix)


def draw(scene: Scene, kind: str, theme: str = "light") -> Figure:
    """The plot as matplotlib's figure; to be called within `style.drawing`.

    Raises:
        InputError: as `picture`.
    """
    from convbench.render.plot import bars, ceilings, model, roofline
    from convbench.render.plot.style import THEME

    kinds = {
        "roofline": roofline.draw, "model": model.draw, "speedup": bars.draw_speedup, "phases": bars.draw_phases,
        "network": bars.draw_network, "ceilings": ceilings.draw,
    }  # fmt: skip
    return kinds[kind](scene, THEME[theme])
