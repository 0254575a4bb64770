"""What convbench raises on purpose: one clear line for the person at the keyboard."""


class ConvbenchError(Exception):
    """Something the user can mend; its text is one `printable` line, and the command ends with `exit_code`."""

    exit_code = 1

    def __init__(self, text: object) -> None:
        super().__init__(printable(str(text)))


class InputError(ConvbenchError):
    """A value, file or name given by the user is not acceptable."""


class NotComparableError(ConvbenchError):
    """Two runs say nothing about each other: another machine, method or setting."""

    exit_code = 4


class UnsupportedError(ConvbenchError):
    """A backend cannot do this case; the text becomes the row's reason."""


def shown(value: object) -> str:
    """`repr` for a message: short, and for whatever a file can hold."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of over 4300 digits, tables nested a thousand deep
        return f"a value of type {type(value).__name__} too large to print"
    return text if len(text) <= 200 else f"{text[:199]}…"


def printable(text: str) -> str:
    r"""The text in one line that a terminal shows as it is: white space as a space, what cannot be seen escaped.

    >>> printable("one\n\x1b[31mtwo")
    'one \\x1b[31mtwo'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text.replace("\r\n", "\n")
    )


def unknown_name(kind: str, name: str, known: list[str], *, where: str = "") -> InputError:
    """An error for a name that is not in `known`, with the nearest of them first."""
    import difflib

    near = difflib.get_close_matches(name[:80], known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(sorted(known))}"
    return InputError(f"unknown {kind} {shown(name)}{where}; {hint}")
