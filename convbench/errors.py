"""What convbench raises on purpose: one clear line for the person at the keyboard."""


class ConvbenchError(Exception):
    """Something the user can mend; its text is one line, and the command ends with exit code 1."""


class InputError(ConvbenchError):
    """A value, file or name given by the user is not acceptable."""


class UnsupportedError(ConvbenchError):
    """A backend cannot do this case; the text becomes the row's reason."""


def unknown_name(kind: str, name: str, known: list[str], *, where: str = "") -> InputError:
    """An error for a name that is not in `known`, with the nearest of them first."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(sorted(known))}"
    return InputError(f"unknown {kind} {name!r}{where}; {hint}")
