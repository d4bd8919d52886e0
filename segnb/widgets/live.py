"""A picture that follows its sliders."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from segnb.errors import SegnbError
from segnb.plots import Picture


def live(draw: Callable[..., Picture], controls: Mapping[str, Any]) -> Any:
    """Controls above a picture that is drawn again whenever one of them changes.

    A picture is drawn whole before the old one gives way to it. Where ``draw`` fails, what went
    wrong stands in the picture's place: a sentence for a :class:`SegnbError` or ``ValueError``,
    the traceback for all else.

    Args:
        draw: Called with the controls' values by name; also what the cell after the widget calls
            with plain variables.
        controls: Widgets with a ``value``. Give sliders ``continuous_update=False``, so that one
            move asks for one picture.

    Returns:
        The widget.
    """
    import ipywidgets
    from IPython.display import clear_output, display

    output = ipywidgets.Output()

    def redraw(_: object = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        with output:
            try:
                picture = draw(**values)
            except (SegnbError, ValueError) as error:
                clear_output(wait=True)
                print(f"No picture: {error}")
            except Exception:
                clear_output(wait=True)
                print(traceback.format_exc())
            else:
                clear_output(wait=True)
                display(picture)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*controls.values(), output])


__all__ = ["live"]
