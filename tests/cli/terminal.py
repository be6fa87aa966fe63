"""What a terminal shows of what was written to it."""

import io
import re


def shown(written: str) -> list[str]:
    """Its lines down to that of the cursor, as a terminal of any size understands them."""
    lines, row, column = [""], 0, 0
    for move, letter in re.findall("\x1b\\[[0-9;?]*([A-Za-z])|([^\x1b])", written):
        if move == "A":
            row -= 1
        elif move == "K":
            lines[row] = ""
        elif letter == "\r":
            column = 0
        elif letter == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + len(letter) :]
            column += len(letter)
    return lines[: row + 1]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        return shown(self.getvalue())

    @property
    def screen(self) -> list[str]:
        """What it shows, without what moves before the text."""
        return [re.sub("^[-\\\\|/] (━[━╸╺]* )?", "", line).rstrip() for line in self.shown]
