"""Answers to the open questions: how they are written, read, and shown; docs/gpu.md has a table of them.

    python benchmarks/gpu/answers.py docs/gpu.md reports/h200

fills in the table of docs/gpu.md from a report, or, without a folder, with "not measured yet".
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

QUESTIONS = {
    1: ("Does cuDNN run FFT and Winograd on this GPU, by graph and by its older calls?", ("fft", "legacy")),
    2: ("Are lists of plans without a device equal to a device's?", ("deviceless",)),
    3: ("What do events read around nothing, and around an empty kernel?", ("floor",)),
    4: ("What does one call of cuDNN cost the host, and does every plan survive graph capture?", ("plans",)),
    5: ("Are the plans that remain when TF32 is barred really fp32, by error?", ("plans",)),
    6: ("Complex TF32 and three-multiplication products in cuBLAS: accepted, how fast, how wrong?", ("products",)),
    7: (
        "How near do our own FFT kernels come to what they have to move, and how do they stand against cuFFT?",
        ("own-kernels",),
    ),
    8: ("How many kernels does cuFFT launch for a small batch, and do overlapping inputs work?", ("transforms",)),
    9: ("Which kernels are behind cuDNN's plans?", ("kernels",)),
    10: ("Does sweeping L2 by writes or by reads change cold times?", ("sweep",)),
}
"""By number: the question, and the programs of questions.py that answer it."""
NOT_YET = "not measured yet"
BEGIN, END = "<!-- answers -->", "<!-- end of answers -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was found out.

    Attributes:
        question: its number.
        program: that answered it.
        sentence: the answer, in words.
        data: the figures behind it.
    """

    question: int
    program: str
    sentence: str
    data: Any = None


def write(answers: Iterable[Answer], path: Path) -> None:
    """One JSON line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(answer), default=str) + "\n" for answer in answers), encoding="utf-8")


def read(folder: Path) -> list[Answer]:
    """All answers of a report, by question."""
    found = [
        Answer(**json.loads(line))
        for path in sorted((folder / "answers").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return sorted(found, key=lambda answer: answer.question)


def table(answers: Iterable[Answer]) -> list[str]:
    """All questions with their answers, in Markdown."""
    known: dict[int, list[str]] = {}
    for answer in answers:
        known.setdefault(answer.question, []).append(answer.sentence)
    lines = ["| | question | answer | answered by |", "|---:|---|---|---|"]
    for number, (question, programs) in QUESTIONS.items():
        commands = ", ".join(f"`questions.py {program}`" for program in programs)
        text = " ".join(known.get(number, [NOT_YET])).replace("|", "/")
        lines.append(f"| {number} | {question} | {text} | {commands} |")
    return lines


def filled(text: str, answers: Iterable[Answer]) -> str:
    """A document with its table as the answers say."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"the document has no {BEGIN} … {END}")
    return "\n".join([before + BEGIN, *table(answers), END + after])


def main() -> None:
    """Fills in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", help="of a report")
    arguments = parser.parse_args()
    if arguments.folder and not (arguments.folder / "answers").is_dir():
        raise SystemExit(f"{arguments.folder} holds no answers of a report: the table is left as it is")
    answers = read(arguments.folder) if arguments.folder else []
    text = filled(arguments.document.read_text(encoding="utf-8"), answers)
    arguments.document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
