"""A picture that follows its sliders."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segnb.errors import SegnbError
from segnb.plots import Picture


def live(draw: Callable[..., Picture | Sequence[Any]], controls: Mapping[str, Any]) -> Any:
    """Controls above a picture that is redrawn whenever one of them changes.

    The old picture stays until the new one is complete. If ``draw`` fails, an error message
    replaces the picture: a sentence for a :class:`SegnbError` or ``ValueError``, else the
    traceback.

    Args:
        draw: Called with the controls' values by name; the cell after the widget can call it with
            plain variables. It returns a picture, or several things to show below one another,
            the slowest first: the old ones go when the first is there.
        controls: Widgets with a ``value``. Give sliders ``continuous_update=False``, so that each
            move draws only one picture.

    Returns:
        The widget.
    """
    import ipywidgets
    from IPython.display import clear_output, display

    output = ipywidgets.Output()

    def redraw(_: object = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        with output:
            shown: Picture | Sequence[Any]
            try:
                shown = draw(**values)
            except (SegnbError, ValueError) as error:
                shown = f"No picture: {error}"
            except Exception:
                shown = traceback.format_exc()
            clear_output(wait=True)
            if isinstance(shown, str):
                print(shown)
            else:
                display(*(shown if isinstance(shown, Sequence) else [shown]))

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*controls.values(), output])
